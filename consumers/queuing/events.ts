/**
 * What queuing tells the world. Pure.
 */
import type { MessageDiscarded, MessageQueued, MessageReceipt, ReceiptItem } from "../../schemas/values.ts";
import type { Evicted, FullMailbox } from "../../store/evictions.ts";
import type { Placed, Placement, Placements } from "../../store/queuing.ts";
import { messageDiscarded, messageQueued, messageReceipt } from "../../streams/catalogue.ts";
import type { Emit, Rejected } from "../../streams/consumer.ts";
import { receiptRecords } from "../../streams/receipt-events.ts";
import type { Item } from "./items.ts";

/** What became of one record. A repetition is no news; a retry request that is not stored concerns nobody. */
export function toEvents({ arrival, placement }: Placed<Item>): readonly Emit[] {
  switch (placement.outcome) {
    case "stored":
      return [queuedEvent(arrival, placement.seq, placement.at)];
    case "repeated":
      return [];
    case "id-reused":
    case "expired":
      return arrival.kind === "message" ? [discardedEvent(arrival, placement)] : [];
  }
}

/** The mailboxes that must be looked at for items to evict. */
export function fullMailboxes({ placed, full }: Placements<Item>): readonly FullMailbox[] {
  return full.map((recipientId) => ({ recipientId, arrived: storedIn(placed, recipientId).length }));
}

/** What acks is asked to end, because of the last item that came into each mailbox. */
export function toEvictions({ placed, full }: Placements<Item>, evicted: readonly Evicted[]): readonly Emit[] {
  return full.flatMap((recipientId) => {
    const { record, at } = storedIn(placed, recipientId).at(-1) ?? {};
    if (record === undefined || at === undefined) throw new Error("a mailbox is full of which nothing was said");
    const items = evicted.filter((item) => item.recipientId === recipientId).map((item) => evictedItem(item, at));
    return receiptRecords(recipientId, items).map(
      (value): Emit<MessageReceipt> => ({
        topic: messageReceipt,
        key: recipientId,
        cause: record,
        time: at,
        subject: recipientId,
        value: () => value,
      }),
    );
  });
}

function evictedItem({ senderId, itemId }: Evicted, at: number): ReceiptItem {
  return { outcome: "evicted", senderId, itemId, at, door: "none", code: null };
}

function storedIn(placed: readonly Placed<Item>[], recipientId: string) {
  return placed.flatMap(({ arrival, placement }) =>
    placement.outcome === "stored" && arrival.recipientId === recipientId
      ? [{ record: arrival.record, at: placement.at }]
      : [],
  );
}

function queuedEvent({ record, ...item }: Item, seq: number, at: number): Emit<MessageQueued> {
  return {
    topic: messageQueued,
    key: item.recipientId,
    cause: record,
    time: at,
    subject: subjectOf(item.senderId, item.itemId),
    value: () => ({ ...item, seq, queuedAt: at }),
  };
}

function discardedEvent(
  { record, itemId, senderId, recipientId }: Item,
  placement: Extract<Placement, { outcome: "id-reused" | "expired" }>,
): Emit<MessageDiscarded> {
  return {
    topic: messageDiscarded,
    key: recipientId,
    cause: record,
    time: placement.at,
    subject: subjectOf(senderId, itemId),
    value: (eventId) => ({
      eventId,
      messageId: itemId,
      senderId,
      recipientId,
      code: placement.outcome,
      detail: null,
      digest: placement.outcome === "id-reused" ? placement.digest : null,
      discardedAt: placement.at,
    }),
  };
}

const subject = /^([A-Za-z0-9_-]{43})\/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$/;

/**
 * The sender of a dead letter was told that it was accepted, so it is told that it was discarded. Who and what is known from the
 * record's subject alone; a record without one was not appended by us.
 */
export function toLament(record: Rejected, code: string): readonly Emit[] {
  const { ce_subject: ceSubject = "" } = record.headers;
  const [, senderId, messageId] = subject.exec(ceSubject) ?? [];
  if (senderId === undefined || messageId === undefined) return [];
  const discarded: Emit<MessageDiscarded> = {
    topic: messageDiscarded,
    key: record.key,
    cause: { topic: { name: record.topic }, partition: record.partition, offset: record.offset },
    time: record.timestamp,
    subject: subjectOf(senderId, messageId),
    value: (eventId) => ({
      eventId,
      messageId,
      senderId,
      recipientId: record.key,
      code,
      detail: null,
      digest: null,
      discardedAt: record.timestamp,
    }),
  };
  return [discarded];
}

function subjectOf(senderId: string, itemId: string): string {
  return `${senderId}/${itemId}`;
}
