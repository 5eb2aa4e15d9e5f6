/**
 * What the API appends to Kafka: mailbox items and receipts, and the port it appends them through.
 */
import { randomUUID } from "node:crypto";
import { v5 as uuidV5 } from "uuid";
import type { MessageEncrypted, MessageReceipt, ReceiptItem } from "../../schemas/values.ts";
import { messageEncrypted, messageReceipt } from "../../streams/catalogue.ts";
import type { Topic } from "../../streams/topic.ts";

/** A record on its way to a topic, not yet encoded. */
export interface NewEvent<T = unknown> {
  readonly topic: Topic<T>;
  /** The record's key. */
  readonly key: string;
  /** `ce_id` */
  readonly id: string;
  /** `ce_subject` */
  readonly subject: string;
  /** `ce_time`, ms since the epoch. */
  readonly time: number;
  readonly value: T;
}

/** Events of one call leave in their order, and calls in the order in which they were made. */
export interface Appender {
  /**
   * Resolves when Kafka has them (acks=all).
   *
   * @throws Unavailable: `kafka` when Kafka did not answer (it may have them all the same), `service` when too much is waiting.
   */
  append(events: readonly NewEvent[]): Promise<void>;
}

/** Ours, for ids of what agents hand in: made once at random. */
const NAMESPACE = "5b1d7c0e-4a0e-4f57-9e0c-6f6a3f2f7a11";

/** A record of receipts stays far below the limit of a request, and a step's share of items fair. */
const RECEIPT_ITEMS_MAX = 256;

/** The same item, handed in again, is the same event. */
export function itemEvent(item: MessageEncrypted, time: number): NewEvent<MessageEncrypted> {
  return {
    topic: messageEncrypted,
    key: item.recipientId,
    id: uuidV5(`${messageEncrypted.name}|${item.senderId}|${item.itemId}`, NAMESPACE),
    subject: `${item.senderId}/${item.itemId}`,
    time,
    value: item,
  };
}

/** What became of items of one mailbox: as few records as there can be. */
export function receiptEvents(
  recipientId: string,
  items: readonly ReceiptItem[],
  time: number,
): NewEvent<MessageReceipt>[] {
  const events: NewEvent<MessageReceipt>[] = [];
  for (let start = 0; start < items.length; start += RECEIPT_ITEMS_MAX) {
    events.push({
      topic: messageReceipt,
      key: recipientId,
      id: randomUUID(),
      subject: recipientId,
      time,
      value: { recipientId, items: items.slice(start, start + RECEIPT_ITEMS_MAX) },
    });
  }
  return events;
}
