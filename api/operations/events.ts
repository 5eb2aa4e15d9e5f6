/**
 * What the API appends to Kafka: mailbox items and requests for a wake (receipts: streams/receipt-events.ts), and the port it appends them through.
 */
import { randomUUID } from "node:crypto";
import type { MessageEncrypted, PushRequested } from "../../schemas/values.ts";
import { messageEncrypted, pushRequested } from "../../streams/catalogue.ts";
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

/** Something waits for an agent that is not connected, up to this seq. `at`: ms since the epoch. The id is random: each request is one of its own. */
export function pushRequest(recipientId: string, seq: number, at: number): NewEvent<PushRequested> {
  return {
    topic: pushRequested,
    key: recipientId,
    id: randomUUID(),
    source: API_SOURCE,
    subject: recipientId,
    time: at,
    value: { recipientId, seq, requestedAt: at },
  };
}
