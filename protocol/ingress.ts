/**
 * Ingress sealing, for agents whose keys the service holds: content is sealed to the encryption tier's key of the epoch before it goes anywhere,
 * by the SDK or, for callers that do not seal themselves, by the API.
 *
 *   sealed = u8(1) ‖ u32(epoch) ‖ encapsulated(32) ‖ ciphertext ‖ tag(16)
 *   HPKE base mode (protocol/hpke.ts), info empty,
 *   aad    = label("sealpost/v1/ingress") ‖ lp(sender_id) ‖ lp(recipient_id) ‖ message_id(16) ‖ u32(epoch)
 *
 * So sealed content cannot be moved to another command, and it opens only while the epoch's private key exists.
 */
import { ByteReader, ByteWriter, EMPTY, label } from "./bytes.ts";
import { ENCAPSULATED_BYTES, HPKE_TAG_BYTES, hpkeOpen, hpkeSeal } from "./hpke.ts";
import { DAY_MS } from "./limits.ts";
import type { KeyPair, Primitives, Random } from "./primitives/primitives.ts";
import { Refusal } from "./refusal.ts";
import { UUID_BYTES, uuidToBytes } from "./uuid.ts";

const AAD_LABEL = label("sealpost/v1/ingress");
const FORM = 1;
const EPOCH_BYTES = 4;
const LENGTH_BYTES = 2;
const HEAD_BYTES = 1 + EPOCH_BYTES + ENCAPSULATED_BYTES;

/** Bytes that sealing adds to a content. */
export const INGRESS_OVERHEAD_BYTES = HEAD_BYTES + HPKE_TAG_BYTES;

/** The command that content belongs to. Ids as text. */
export interface IngressCommand {
  readonly senderId: string;
  readonly recipientId: string;
  readonly messageId: string;
}

/** What content is sealed to: the X25519 public key (32 bytes) of an epoch. */
export interface IngressKey {
  readonly epoch: number;
  readonly publicKey: Uint8Array;
}

/** The epoch of a time: days since 1970-01-01 (UTC). */
export function epochOf(ms: number): number {
  return Math.floor(ms / DAY_MS);
}

/** @throws Refusal `bad-key` for a public key that leads nowhere */
export async function sealIngress(
  primitives: Primitives,
  random: Random,
  key: IngressKey,
  command: IngressCommand,
  content: Uint8Array,
): Promise<Uint8Array> {
  const bound = { info: EMPTY, aad: aadOf(command, key.epoch) };
  const { encapsulated, ciphertext } = hpkeSeal(primitives, random, key.publicKey, content, bound);
  return new ByteWriter(HEAD_BYTES + ciphertext.length)
    .u8(FORM)
    .u32(key.epoch)
    .bytes(encapsulated)
    .bytes(ciphertext)
    .finish();
}

/**
 * The epoch that content was sealed in, as its sealing says; `openIngress` proves it.
 *
 * @throws Refusal `malformed`
 */
export function ingressEpoch(sealed: Uint8Array): number {
  const reader = new ByteReader(sealed);
  if (sealed.length < INGRESS_OVERHEAD_BYTES || reader.u8() !== FORM) throw new Refusal("malformed");
  return reader.u32();
}

/**
 * `own`: the pair of the epoch that `ingressEpoch` names.
 *
 * @throws Refusal `malformed`, `bad-key`, and `auth-failed` for what was not sealed to this key for this command
 */
export async function openIngress(
  primitives: Primitives,
  own: KeyPair,
  command: IngressCommand,
  sealed: Uint8Array,
): Promise<Uint8Array> {
  const bound = { info: EMPTY, aad: aadOf(command, ingressEpoch(sealed)) };
  const encapsulated = sealed.slice(HEAD_BYTES - ENCAPSULATED_BYTES, HEAD_BYTES);
  return hpkeOpen(primitives, own, { encapsulated, ciphertext: sealed.subarray(HEAD_BYTES) }, bound);
}

function aadOf({ senderId, recipientId, messageId }: IngressCommand, epoch: number): Uint8Array {
  const size = AAD_LABEL.length + 2 * LENGTH_BYTES + senderId.length + recipientId.length + UUID_BYTES + EPOCH_BYTES;
  return new ByteWriter(size)
    .bytes(AAD_LABEL)
    .lpAscii(senderId)
    .lpAscii(recipientId)
    .bytes(uuidToBytes(messageId))
    .u32(epoch)
    .finish();
}
