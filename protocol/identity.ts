/**
 * Identities (protocol.md §1): an Ed25519 key pair, the id that proves it, and its other self in Diffie-Hellman.
 *
 * An agent id is the thumbprint of its key, so a key that was checked against an id needs no further trust.
 */
import { ed25519 } from "@noble/curves/ed25519.js";
import { encodeBase64Url } from "./base64url.ts";
import { asciiBytes } from "./bytes.ts";
import { type KeyPair, type Primitives, type Random, x25519PairFrom } from "./primitives/primitives.ts";
import { Refusal } from "./refusal.ts";

const KEY_BYTES = 32;
const AGENT_ID = /^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/;

/** Characters of an agent id. */
export const AGENT_ID_LENGTH = 43;

export interface Identity {
  readonly agentId: string;
  /** Ed25519; the private key is the seed. */
  readonly signing: KeyPair;
  /** `x(IK)`: the same key as X25519. */
  readonly agreement: KeyPair;
}

export function createIdentity(primitives: Primitives, random: Random): Identity {
  return identityFromSeed(primitives, random(KEY_BYTES));
}

/** The identity of a 32-byte Ed25519 seed. */
export function identityFromSeed(primitives: Primitives, seed: Uint8Array): Identity {
  const publicKey = primitives.ed25519PublicKey(seed);
  return {
    agentId: agentIdOf(primitives, publicKey),
    signing: { publicKey, privateKey: seed },
    agreement: x25519PairFrom(primitives, agreementPrivateKey(primitives, seed)),
  };
}

/** The id of an identity key: its RFC 7638 thumbprint. The key is not checked. */
export function agentIdOf(primitives: Primitives, identityKey: Uint8Array): string {
  const jwk = `{"crv":"Ed25519","kty":"OKP","x":"${encodeBase64Url(identityKey)}"}`;
  return encodeBase64Url(primitives.sha256(asciiBytes(jwk)));
}

/** Could it be the id of some key? The one right spelling of 32 bytes. */
export function isAgentId(text: string): boolean {
  return AGENT_ID.test(text);
}

/** Refuses (`identity-key-invalid`) what is not the canonical encoding of a point of prime order. */
export function checkIdentityKey(identityKey: Uint8Array): void {
  if (!isPrimeOrderPoint(identityKey)) throw new Refusal("identity-key-invalid");
}

/** Refuses a key that is invalid (`identity-key-invalid`) or not the one of this id (`identity-mismatch`). */
export function checkIdentity(primitives: Primitives, agentId: string, identityKey: Uint8Array): void {
  checkIdentityKey(identityKey);
  if (agentIdOf(primitives, identityKey) !== agentId) throw new Refusal("identity-mismatch");
}

/** `x(IK)` of a checked public key: the birational map of RFC 7748 §4.1. */
export function agreementPublicKey(identityKey: Uint8Array): Uint8Array {
  return ed25519.utils.toMontgomery(identityKey);
}

function agreementPrivateKey(primitives: Primitives, seed: Uint8Array): Uint8Array {
  const digest = primitives.sha512(seed);
  const scalar = digest.slice(0, KEY_BYTES);
  digest.fill(0);
  scalar[0] = (scalar[0] as number) & 0xf8;
  scalar[31] = ((scalar[31] as number) & 0x7f) | 0x40;
  return scalar;
}

function isPrimeOrderPoint(encoded: Uint8Array): boolean {
  if (encoded.length !== KEY_BYTES) return false;
  try {
    const point = ed25519.Point.fromBytes(encoded, false);
    return !point.is0() && point.isTorsionFree();
  } catch {
    // noble throws for every encoding that is no canonical point.
    return false;
  }
}
