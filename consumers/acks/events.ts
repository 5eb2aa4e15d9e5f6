/**
 * What acks tells the world of an item that turned. Pure.
 */
import type { MessageAcknowledged, MessageDelivered, MessageDiscarded } from "../../schemas/values.ts";
import type { Change, Turned } from "../../store/acks.ts";
import { messageAcknowledged, messageDelivered, messageDiscarded } from "../../streams/catalogue.ts";
import type { Emit } from "../../streams/consumer.ts";
import type { Topic } from "../../streams/topic.ts";
import type { Origin, Report } from "./reports.ts";

/** Delivered first; an acknowledgement of what was never reported as delivered stands for both. */
export function toEvents(turned: Turned<Report>): readonly Emit[] {
  const { delivery, ending, end } = turned.change;
  const events: Emit[] = [];
  const deliveredBy = delivery ?? ending;
  if (turned.delivered && deliveredBy !== null) events.push(deliveredEvent(turned, deliveredBy));
  if (turned.ended && ending !== null && end !== null) {
    if (end.outcome === "acknowledged") events.push(acknowledgedEvent(turned, ending, end.at));
    else events.push(discardedEvent(turned.change, ending, end));
  }
  return events;
}

function deliveredEvent(turned: Turned<Report>, by: Origin): Emit<MessageDelivered> {
  const facts = factsOf(turned, by);
  return event(messageDelivered, turned.change, by, facts.deliveredAt, (eventId) => ({ eventId, ...facts }));
}

function acknowledgedEvent(turned: Turned<Report>, by: Origin, at: number): Emit<MessageAcknowledged> {
  const facts = factsOf(turned, by);
  return event(messageAcknowledged, turned.change, by, at, (eventId) => ({ eventId, ...facts, acknowledgedAt: at }));
}

function discardedEvent(change: Report, by: Origin, end: NonNullable<Change["end"]>): Emit<MessageDiscarded> {
  return event(messageDiscarded, change, by, end.at, (eventId) => ({
    eventId,
    messageId: change.itemId,
    senderId: change.senderId,
    recipientId: change.recipientId,
    code: end.outcome,
    detail: end.code,
    digest: null,
    discardedAt: end.at,
  }));
}

function factsOf({ change, ...turned }: Turned<Report>, { door }: Origin): Omit<MessageDelivered, "eventId"> {
  const { itemId: messageId, senderId, recipientId } = change;
  const { sessionId, sendCounter, seq, size, acceptedAt, queuedAt, deliveredAt, custody } = turned;
  if (deliveredAt === null) throw new Error("a message turned delivered or acknowledged without a time of delivery");
  const who = { messageId, senderId, recipientId, sessionId, sendCounter, seq, size };
  return { ...who, acceptedAt, queuedAt, deliveredAt, door, custody };
}

function event<Value>(
  topic: Topic<Value>,
  { recipientId, senderId, itemId }: Change,
  { record: cause }: Origin,
  time: number,
  value: (eventId: string) => Value,
): Emit<Value> {
  return { topic, key: recipientId, cause, time, subject: `${senderId}/${itemId}`, value };
}
