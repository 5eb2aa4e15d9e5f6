/**
 * A moment in which the tables hold what the log holds, no more and no less. Decided from what stands in both at once.
 */
import type { Standing } from "../store/projection.ts";
import type { KafkaDoor } from "../streams/kafka.ts";
import { readers } from "../streams/readers.ts";

/** Who writes the tables that are compared. What encryption has still to read stands in no table; what it has discarded must be told. */
export const WRITERS: readonly string[] = ["encryption", "queuing", "sessions", "acks", "metering"];

export interface Range {
  readonly topic: string;
  readonly partition: number;
  readonly low: number;
  readonly high: number;
}

/** Throws `Unavailable`. */
export async function rangesOf(kafka: KafkaDoor, topics: readonly string[]): Promise<readonly Range[]> {
  const ranges: Range[] = [];
  for (const topic of topics) {
    const found = await kafka.ask((admin) => admin.fetchTopicOffsets(topic));
    ranges.push(
      ...found.map(({ partition, low, high }) => ({ topic, partition, low: Number(low), high: Number(high) })),
    );
  }
  return ranges.toSorted((a, b) => a.topic.localeCompare(b.topic) || a.partition - b.partition);
}

/** How many records each writer has still to read; only those that have some. */
export function lagOf(positions: readonly Standing[], ranges: readonly Range[]): ReadonlyMap<string, number> {
  const at = new Map(positions.map((standing) => [placeOf(standing.group, standing), standing.nextOffset]));
  const lags = new Map<string, number>();
  for (const { group, reads } of readers.filter((reader) => WRITERS.includes(reader.group))) {
    for (const range of ranges) {
      if (!reads.some(({ name }) => name === range.topic)) continue;
      const lag = range.high - (at.get(placeOf(group, range)) ?? range.low);
      if (lag > 0) lags.set(group, (lags.get(group) ?? 0) + lag);
    }
  }
  return lags;
}

/** Nothing came in between: what was the end before a moment, and is after it, is the end in it. */
export function haveSameEnds(before: readonly Range[], after: readonly Range[]): boolean {
  return before.length === after.length && before.every(({ high }, n) => high === after[n]?.high);
}

function placeOf(group: string, { topic, partition }: { readonly topic: string; readonly partition: number }): string {
  return `${group} ${topic} ${partition}`;
}
