/**
 * Dead letters: what lies in a dead-letter topic, a page at a time, and each as the record that it once was.
 *
 * Nothing is taken out of such a topic: its retention does that.
 */
import type { Outgoing } from "./consumer.ts";
import { headersAsText } from "./headers.ts";
import type { KafkaDoor } from "./kafka.ts";
import { type ReadRecord, readRange, readSpans, type Span } from "./read-topic.ts";
import { deadLetterTopicName, type Topic } from "./topic.ts";

/** What `deadLetterRows` (streams/emission.ts) adds to a record's own headers. */
const LETTER_HEADERS: ReadonlySet<string> = new Set([
  "x-orig-topic",
  "x-orig-partition",
  "x-orig-offset",
  "x-orig-timestamp",
  "x-error-code",
  "x-consumer-group",
  "x-cut",
]);

/** Where a page begins. */
export interface LetterPlace {
  readonly partition: number;
  readonly offset: number;
}

/** Of the dead-letter topic; the origin's place stands beside. What a header does not say is null. */
export interface DeadLetter extends LetterPlace {
  /** When it became a dead letter, ms since the epoch. */
  readonly at: number;
  readonly code: string | null;
  /** Who refused it. */
  readonly group: string | null;
  readonly origin: { readonly partition: number | null; readonly offset: number | null; readonly at: number | null };
  readonly id: string | null;
  readonly subject: string | null;
  readonly valueBytes: number;
  /** The record as it was: key, value, headers. Null where the letter is not one of its topic's, or does not hold it whole. */
  readonly record: Outgoing | null;
}

/** How many letters lie there; a few less where the log has other records. Rejects with `Unavailable("kafka")`. */
export async function countDeadLetters(kafka: KafkaDoor, topic: Topic<unknown>): Promise<number> {
  const offsets = await kafka.ask((admin) => admin.fetchTopicOffsets(deadLetterTopicName(topic)));
  return offsets.reduce((sum, { low, high }) => sum + Number(high) - Number(low), 0);
}

/**
 * Hands over the letters from a place on, partition by partition, up to what was there at the call, at most `limit`; a batch at a time.
 *
 * Resolves with the place at which the next page begins, null after the last. Rejects with `Unavailable("kafka")`, also when the signal ends it, and with
 * what `handle` rejects with.
 */
export async function readDeadLetters(
  kafka: KafkaDoor,
  topic: Topic<unknown>,
  { from, limit }: { readonly from: LetterPlace | null; readonly limit: number },
  handle: (letters: readonly DeadLetter[]) => Promise<void>,
  signal: AbortSignal,
): Promise<LetterPlace | null> {
  const name = deadLetterTopicName(topic);
  const offsets = await kafka.ask((admin) => admin.fetchTopicOffsets(name));
  const log = offsets.map(({ partition, low, high }) => ({ partition, start: Number(low), end: Number(high) }));
  const { spans, next } = pageOf(log, from, limit);
  await readSpans(kafka, name, spans, (records) => handle(records.map((record) => letterOf(topic, record))), signal);
  return next;
}

/** Which offsets a page has, and where the next one begins. Pure. */
export function pageOf(
  log: readonly (Span & { readonly partition: number })[],
  from: LetterPlace | null,
  limit: number,
): { readonly spans: ReadonlyMap<number, Span>; readonly next: LetterPlace | null } {
  const spans = new Map<number, Span>();
  let room = limit;
  for (const { partition, start: low, end } of log.toSorted((a, b) => a.partition - b.partition)) {
    if (from !== null && partition < from.partition) continue;
    const start = from?.partition === partition ? Math.max(low, from.offset) : low;
    if (start >= end) continue;
    if (room === 0) return { spans, next: { partition, offset: start } };
    const stop = Math.min(end, start + room);
    spans.set(partition, { start, end: stop });
    room -= stop - start;
    if (stop < end) return { spans, next: { partition, offset: stop } };
  }
  return { spans, next: null };
}

/** A record of a dead-letter topic. Pure. */
export function letterOf(topic: Topic<unknown>, record: ReadRecord): DeadLetter {
  const headers = headersAsText(record.headers);
  const own = Object.entries(headers).filter(([name]) => !LETTER_HEADERS.has(name));
  const { key, value } = record;
  // What is left of a record that was too large for a letter is not the record.
  const isWhole = headers["x-orig-topic"] === topic.name && value !== null && headers["x-cut"] === undefined;
  return {
    partition: record.partition,
    offset: Number(record.offset),
    at: Number(record.timestamp),
    code: headers["x-error-code"] ?? null,
    group: headers["x-consumer-group"] ?? null,
    origin: {
      partition: numberOf(headers["x-orig-partition"]),
      offset: numberOf(headers["x-orig-offset"]),
      at: numberOf(headers["x-orig-timestamp"]),
    },
    id: headers["ce_id"] ?? null,
    subject: headers["ce_subject"] ?? null,
    valueBytes: value?.length ?? 0,
    record: isWhole
      ? { topic: topic.name, key: key ?? Buffer.alloc(0), value, headers: Object.fromEntries(own) }
      : null,
  };
}

/** Null for what is no count. */
function numberOf(text: string | undefined): number | null {
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : null;
}

/**
 * When the earliest of the topic's dead letters was appended to the topic itself, ms since the epoch; null when there is none. A letter that does not say
 * so counts as one from the beginning of time.
 *
 * Rejects with `Unavailable("kafka")`, also when the signal ends it.
 */
export async function earliestDeadLetter(
  kafka: KafkaDoor,
  topic: Topic<unknown>,
  signal: AbortSignal,
): Promise<number | null> {
  let earliest: number | null = null;
  const look = async (records: readonly ReadRecord[]) => {
    for (const record of records)
      earliest = Math.min(earliest ?? Number.POSITIVE_INFINITY, letterOf(topic, record).origin.at ?? 0);
  };
  await readRange(kafka, deadLetterTopicName(topic), new Map(), look, signal);
  return earliest;
}
