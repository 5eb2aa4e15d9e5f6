/**
 * Which offsets of a topic were appended in a span of time: what a replay reads of a log that may be years long.
 *
 * Topics of ours have LogAppendTime: the time is the broker's, and rises with the offset in a partition as long as the leaders' clocks agree.
 */
import type { KafkaDoor } from "./kafka.ts";
import type { Span } from "./read-topic.ts";

/** The offsets of a partition as Kafka says them. */
export interface PartitionOffsets {
  readonly partition: number;
  /** The first that is kept. */
  readonly low: number;
  /** The one after the last. */
  readonly high: number;
}

/** A partition whose offsets from `start` up to before `end` were appended in the span; none where they are the same. */
export interface Window extends PartitionOffsets {
  readonly start: number;
  readonly end: number;
}

export interface TimeSpans {
  /** Of all partitions. */
  readonly windows: readonly Window[];
  /** Partitions in which something was appended then. */
  readonly spans: ReadonlyMap<number, Span>;
  /** Partitions whose beginning is gone, and whose first kept record was appended in the span: older ones may be missing. */
  readonly trimmed: readonly number[];
}

/** What was appended from `fromMs` on and before `toMs`, of all partitions. Rejects with `Unavailable("kafka")`. */
export async function spansBetween(kafka: KafkaDoor, topic: string, fromMs: number, toMs: number): Promise<TimeSpans> {
  const kept = await kafka.ask((admin) => admin.fetchTopicOffsets(topic));
  const starts = await offsetsAt(kafka, topic, fromMs);
  const ends = await offsetsAt(kafka, topic, toMs);
  const log = kept.map(({ partition, low, high }) => ({ partition, low: Number(low), high: Number(high) }));
  return spansOf(log, starts, ends);
}

/** Pure. `starts` and `ends`: the first offset at or after the time; a partition without one has nothing so late. */
export function spansOf(
  log: readonly PartitionOffsets[],
  starts: ReadonlyMap<number, number>,
  ends: ReadonlyMap<number, number>,
): TimeSpans {
  const spans = new Map<number, Span>();
  const windows: Window[] = [];
  const trimmed: number[] = [];
  for (const { partition, low, high } of log.toSorted((a, b) => a.partition - b.partition)) {
    const start = Math.max(low, starts.get(partition) ?? high);
    const end = Math.max(start, Math.min(high, ends.get(partition) ?? high));
    windows.push({ partition, low, high, start, end });
    if (low > 0 && start === low) trimmed.push(partition);
    if (start < end) spans.set(partition, { start, end });
  }
  return { windows, spans, trimmed };
}

async function offsetsAt(kafka: KafkaDoor, topic: string, atMs: number): Promise<ReadonlyMap<number, number>> {
  const found = await kafka.ask((admin) => admin.fetchTopicOffsetsByTimestamp(topic, atMs));
  return new Map(
    found.flatMap(({ partition, offset }): [number, number][] => {
      // A broker says -1 where nothing is as late.
      return Number(offset) < 0 ? [] : [[partition, Number(offset)]];
    }),
  );
}
