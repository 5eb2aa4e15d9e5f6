/**
 * What the API appends to Kafka: mailbox items (receipts: streams/receipt-events.ts), and the port it appends them through.
 */
import type { MessageEncrypted } from "../../schemas/values.ts";
import { messageEncrypted } from "../../streams/catalogue.ts";
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
