/**
 * What acks tells the world of the items that turned. Pure.
 *
 * Promise: events stand in the order of the reports that turned something, whatever else is in the step: as if each record had been a step of its own.
 */
import type { MessageDelivered, MessageRetried, PushRequested } from "../../schemas/values.ts";
import type { Change, Retried, SetAside, Turned } from "../../store/acks.ts";
import {
  messageAcknowledged,
  messageDelivered,
  messageDiscarded,
  messageRetried,
  messageSetAside,
  messageUndeliverable,
  pushRequested,
} from "../../streams/catalogue.ts";
import type { Emit } from "../../streams/consumer.ts";
import type { Topic } from "../../streams/topic.ts";
import type { Origin, Report, RetryReport } from "./reports.ts";

/** What is told of the report at this place of the step. */
interface Told {
  readonly place: number;
  readonly emit: Emit;
}

export function toEvents(aside: readonly SetAside<Report>[], turned: readonly Turned<Report>[]): readonly Emit[] {
  const told = [...aside.map(setAsideEvent), ...turned.flatMap(turnedEvents)];
  // Stable: what one report turned stays in order.
  return told.sort((a, b) => a.place - b.place).map(({ emit }) => emit);
}

/** Delivered first; an acknowledgement of what was never reported as delivered stands for both. */
function turnedEvents(turned: Turned<Report>): readonly Told[] {
  const { delivery, failure, ending, end } = turned.change;
  const events: Told[] = [];
  if (turned.undeliverable && failure !== null) events.push(undeliverableEvent(turned, failure));
  const deliveredBy = delivery ?? ending;
  if (turned.delivered && deliveredBy !== null) events.push(deliveredEvent(turned, deliveredBy));
  if (turned.ended && ending !== null && end !== null) {
    if (end.outcome === "acknowledged") events.push(acknowledgedEvent(turned, ending, end.at));
    else events.push(discardedEvent(turned, ending, end));
  }
  return events;
}

/** That it is not handed out any more. */
function setAsideEvent({ change, seq }: SetAside<Report>): Told {
  const { asideAt, settingAside, itemId: messageId, senderId, recipientId } = change;
  if (asideAt === null || settingAside === null)
    throw new Error("a message was set aside without a report that says so");
  return event(messageSetAside, change, settingAside, asideAt, (eventId) => {
    return { eventId, messageId, senderId, recipientId, seq, setAsideAt: asideAt };
  });
}

/** That each is handed out again, and a wake for each recipient, who may not be connected: behind all, for it is about the last of them. */
export function toRetriedEvents(retried: readonly Retried<RetryReport>[]): readonly Emit[] {
  const newest = new Map<string, Retried<RetryReport>>();
  for (const one of retried) {
    const { recipientId } = one.item;
    if ((newest.get(recipientId)?.seq ?? 0) < one.seq) newest.set(recipientId, one);
  }
  return [...retried.map(retriedEvent), ...[...newest.values()].map(wakeRequest)];
}

function retriedEvent({ item, ...was }: Retried<RetryReport>): Emit<MessageRetried> {
  const { record, at, itemId, senderId, recipientId } = item;
  const value = { ...was, itemId, senderId, recipientId, retriedAt: at };
  return {
    ...{ topic: messageRetried, key: recipientId, cause: record, time: at, subject: `${senderId}/${itemId}` },
    value: (eventId) => ({ eventId, ...value }),
  };
}

function wakeRequest({ item, seq }: Retried<RetryReport>): Emit<PushRequested> {
  const { record, at, recipientId } = item;
  const value = { recipientId, seq, requestedAt: at };
  return { topic: pushRequested, key: recipientId, cause: record, time: at, subject: recipientId, value: () => value };
}

function deliveredEvent(turned: Turned<Report>, by: Origin): Told {
  const facts = factsOf(turned, by);
  return event(messageDelivered, turned.change, by, facts.deliveredAt, (eventId) => ({ eventId, ...facts }));
}

function acknowledgedEvent(turned: Turned<Report>, by: Origin, at: number): Told {
  const facts = factsOf(turned, by);
  return event(messageAcknowledged, turned.change, by, at, (eventId) => ({ eventId, ...facts, acknowledgedAt: at }));
}

function undeliverableEvent({ change, ...turned }: Turned<Report>, by: Origin): Told {
  const { itemId: messageId, senderId, recipientId, undeliverableAt: at } = change;
  if (at === null) throw new Error("a message turned undeliverable without a time");
  const { seq, acceptedAt, queuedAt } = turned;
  const facts = { messageId, senderId, recipientId, seq, acceptedAt, queuedAt, undeliverableAt: at };
  return event(messageUndeliverable, change, by, at, (eventId) => ({ eventId, ...facts }));
}

function discardedEvent({ change, seq, size }: Turned<Report>, by: Origin, end: NonNullable<Change["end"]>): Told {
  return event(messageDiscarded, change, by, end.at, (eventId) => ({
    eventId,
    messageId: change.itemId,
    senderId: change.senderId,
    recipientId: change.recipientId,
    code: end.outcome,
    detail: end.code,
    digest: null,
    discardedAt: end.at,
    seq,
    size,
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
  { record: cause, place }: Origin,
  time: number,
  value: (eventId: string) => Value,
): Told {
  const emit: Emit<Value> = { topic, key: recipientId, cause, time, subject: `${senderId}/${itemId}`, value };
  return { place, emit };
}
