/**
 * Signing keys (protocol.md §9): further Ed25519 keys that sign an agent's requests, so that several workers act for one agent and the key
 * that certifies them can stay offline.
 *
 * A key speaks for an agent when two signatures over the same facts hold: the certificate, by the agent's own key, and the proof, by the
 * signing key itself. Without the proof an agent could claim the key of somebody else, and what that one signs.
 */
import { ByteWriter, label } from "./bytes.ts";
import { AGENT_ID_LENGTH } from "./identity.ts";
import type { KeyPair, Primitives } from "./primitives/primitives.ts";

const KEY_BYTES = 32;

const LABELS = {
  certificate: label("sealpost/v1/signing-key"),
  proof: label("sealpost/v1/signing-key-proof"),
} as const;

/** What both signatures cover. */
export interface SigningKeyFacts {
  readonly agentId: string;
  /** Ed25519, checked (`checkIdentityKey`). */
  readonly publicKey: Uint8Array;
  /** Milliseconds; from then on the key signs nothing. */
  readonly notAfter: number;
}

type Kind = keyof typeof LABELS;

/** `label(…) ‖ lp(agent id) ‖ public key(32) ‖ u64(not_after)` */
function signedBytes(kind: Kind, { agentId, publicKey, notAfter }: SigningKeyFacts): Uint8Array {
  return new ByteWriter(LABELS[kind].length + 2 + AGENT_ID_LENGTH + KEY_BYTES + 8)
    .bytes(LABELS[kind])
    .lpAscii(agentId)
    .bytes(publicKey)
    .u64(notAfter)
    .finish();
}

/** `signer`: of the certificate the agent's identity key (where the service holds that, its access key), of the proof the signing key. */
export function signSigningKey(
  primitives: Primitives,
  kind: Kind,
  signer: KeyPair,
  facts: SigningKeyFacts,
): Uint8Array {
  return primitives.ed25519Sign(signer, signedBytes(kind, facts));
}

/** `signerKey` has been checked. */
export function isSigningKeySigned(
  primitives: Primitives,
  kind: Kind,
  signerKey: Uint8Array,
  facts: SigningKeyFacts,
  signature: Uint8Array,
): boolean {
  return primitives.ed25519Verify(signerKey, signedBytes(kind, facts), signature);
}
