/**
 * What a step leaves in the outbox: what its consumer emitted, and a dead letter for each record that cannot be used. Pure.
 *
 * Promise: the same records give the same rows, byte for byte, whichever process applies them, in whatever company (architecture §1.2).
 */
import { Refusal } from "../protocol/refusal.ts";
import type { Codec } from "./codec.ts";
import type { Emit, Inbound, OutboxRow, Rejected } from "./consumer.ts";
import { eventHeaders, headersAsText, stepEventId } from "./headers.ts";
import type { KafkaMessage } from "./kafka.ts";
import { headerBytes, recordBytes, recordBytesMax } from "./outgoing.ts";
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

/** A batch of one record has a header, too. */
const batchHeaderBytes = 1_024;

/** Of a dead letter that cannot be sent as it is: what is left of headers and key. Ours are a tenth as long. */
const cutHeadersBytesMax = 16 * 1024;
const cutKeyBytesMax = 1_024;

/**
 * Rows of everything emitted, in the order of their keys. Throws (a bug of the consumer) when an emit's cause is not in the step, and `Refusal` where one is larger than its
 * topic takes: what a record of ours says is far smaller, so it is the fault of the record that caused it.
 */
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
    const row = emittedRow(codec, group, emit, cause, n);
    if (!fits(row, emit.topic)) throw new Refusal("too-large");
    return row;
  });
  return rows.sort(byPlace);
}

function fits(row: OutboxRow, { messageBytesMax }: Topic<unknown>): boolean {
  return recordBytes(row) + batchHeaderBytes <= messageBytesMax;
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
 * world is told about it (`lament`) follows it, except what no topic takes: who was answered 202 has sent no such record. Nothing for a topic without dead letters.
 *
 * A record may be larger as a letter than any topic takes: bytes that are no text are longer as text, and who compresses a batch is not limited by what is in it. Of such a one
 * the letter holds the beginning, and `x-cut` says of what.
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
  const { "x-cut": _, ...own } = headersAsText(message.headers);
  const about = {
    "x-orig-topic": topic.name,
    "x-orig-partition": String(partition),
    "x-orig-offset": String(offset),
    "x-orig-timestamp": message.timestamp,
    "x-error-code": code,
    "x-consumer-group": group,
  };
  const place = { inputTopic: topic.name, inputPartition: partition, inputOffset: offset, n: 0 };
  const { key, value } = message;
  const content = sendable({ key: key ?? Buffer.alloc(0), value: value ?? Buffer.alloc(0), headers: own }, about);
  const letter: OutboxRow = { ...place, topic: deadLetterTopicName(topic), ...content };
  const lamented = lament(rejectedOf(refused), code).flatMap((emit, index) => {
    const row = emittedRow(codec, group, emit, refused, index + 1);
    return fits(row, emit.topic) ? [row] : [];
  });
  return [letter, ...lamented];
}

interface LetterContent {
  readonly key: Buffer;
  readonly value: Buffer;
  readonly headers: Readonly<Record<string, string>>;
}

/** `about`: the headers that a letter has beside those of its record. */
function sendable({ key, value, headers: own }: LetterContent, about: LetterContent["headers"]): LetterContent {
  const whole = { key, value, headers: { ...own, ...about } };
  if (recordBytes(whole) <= recordBytesMax) return whole;
  let room = cutHeadersBytesMax;
  const kept = Object.entries(own).filter((header) => {
    const bytes = headerBytes(Object.fromEntries([header]));
    const isKept = bytes <= room;
    if (isKept) room -= bytes;
    return isKept;
  });
  const headers = { ...Object.fromEntries(kept), ...about, "x-cut": "headers key value" };
  const cutKey = key.subarray(0, cutKeyBytesMax);
  const valueRoom = recordBytesMax - recordBytes({ key: cutKey, value: Buffer.alloc(0), headers });
  const cutValue = value.subarray(0, valueRoom);
  const cut = [
    ...(kept.length < Object.keys(own).length ? ["headers"] : []),
    ...(cutKey.length < key.length ? ["key"] : []),
    ...(cutValue.length < value.length ? ["value"] : []),
  ];
  return { key: cutKey, value: cutValue, headers: { ...headers, "x-cut": cut.join(" ") } };
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
