/**
 * What encryption tells the world. Pure.
 */
import { messageIdTime } from "../../protocol/message-id.ts";
import type {
  Delegation,
  ItemKind,
  MessageDiscarded,
  MessageEncrypted,
  MessageReceipt,
  MessageSend,
  ReceiptItem,
} from "../../schemas/values.ts";
import type { Rule } from "../../store/permissions.ts";
import { messageDiscarded, messageEncrypted, messageReceipt } from "../../streams/catalogue.ts";
import type { Emit, Inbound, Rejected } from "../../streams/consumer.ts";

/**
 * `body`: canonical bytes, or a retry request's JSON. `delegation`: the chain under which this was said first. A repeat has the same, and another `ce_id`: queuing knows it by its digest, and a request that waits by
 * its id.
 */
export function encryptedEvent(
  record: Inbound<MessageSend>,
  body: Uint8Array,
  delegation: readonly Delegation[],
): Emit<MessageEncrypted> {
  const { messageId: itemId, senderId, recipientId } = record.value;
  const kind: ItemKind = record.value.kind === "retry" ? "retry" : "message";
  return {
    topic: messageEncrypted,
    key: recipientId,
    cause: record,
    time: messageIdTime(itemId) ?? record.timestamp,
    subject: `${senderId}/${itemId}`,
    value: () => ({ kind, itemId, senderId, recipientId, custody: "server", body, delegation }),
  };
}

export function discardedEvent(record: Inbound<MessageSend>, code: string): Emit<MessageDiscarded> {
  const { messageId, senderId, recipientId } = record.value;
  return discarded(record, { messageId, senderId, recipientId }, code);
}

/** Its recipient does not let its sender speak any more. */
export function notAllowedEvent(record: Inbound<MessageSend>, rule: Rule): Emit<MessageDiscarded> {
  const { messageId, senderId, recipientId } = record.value;
  return discarded(record, { messageId, senderId, recipientId }, "not-allowed", { detail: rule });
}

/** Another content under a used id. Its HMAC tells it from the message of that id, which goes on; null when it does not open. */
export function reusedEvent(record: Inbound<MessageSend>, hmac: Uint8Array | null): Emit<MessageDiscarded> {
  const { messageId, senderId, recipientId } = record.value;
  return discarded(record, { messageId, senderId, recipientId }, "id-reused", { digest: hmac });
}

/** The end of the item that a command is about, in the mailbox of the agent that the command is from. */
export function settledEvent(
  record: Inbound<MessageSend>,
  itemId: string,
  { outcome, code }: Pick<ReceiptItem, "outcome" | "code">,
): Emit<MessageReceipt> {
  const { senderId: recipientId, recipientId: senderId } = record.value;
  const at = record.timestamp;
  return {
    topic: messageReceipt,
    key: recipientId,
    cause: record,
    time: at,
    subject: recipientId,
    value: () => ({ recipientId, items: [{ outcome, senderId, itemId, at, door: "none", code }] }),
  };
}

const subject = /^([A-Za-z0-9_-]{43})\/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$/;
const pairKey = /^([A-Za-z0-9_-]{43}):([A-Za-z0-9_-]{43})$/;

/** The sender of a dead letter was told that it was accepted. Who and what is known from key and subject; they must agree. */
export function toLament(record: Rejected, code: string): readonly Emit[] {
  const [, subjectId, messageId] = subject.exec(record.headers["ce_subject"] ?? "") ?? [];
  const [, senderId, recipientId] = pairKey.exec(record.key) ?? [];
  if (messageId === undefined || senderId === undefined || recipientId === undefined) return [];
  if (subjectId !== senderId) return [];
  const { topic, partition, offset, timestamp } = record;
  const cause = { topic: { name: topic }, partition, offset };
  return [discarded({ ...cause, timestamp }, { messageId, senderId, recipientId }, code)];
}

function discarded(
  cause: Emit["cause"] & { readonly timestamp: number },
  ids: Pick<MessageDiscarded, "messageId" | "senderId" | "recipientId">,
  code: string,
  { detail = null, digest = null }: { readonly detail?: string | null; readonly digest?: Uint8Array | null } = {},
): Emit<MessageDiscarded> {
  const at = cause.timestamp;
  return {
    topic: messageDiscarded,
    key: ids.recipientId,
    cause,
    time: at,
    subject: `${ids.senderId}/${ids.messageId}`,
    value: (eventId) => ({ eventId, ...ids, code, detail, digest, discardedAt: at }),
  };
}
