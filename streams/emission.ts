/**
 * What a step leaves in the outbox: what its consumer emitted, and a dead letter for each record that cannot be used. Pure.
 *
 * Promise: the same records give the same rows, byte for byte, whichever process applies them, in whatever company (architecture §1.2).
 */
import type { Codec } from "./codec.ts";
import type { Emit, Inbound, OutboxRow, Rejected } from "./consumer.ts";
import { eventHeaders, headersAsText, stepEventId } from "./headers.ts";
import type { KafkaMessage } from "./kafka.ts";
import { deadLetterTopicName, type Topic } from "./topic.ts";

/** A fetched record: decoded, or refused with a code. */
export interface Received<In = unknown> {
  readonly topic: Topic<In>;
  readonly partition: number;
  readonly offset: number;
  readonly message: KafkaMessage;
  readonly bytes: number;
  readonly items: number;
  readonly outcome: { readonly inbound: Inbound<In> } | { readonly code: string };
}

/** Rows of everything emitted, in the order of their keys. Throws (a bug of the consumer) when an emit's cause is not in the step. */
export function emittedRows(
  codec: Codec,
  group: string,
  emits: readonly Emit[],
  step: readonly Received[],
): OutboxRow[] {
  const causes = new Map(step.map((received) => [placeOf(received.topic.name, received), received]));
  const numbers = new Map<string, number>();
  const rows = emits.map((emit) => {
    const place = placeOf(emit.cause.topic.name, emit.cause);
    const cause = causes.get(place);
    if (cause === undefined) throw new Error("an event's cause is not in the step");
    const n = numbers.get(place) ?? 0;
    numbers.set(place, n + 1);
    return emittedRow(codec, group, emit, cause, n);
  });
  return rows.sort(byPlace);
}

function emittedRow(codec: Codec, group: string, emit: Emit, cause: Received, n: number): OutboxRow {
  const { topic, partition, offset } = cause;
  const id = stepEventId(group, { topic: topic.name, partition, offset }, n);
  return {
    inputTopic: topic.name,
    inputPartition: partition,
    inputOffset: offset,
    n,
    topic: emit.topic.name,
    key: emit.key,
    value: codec.encode(emit.topic, emit.value(id)),
    headers: eventHeaders(emit.topic.name, {
      id,
      source: `/sealpost/${group}`,
      time: emit.time,
      subject: emit.subject,
      traceparent: headersAsText(cause.message.headers)["traceparent"],
    }),
  };
}

/**
 * A refused record as it stands in `<topic>.dlq`: its own bytes, CloudEvents headers and trace, and where it came from and why. What the
 * world is told about it (`lament`) follows it. Nothing for a topic without dead letters.
 */
export function deadLetterRows(
  codec: Codec,
  group: string,
  refused: Received,
  code: string,
  lament: (record: Rejected, code: string) => readonly Emit[] = () => [],
): OutboxRow[] {
  const { topic, partition, offset, message } = refused;
  if (!topic.deadLetters) return [];
  const headers = headersAsText(message.headers);
  const letter: OutboxRow = {
    inputTopic: topic.name,
    inputPartition: partition,
    inputOffset: offset,
    n: 0,
    topic: deadLetterTopicName(topic),
    key: message.key ?? Buffer.alloc(0),
    value: message.value ?? Buffer.alloc(0),
    headers: {
      ...headers,
      "x-orig-topic": topic.name,
      "x-orig-partition": String(partition),
      "x-orig-offset": String(offset),
      "x-orig-timestamp": message.timestamp,
      "x-error-code": code,
      "x-consumer-group": group,
    },
  };
  const lamented = lament(rejectedOf(refused), code).map((emit, index) =>
    emittedRow(codec, group, emit, refused, index + 1),
  );
  return [letter, ...lamented];
}

export function rejectedOf({ topic, partition, offset, message }: Received): Rejected {
  return {
    topic: topic.name,
    partition,
    offset,
    key: message.key?.toString("utf8") ?? "",
    headers: headersAsText(message.headers),
    timestamp: Number(message.timestamp),
  };
}

function placeOf(
  topic: string,
  { partition, offset }: { readonly partition: number; readonly offset: number },
): string {
  return `${topic} ${partition} ${offset}`;
}

export function byPlace(a: OutboxRow, b: OutboxRow): number {
  if (a.inputTopic !== b.inputTopic) return a.inputTopic < b.inputTopic ? -1 : 1;
  return a.inputPartition - b.inputPartition || a.inputOffset - b.inputOffset || a.n - b.n;
}
