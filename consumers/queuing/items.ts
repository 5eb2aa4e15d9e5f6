/**
 * Which items may enter a mailbox, and as what. Pure.
 *
 * Ingress has checked the same; here the log is not believed, because a wrong item would stay in a mailbox for 30 days.
 */
import { decodeEnvelope } from "../../protocol/envelope.ts";
import { isAgentId } from "../../protocol/identity.ts";
import { isTimely, messageIdTime } from "../../protocol/message-id.ts";
import { Refusal } from "../../protocol/refusal.ts";
import { retryRequestFromJson } from "../../protocol/retry-request.ts";
import { decodeUtf8 } from "../../protocol/utf8.ts";
import type { Delegation, MessageEncrypted } from "../../schemas/values.ts";
import type { Arrival } from "../../store/queuing.ts";
import type { Inbound } from "../../streams/consumer.ts";

/** How large a message may be is decided at ingress; a record cannot be larger than this. */
const anySize = { ciphertextBytesMax: 1024 * 1024 };

type ItemFault = "malformed" | "item-mismatch" | "id-time-mismatch";

/** @throws Refusal `malformed`, `item-mismatch` or `id-time-mismatch` */
export function checkItem({ key, timestamp, value }: Inbound<MessageEncrypted>): void {
  if (key !== value.recipientId) throw new Refusal<ItemFault>("item-mismatch");
  if (value.kind === "message") checkMessage(value);
  else checkRetry(value);
  if (messageIdTime(value.itemId) === null) throw new Refusal<ItemFault>("malformed");
  if (!isTimely(value.itemId, timestamp)) throw new Refusal<ItemFault>("id-time-mismatch");
}

function checkMessage(item: MessageEncrypted): void {
  const envelope = decodeEnvelope(item.body, anySize);
  if (
    envelope.messageId !== item.itemId ||
    envelope.senderId !== item.senderId ||
    envelope.recipientId !== item.recipientId
  ) {
    throw new Refusal<ItemFault>("item-mismatch");
  }
}

/** A retry request goes from the failed message's recipient to its sender. */
function checkRetry(item: MessageEncrypted): void {
  const request = retryRequestFromJson(jsonOf(item.body));
  if (!isAgentId(item.senderId) || !isAgentId(item.recipientId)) throw new Refusal<ItemFault>("malformed");
  if (request.recipientId !== item.senderId || request.senderId !== item.recipientId) {
    throw new Refusal<ItemFault>("item-mismatch");
  }
}

function jsonOf(body: Uint8Array): unknown {
  const text = decodeUtf8(body);
  try {
    if (text !== null) return JSON.parse(text);
  } catch {
    // Refused below, like text that is none.
  }
  throw new Refusal<ItemFault>("malformed");
}

/** An arrival and the record that brought it. */
export interface Item extends Arrival {
  readonly record: Inbound<MessageEncrypted>;
  /** As its record has it: what is told of an item tells this, too. */
  readonly delegation: readonly Delegation[];
}

/** Of a record that `checkItem` let through. */
export function toArrival(record: Inbound<MessageEncrypted>): Item {
  const { kind, itemId, senderId, recipientId, custody, body, delegation = [] } = record.value;
  const item = { record, kind, itemId, senderId, recipientId, custody, body, delegation, acceptedAt: record.timestamp };
  if (kind === "retry") return { ...item, sessionId: new Uint8Array(0), sendCounter: 0, size: body.length };
  const envelope = decodeEnvelope(body, anySize);
  return {
    ...item,
    sessionId: envelope.sessionId,
    sendCounter: envelope.sendCounter,
    size: envelope.ciphertext.length,
  };
}
