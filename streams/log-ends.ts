/**
 * Where the logs of topics begin and end now.
 */
import type { KafkaDoor } from "./kafka.ts";
import type { LogRange } from "./log-range.ts";
import { partitionName } from "./partition.ts";

/** Of each of their partitions, by `partitionName`. Rejects with `Unavailable("kafka")`. */
export async function findRanges(kafka: KafkaDoor, topics: readonly string[]): Promise<ReadonlyMap<string, LogRange>> {
  const found = new Map<string, LogRange>();
  if (topics.length === 0) return found;
  await kafka.ask(async (admin) => {
    for (const topic of new Set(topics)) {
      for (const { partition, low, high } of await admin.fetchTopicOffsets(topic)) {
        found.set(partitionName({ topic, partition }), { low: Number(low), high: Number(high) });
      }
    }
  });
  return found;
}
