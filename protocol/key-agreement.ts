/**
 * Key agreement (protocol.md §3): X3DH (suite 1) and PQXDH (suite 2).
 *
 * Both sides compute the same Diffie-Hellman outputs, in the order of the specification, and from them the secret that the
 * ratchet starts with. PQXDH has one more secret behind them, that of ML-KEM, and its own info.
 */
import { asciiBytes, concat, label } from "./bytes.ts";
import { agreementPublicKey, type Identity } from "./identity.ts";
import type { KeyPair, Primitives } from "./primitives/primitives.ts";
import { Refusal } from "./refusal.ts";

const SESSION_LABEL = label("sealpost/v1/session");
const SESSION_ID_BYTES = 16;
const SECRET_BYTES = 32;

/** Keeps the input apart from that of a hash over one point, as in X3DH §2.2. */
const IKM_PREFIX = new Uint8Array(32).fill(0xff);
const ZERO_SALT = new Uint8Array(32);
const X3DH_INFO = asciiBytes("sealpost/v1/x3dh");
const PQXDH_INFO = asciiBytes("sealpost/v1/pqxdh-mlkem768");

/** The responder's public keys: the checked ones of a bundle. */
export interface ResponderKeys {
  readonly identityKey: Uint8Array;
  readonly signedPrekey: Uint8Array;
  readonly oneTimePrekey: Uint8Array | null;
}

/** The initiator's public keys: the checked ones of an initiation. */
export interface InitiatorKeys {
  readonly identityKey: Uint8Array;
  readonly ephemeralKey: Uint8Array;
}

/** The private halves of the prekeys that an initiation names. */
export interface ResponderPrekeys {
  readonly signedPrekey: KeyPair;
  readonly oneTimePrekey: KeyPair | null;
}

/** DH1 to DH3, or DH4 with a one-time prekey, as A computes them (§3). Refuses `bad-key`. */
export function initiatorOutputs(
  primitives: Primitives,
  me: Identity,
  ephemeral: KeyPair,
  peer: ResponderKeys,
): Uint8Array[] {
  return [
    agree(primitives, me.agreement, peer.signedPrekey),
    agree(primitives, ephemeral, agreementPublicKey(peer.identityKey)),
    agree(primitives, ephemeral, peer.signedPrekey),
    ...(peer.oneTimePrekey === null ? [] : [agree(primitives, ephemeral, peer.oneTimePrekey)]),
  ];
}

/** The same as B computes them (§3). Refuses `bad-key`. */
export function responderOutputs(
  primitives: Primitives,
  me: Identity,
  prekeys: ResponderPrekeys,
  peer: InitiatorKeys,
): Uint8Array[] {
  return [
    agree(primitives, prekeys.signedPrekey, agreementPublicKey(peer.identityKey)),
    agree(primitives, me.agreement, peer.ephemeralKey),
    agree(primitives, prekeys.signedPrekey, peer.ephemeralKey),
    ...(prekeys.oneTimePrekey === null ? [] : [agree(primitives, prekeys.oneTimePrekey, peer.ephemeralKey)]),
  ];
}

/**
 * `SK`: of suite 2 with the KEM's shared secret, of suite 1 without one. The outputs and the KEM's secret are wiped.
 */
export function agreedSecret(
  primitives: Primitives,
  outputs: readonly Uint8Array[],
  kemSecret: Uint8Array | null,
): Uint8Array {
  const inputs = kemSecret === null ? outputs : [...outputs, kemSecret];
  const ikm = concat(IKM_PREFIX, ...inputs);
  for (const input of inputs) input.fill(0);
  const secret = primitives.hkdfSha256(ikm, ZERO_SALT, kemSecret === null ? X3DH_INFO : PQXDH_INFO, SECRET_BYTES);
  ikm.fill(0);
  return secret;
}

/** The first 16 bytes of SHA-256(label ‖ IK_A ‖ IK_B ‖ EK). */
export function sessionIdOf(
  primitives: Primitives,
  initiator: InitiatorKeys,
  responderIdentityKey: Uint8Array,
): Uint8Array {
  const names = concat(SESSION_LABEL, initiator.identityKey, responderIdentityKey, initiator.ephemeralKey);
  return primitives.sha256(names).slice(0, SESSION_ID_BYTES);
}

/** X25519 whose all-zero output is refused (`bad-key`), here and in the ratchet. */
export function agree(primitives: Primitives, own: KeyPair, publicKey: Uint8Array): Uint8Array {
  const output = primitives.x25519(own, publicKey);
  if (output === null) throw new Refusal("bad-key");
  return output;
}
