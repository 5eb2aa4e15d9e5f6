/**
 * What stands around a value: CloudEvents 1.0 in Kafka's binary mode, and the id of an event.
 *
 * The same event has the same id however often it is written: ids are UUIDv5 of what the event is (architecture §1.2), and its time
 * comes from the data. So a repeat is byte-identical, and readers drop it by `ce_id`.
 */
import { v5 as uuidV5 } from "uuid";
import type { Codec } from "./codec.ts";
import type { Outgoing } from "./consumer.ts";
import type { Topic } from "./topic.ts";

/** Sealpost's own namespace for UUIDv5; changing it would give every event a second id. */
const eventNamespace = "6f0d1c52-3b0e-5c4b-9a55-0c6f1f1f8a3e";

/** The id of the `n`-th event that a consumer group emits because of one input record. */
export function stepEventId(
  group: string,
  cause: { readonly topic: string; readonly partition: number; readonly offset: number },
  n: number,
): string {
  return uuidV5(`${group}|${cause.topic}|${cause.partition}|${cause.offset}|${n}`, eventNamespace);
}

/** The id of an item that the API appends. */
export function appendEventId(topic: string, senderId: string, itemId: string): string {
  return uuidV5(`${topic}|${senderId}|${itemId}`, eventNamespace);
}

export interface EventHead {
  /** `ce_id`, a UUID. */
  readonly id: string;
  /** `ce_source`, a URI reference: who says so, for example `/sealpost/queuing`. */
  readonly source: string;
  /** `ce_time`, ms since the epoch: from the data where there is any, so that a repeat is the same. */
  readonly time: number;
  /** `ce_subject`: what it is about. */
  readonly subject: string;
  /** W3C trace context, handed on from what caused the event. */
  readonly traceparent?: string | undefined;
}

export interface NewEvent<T> extends EventHead {
  readonly topic: Topic<T>;
  readonly key: string;
  readonly value: T;
}

/** An event on its way to Kafka. Throws (a bug) when the value does not fit the topic's schema. */
export function toOutgoing<T>(codec: Codec, event: NewEvent<T>): Outgoing {
  return {
    topic: event.topic.name,
    key: event.key,
    value: codec.encode(event.topic, event.value),
    headers: eventHeaders(event.topic.name, event),
  };
}

export function eventHeaders(type: string, head: EventHead): Record<string, string> {
  const headers: Record<string, string> = {
    ce_specversion: "1.0",
    ce_id: head.id,
    ce_type: type,
    ce_source: head.source,
    ce_time: new Date(head.time).toISOString(),
    ce_subject: head.subject,
    "content-type": "application/avro",
  };
  if (head.traceparent !== undefined) headers["traceparent"] = head.traceparent;
  return headers;
}

/** Headers as text. Kafka allows several of one name; the last one counts. */
export function headersAsText(
  headers: Readonly<Record<string, Buffer | string | readonly (Buffer | string)[] | undefined>> | undefined,
): Record<string, string> {
  const text: Record<string, string> = {};
  for (const [name, values] of Object.entries(headers ?? {})) {
    const value = Array.isArray(values) ? values.at(-1) : values;
    if (value !== undefined) text[name] = value.toString("utf8");
  }
  return text;
}
