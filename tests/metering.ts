/** What tests of metering need: records of the three topics. */
import type { MessageAcknowledged, MessageDiscarded, MessageQueued } from "../schemas/values.ts";
import { messageAcknowledged, messageDiscarded, messageQueued } from "../streams/catalogue.ts";
import type { Inbound } from "../streams/consumer.ts";
import type { Topic } from "../streams/topic.ts";
import { sampleItemId } from "./messaging.ts";
import type { LoggedRecord } from "./usage-fold.ts";

type Value = MessageQueued | MessageAcknowledged | MessageDiscarded;

/** A message in its mailbox. */
export interface Placed {
  readonly senderId: string;
  readonly recipientId: string;
  readonly seq: number;
  readonly size: number;
  readonly queuedAt: number;
  readonly kind?: "message" | "retry";
}

export function queuedRecord({ kind = "message", ...placed }: Placed): Inbound<MessageQueued> {
  const value: MessageQueued = {
    ...{ ...placed, kind, itemId: sampleItemId(placed.queuedAt), custody: "agent", sendCounter: 1 },
    ...{ sessionId: new Uint8Array(0), acceptedAt: placed.queuedAt, body: new Uint8Array(0) },
  };
  return recordOf(messageQueued, value);
}

export function acknowledgedRecord({ kind: _, ...placed }: Placed, at: number): Inbound<MessageAcknowledged> {
  const eventId = crypto.randomUUID();
  const value: MessageAcknowledged = {
    ...{ ...placed, eventId, messageId: sampleItemId(placed.queuedAt), sessionId: new Uint8Array(16), sendCounter: 1 },
    ...{ acceptedAt: placed.queuedAt, deliveredAt: at, acknowledgedAt: at, door: "http", custody: "agent" },
  };
  return recordOf(messageAcknowledged, value, eventId);
}

/** Without a place: of what was never stored. */
export function discardedRecord(
  { senderId, recipientId, seq, size, queuedAt }: Placed,
  at: number,
  isStored = true,
): Inbound<MessageDiscarded> {
  const eventId = crypto.randomUUID();
  const value: MessageDiscarded = {
    ...{ eventId, messageId: sampleItemId(queuedAt), senderId, recipientId, code: isStored ? "evicted" : "expired" },
    ...{ detail: null, digest: null, discardedAt: at, ...(isStored ? { seq, size } : {}) },
  };
  return recordOf(messageDiscarded, value, eventId);
}

function recordOf<T extends Value>(topic: Topic<T>, value: T, ceId: string = crypto.randomUUID()): Inbound<T> {
  const place = { partition: 0, offset: 0, timestamp: 0 };
  return { topic, ...place, key: value.recipientId, value, headers: { ce_id: ceId } };
}

export function loggedOf(records: readonly Inbound<Value>[]): readonly LoggedRecord<Value>[] {
  return records.map(({ headers, value }) => ({ ceId: headers["ce_id"] ?? "", value }));
}
