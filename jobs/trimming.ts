/**
 * Deletes what is old from the topics that are commands and hops on the way: they have no retention in Kafka, so that an outage of any length loses
 * nothing.
 *
 * Reads   where each declared reader stands (streams/readers.ts): in PostgreSQL, or with Kafka for those without state.
 * Writes  nothing; deletes records older than their topic's time that lie below the position of every reader.
 * Keeps   what a reader has not passed; a reader that has never stood anywhere has passed nothing.
 */
import type { Postgres } from "../store/postgres.ts";
import { findPositions } from "../store/steps.ts";
import { catalogue } from "../streams/catalogue.ts";
import type { KafkaDoor } from "../streams/kafka.ts";
import { committedOffsets } from "../streams/plain-store.ts";
import { readers as declaredReaders, type Reader } from "../streams/readers.ts";
import type { Topic } from "../streams/topic.ts";
import { trimTopic } from "../streams/trimming.ts";

/** Every hour: what an epoch's key opens goes an hour after its time. */
export const trimmingCron = "37 * * * *";

export interface TrimmingDeps {
  readonly postgres: Postgres;
  readonly kafka: KafkaDoor;
  readonly onTrimmed: (topic: string, records: number) => void;
  readonly topics?: readonly Topic<unknown>[];
  readonly readers?: readonly Reader[];
}

/**
 * @param now ms since the epoch
 * @param signal ends it between two topics
 * @throws Unavailable
 */
export async function trimTopics(deps: TrimmingDeps, now: number, signal: AbortSignal): Promise<void> {
  const { kafka, topics = catalogue, readers = declaredReaders } = deps;
  for (const topic of topics) {
    if (!("trimmedAfterMs" in topic.retention) || signal.aborted) continue;
    const groups = readers.filter(({ reads }) => reads.some(({ name }) => name === topic.name));
    const positions = await Promise.all(groups.map((reader) => positionsOf(deps, reader, topic.name)));
    const beforeMs = now - topic.retention.trimmedAfterMs;
    const records = await trimTopic(kafka, { topic: topic.name, beforeMs, positions });
    if (records > 0) deps.onTrimmed(topic.name, records);
  }
}

async function positionsOf(
  { postgres, kafka }: TrimmingDeps,
  { group, positions }: Reader,
  topic: string,
): Promise<ReadonlyMap<number, number>> {
  const found =
    positions === "postgres"
      ? await findPositions(postgres, group, topic)
      : await committedOffsets(kafka, group, [topic]);
  return new Map(found.map(({ partition, nextOffset }) => [partition, nextOffset]));
}
