/**
 * What encryption tells the world. Pure.
 */
import { isTimely, messageIdTime } from "../../protocol/message-id.ts";
import type {
  Delegation,
  ItemKind,
  MessageDiscarded,
  MessageEncrypted,
  MessageReceipt,
  MessageSend,
  ReceiptItem,
} from "../../schemas/values.ts";
import type { DiscardedCommand } from "../../store/custody/discarded.ts";
import type { Rule } from "../../store/permissions.ts";
import { messageDiscarded, messageEncrypted, messageReceipt } from "../../streams/catalogue.ts";
import type { DeadLetter, Emit, Inbound, Rejected } from "../../streams/consumer.ts";

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

/** What the world is told, and what is kept for its sender to ask for: under one code, and of one time. */
export interface Discard {
  readonly emit: Emit<MessageDiscarded>;
  readonly row: DiscardedCommand;
}

export function discard(record: Inbound<MessageSend>, code: string): Discard {
  return discardOf(record, idsOf(record), code, null);
}

/** Its recipient does not let its sender speak any more. A receipt of it has the rule for its code (consumers/receipts), and so has what is kept. */
export function discardByRule(record: Inbound<MessageSend>, rule: Rule): Discard {
  return discardOf(record, idsOf(record), "not-allowed", rule);
}

function discardOf(record: Caused, ids: Ids, code: string, rule: Rule | null): Discard {
  const emit = discarded(record, ids, code, { detail: rule });
  return { emit, row: { ...ids, code: rule ?? code, discardedAt: record.timestamp } };
}

function idsOf({ value: { messageId, senderId, recipientId } }: Inbound<MessageSend>): Ids {
  return { messageId, senderId, recipientId };
}

/** Another content under a used id. Its HMAC tells it from the message of that id, which goes on; null when it does not open. */
export function reusedEvent(record: Inbound<MessageSend>, hmac: Uint8Array | null): Emit<MessageDiscarded> {
  return discarded(record, idsOf(record), "id-reused", { digest: hmac });
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

/** The sender of a dead letter was told that it was accepted. */
export function toLament(record: Rejected, code: string): readonly Emit[] {
  const lost = discardOfLetter(record, code);
  return lost === null ? [] : [lost.emit];
}

/** What is kept of dead letters. What has a time in its id that no sender may name is told and not kept: a day would be made for it. */
export function toBury(letters: readonly DeadLetter[]): readonly DiscardedCommand[] {
  return letters.flatMap(({ record, code }) => {
    const lost = discardOfLetter(record, code);
    return lost === null || !isTimely(lost.row.messageId, record.timestamp) ? [] : [lost.row];
  });
}

/** Who and what is known from key and subject; they must agree. */
function discardOfLetter(record: Rejected, code: string): Discard | null {
  const [, subjectId, messageId] = subject.exec(record.headers["ce_subject"] ?? "") ?? [];
  const [, senderId, recipientId] = pairKey.exec(record.key) ?? [];
  if (messageId === undefined || senderId === undefined || recipientId === undefined) return null;
  if (subjectId !== senderId) return null;
  const { topic, partition, offset, timestamp } = record;
  const cause = { topic: { name: topic }, partition, offset };
  return discardOf({ ...cause, timestamp }, { messageId, senderId, recipientId }, code, null);
}

type Ids = Pick<MessageDiscarded, "messageId" | "senderId" | "recipientId">;

type Caused = Emit["cause"] & { readonly timestamp: number };

function discarded(
  cause: Caused,
  ids: Ids,
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
