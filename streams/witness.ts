/**
 * Kafka as the witness of how far PostgreSQL was.
 *
 * A consumer that must never do a second time what it did (`afterRestore: "stand"`) tells Kafka its position before anything that came of it leaves:
 * the offset that its group commits. Whoever finds a position behind what Kafka was told has a database that was put back from a backup. With the
 * offset Kafka is told the database's generation, which an operator's command raises (`npm run after-restore`): what an earlier generation told
 * is settled.
 */
import type { GroupReached, PartitionId } from "./consumer.ts";
import type { KafkaDoor } from "./kafka.ts";
import { findRanges } from "./log-ends.ts";
import { partitionName } from "./partition.ts";

/** How far a partition was applied, and in which generation of the database. */
export interface Reached {
  readonly generation: number;
  readonly nextOffset: number;
}

/**
 * Is the database older than what Kafka was told? `told`: null when Kafka knows nothing. `low`: where the partition's log begins.
 *
 * Whoever takes a partition over tells its position at once, so Kafka knows nothing only at the very beginning. A position that has moved all the
 * same is one of which Kafka has forgotten (a group is forgotten after days without members): nobody knows, so it counts as behind. Pure.
 */
export function isBehind(here: Reached, told: Reached | null, low: number): boolean {
  if (told === null) return here.nextOffset > low;
  if (told.generation !== here.generation) return told.generation > here.generation;
  return told.nextOffset > here.nextOffset;
}

/**
 * Is any partition of a group behind, whoever owns it? For a consumer whose state crosses partitions. `reach`: how far the database has the group; it is
 * asked after Kafka, for every owner moves a position first, and tells Kafka then. Rejects with `Unavailable`.
 */
export async function isGroupBehind(
  kafka: KafkaDoor,
  group: string,
  topics: readonly string[],
  reach: () => Promise<GroupReached>,
): Promise<boolean> {
  const told = await findTold(kafka, group, []);
  const { generation, isHeld, positions } = await reach();
  if (isHeld) return true;
  const here = new Map(positions.map((one) => [partitionName(one), one.nextOffset]));
  // Rarely any: what only one of the two knows. Where its log begins tells whether something happened there.
  const unclear = topics.filter((topic) => {
    const partitions = [...told.keys(), ...here.keys()].filter((name) => topicOf(name) === topic);
    return partitions.some((name) => !told.has(name) || !here.has(name));
  });
  const ranges = await findRanges(kafka, unclear);
  const names = [...told.keys(), ...here.keys()].filter((name) => topics.includes(topicOf(name)));
  return names.some((name) => {
    const low = ranges.get(name)?.low ?? 0;
    return isBehind({ generation, nextOffset: here.get(name) ?? low }, told.get(name) ?? null, low);
  });
}

function topicOf(name: string): string {
  return name.slice(0, name.lastIndexOf(" "));
}

/** As it stands beside a committed offset. */
export function noteOf(generation: number): string {
  return `generation ${generation}`;
}

/** 0 for what says nothing of generations: it is from before there were any. */
export function generationOf(note: string | null): number {
  return Number(/^generation (\d{1,15})$/.exec(note ?? "")?.[1] ?? 0);
}

/** By `partitionName`, of these topics, or of all where none is named; without those of which Kafka knows nothing. Rejects with `Unavailable("kafka")`. */
export async function findTold(
  kafka: KafkaDoor,
  group: string,
  topics: readonly string[],
): Promise<ReadonlyMap<string, Reached>> {
  // Without a topic kafkajs asks for all that the group committed, in one round trip.
  const answers = await kafka.ask((admin) => admin.fetchOffsets({ groupId: group, topics: [...new Set(topics)] }));
  const told = new Map<string, Reached>();
  for (const { topic, partitions } of answers) {
    for (const { partition, offset, metadata } of partitions) {
      // -1 stands for no commit.
      if (Number(offset) < 0) continue;
      const id: PartitionId = { topic, partition };
      told.set(partitionName(id), { generation: generationOf(metadata), nextOffset: Number(offset) });
    }
  }
  return told;
}
