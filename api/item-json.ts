/** A mailbox item as JSON: the same in a poll's answer and in an event. */
import { decodeEnvelope, type EnvelopeJson, envelopeToJson } from "../protocol/envelope.ts";
import type { StoredItem } from "../store/mailbox.ts";

/** What was accepted under an operator's older, larger limit is still handed out. */
const anySize = { ciphertextBytesMax: Number.POSITIVE_INFINITY };

export function itemToJson({ seq, kind, senderId, itemId, body }: StoredItem): Record<string, unknown> {
  const content =
    kind === "message" ? { envelope: envelopeJson(body) } : { retry: JSON.parse(Buffer.from(body).toString("utf8")) };
  return { seq, kind, sender_id: senderId, item_id: itemId, ...content };
}

/** The platform encodes a long ciphertext a hundred times as fast as the codec; both spell it the one right way. */
function envelopeJson(body: Uint8Array): EnvelopeJson {
  const envelope = decodeEnvelope(body, anySize);
  const json = envelopeToJson({ ...envelope, ciphertext: new Uint8Array() }, anySize);
  return { ...json, ciphertext: Buffer.from(envelope.ciphertext).toString("base64url") };
}
