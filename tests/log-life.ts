/**
 * A life of three mailboxes as the log tells it, for tests of folds: ends and marks of every kind, on messages and on retry requests.
 */
import { randomBytes } from "node:crypto";
import { encodeEnvelope } from "../protocol/envelope.ts";
import type { Fold, FoldedTable } from "../rebuild/folding.ts";
import type { MessageDiscarded, MessageQueued, MessageReceipt, ReceiptItem } from "../schemas/values.ts";
import * as topics from "../streams/catalogue.ts";
import type { Inbound } from "../streams/consumer.ts";
import type { Topic } from "../streams/topic.ts";
import { sampleAgentId, sampleItemId } from "./messaging.ts";

export const BEGIN = Date.UTC(2026, 5, 1, 10, 59, 59);

export const [alice, bob, carol] = [sampleAgentId(), sampleAgentId(), sampleAgentId()];

let offset = 0;

export function record<T>(topic: Topic<T>, key: string, value: T, timestamp = BEGIN): Inbound<T> {
  offset += 1;
  const headers = { ce_id: (value as { eventId?: string }).eventId ?? crypto.randomUUID() };
  return { topic, partition: 0, offset, key, value, headers, timestamp };
}

export interface Item extends MessageQueued {
  readonly queued: Inbound<MessageQueued>;
}

export function queued(fields: Partial<MessageQueued> & { readonly seq: number }): Item {
  const acceptedAt = fields.acceptedAt ?? BEGIN + fields.seq;
  const value: MessageQueued = {
    ...{ kind: "message", itemId: sampleItemId(acceptedAt), senderId: alice, recipientId: bob, custody: "agent" },
    ...{ sessionId: new Uint8Array(16).fill(7), sendCounter: fields.seq, size: 10, queuedAt: acceptedAt + 5 },
    ...{ body: randomBytes(10 + fields.seq), acceptedAt },
    ...fields,
  };
  return { ...value, queued: record(topics.messageQueued, value.recipientId, value, acceptedAt + 6) };
}

export function discarded(item: MessageQueued, code: string, fields: Partial<MessageDiscarded> = {}) {
  const { itemId: messageId, senderId, recipientId, seq, size } = item;
  const value: MessageDiscarded = {
    ...{ eventId: crypto.randomUUID(), messageId, senderId, recipientId, code, detail: null, digest: null },
    ...{ discardedAt: BEGIN + 900, seq, size, ...fields },
  };
  return record(topics.messageDiscarded, recipientId, value);
}

export function delivered(item: MessageQueued, deliveredAt = BEGIN + 500) {
  return record(topics.messageDelivered, item.recipientId, { ...deliveryOf(item), deliveredAt });
}

export function acknowledged(item: MessageQueued, acknowledgedAt = BEGIN + 700) {
  const value = { ...deliveryOf(item), deliveredAt: BEGIN + 500, acknowledgedAt };
  return record(topics.messageAcknowledged, item.recipientId, value);
}

function deliveryOf({ itemId: messageId, ...item }: MessageQueued) {
  const { senderId, recipientId, sessionId, sendCounter, seq, size, acceptedAt, queuedAt, custody } = item;
  return {
    ...{ eventId: crypto.randomUUID(), messageId, senderId, recipientId, sessionId, sendCounter, seq, size, custody },
    ...{ acceptedAt, queuedAt, door: "stream" as const },
  };
}

export function marked(item: MessageQueued, what: "set-aside" | "undeliverable", at: number): Inbound<unknown> {
  const { itemId: messageId, senderId, recipientId, seq, acceptedAt, queuedAt } = item;
  const who = { eventId: crypto.randomUUID(), messageId, senderId, recipientId, seq };
  return what === "set-aside"
    ? record(topics.messageSetAside, recipientId, { ...who, setAsideAt: at })
    : record(topics.messageUndeliverable, recipientId, { ...who, acceptedAt, queuedAt, undeliverableAt: at });
}

export function retried(item: MessageQueued, wasSetAside: boolean, wasUndeliverable: boolean): Inbound<unknown> {
  const { itemId, senderId, recipientId, seq, kind } = item;
  const who = { eventId: crypto.randomUUID(), kind, itemId, senderId, recipientId, seq };
  return record(topics.messageRetried, recipientId, { ...who, wasSetAside, wasUndeliverable, retriedAt: BEGIN + 800 });
}

export function reported(
  item: MessageQueued,
  outcome: ReceiptItem["outcome"] | "retried",
  at: number,
): Inbound<MessageReceipt> {
  const { itemId, senderId, recipientId } = item;
  const items: readonly ReceiptItem[] =
    outcome === "retried" ? [] : [{ outcome, senderId, itemId, at, door: "none", code: null }];
  const again = outcome === "retried" ? [{ senderId, itemId, at }] : null;
  return record(topics.messageReceipt, recipientId, { recipientId, items, retried: again }, at);
}

/** An envelope in the log. */
export function encrypted(
  fields: { readonly madeAt: number; readonly sendCounter: number; readonly initiation?: Uint8Array },
  timestamp: number,
  senderId = alice,
) {
  const itemId = sampleItemId(fields.madeAt);
  const body = encodeEnvelope({
    ...{ messageId: itemId, senderId, recipientId: bob, sessionId: new Uint8Array(16).fill(7) },
    ...{
      sendCounter: fields.sendCounter,
      previousCounter: 1,
      dhPublicKey: new Uint8Array(32).fill(fields.sendCounter),
    },
    ...{ nonce: randomBytes(12), ciphertext: randomBytes(40), authTag: randomBytes(16), timestamp: fields.madeAt },
    ...{ flags: 0, initiation: fields.initiation ?? new Uint8Array(0) },
  });
  const value = { kind: "message", itemId, senderId, recipientId: bob, custody: "agent", body } as const;
  return record(topics.messageEncrypted, bob, value, timestamp);
}

/** The rows of a fold that was handed these, by table. */
export function folded(fold: Fold, records: readonly Inbound<unknown>[]): ReadonlyMap<string, FoldedTable["rows"]> {
  for (const one of records) {
    for (const { topic, take } of fold.handlers) if (topic.name === one.topic.name) take(one);
  }
  return new Map(fold.tables().map(({ table, rows }) => [table, rows]));
}
