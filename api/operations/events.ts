/**
 * What the API appends to Kafka: mailbox items and receipts, and the port it appends them through.
 */
import { randomUUID } from "node:crypto";
import type { MessageEncrypted, MessageReceipt, ReceiptItem } from "../../schemas/values.ts";
import { messageEncrypted, messageReceipt } from "../../streams/catalogue.ts";
import { appendEventId, type NewEvent } from "../../streams/headers.ts";

/** Events of one call leave in their order, and calls in the order in which they were made. */
export interface Appender {
  /**
   * Resolves when Kafka has them (acks=all).
   *
   * @throws Unavailable: `kafka` when Kafka did not answer (it may have them all the same), `service` when too much is waiting.
   */
  append(events: readonly NewEvent<unknown>[]): Promise<void>;
}

/** `ce_source` of whatever an agent asked for. */
export const API_SOURCE = "/sealpost/api";

/** A record of receipts stays far below the limit of a request, and a step's share of items fair. */
const RECEIPT_ITEMS_MAX = 256;

/** `madeAt` comes from the item: handed in again, it is the same event to the last byte. ms since the epoch. */
export function itemEvent(item: MessageEncrypted, madeAt: number): NewEvent<MessageEncrypted> {
  return {
    topic: messageEncrypted,
    key: item.recipientId,
    id: appendEventId(messageEncrypted.name, item.senderId, item.itemId),
    source: API_SOURCE,
    subject: `${item.senderId}/${item.itemId}`,
    time: madeAt,
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
      source: API_SOURCE,
      subject: recipientId,
      time,
      value: { recipientId, items: items.slice(start, start + RECEIPT_ITEMS_MAX) },
    });
  }
  return events;
}
