/**
 * The store of a consumer without state: positions are what the group committed to Kafka, and there is no outbox.
 *
 * With it the same loop that runs steps gives a plain consumer at-least-once: what it returned is published, and only behind that is an
 * offset committed. After a crash or a rebalance the records since the last commit are handled again.
 */
import type { GroupReached, PartitionId, PlainConsumer, StepConsumer, StepStore } from "./consumer.ts";
import type { KafkaDoor } from "./kafka.ts";
import { partitionName } from "./partition.ts";

/** It has no state that could go back. */
const nowhere: GroupReached = { generation: 0, isHeld: false, positions: [] };

export function plainStore(kafka: KafkaDoor): StepStore<null> {
  return {
    async loadPositions(group, partitions) {
      const topics = Array.from(new Set(partitions.map(({ topic }) => topic)));
      const committed = new Map(
        (await committedOffsets(kafka, group, topics)).map((one) => [partitionName(one), one.nextOffset]),
      );
      return partitions.map(({ topic, partition, startAt }) => {
        return { topic, partition, nextOffset: committed.get(partitionName({ topic, partition })) ?? startAt };
      });
    },
    async commitStep(_group, _moves, _published, work) {
      await work(null, async () => nowhere);
      return "committed";
    },
    leftovers: async () => [],
    deletePublished: async () => undefined,
    stillWaiting: async (_, rows) => rows,
    loadGeneration: async () => 0,
    loadReached: async () => nowhere,
    acceptGap: async () => "accepted",
  };
}

/** What a group has committed to Kafka; partitions without a commit are left out. Rejects with `Unavailable("kafka")`. */
export async function committedOffsets(
  kafka: KafkaDoor,
  group: string,
  topics: readonly string[],
): Promise<readonly (PartitionId & { readonly nextOffset: number })[]> {
  const answers = await kafka.ask((admin) => admin.fetchOffsets({ groupId: group, topics: [...topics] }));
  return answers.flatMap(({ topic, partitions }) =>
    partitions
      .map(({ partition, offset }) => ({ topic, partition, nextOffset: Number(offset) }))
      // -1 stands for no commit.
      .filter(({ nextOffset }) => nextOffset >= 0),
  );
}

/** A plain consumer, as the loop sees it. */
export function asStepConsumer<In>({ react, ...consumer }: PlainConsumer<In>): StepConsumer<In, null> {
  return { ...consumer, step: (batch) => react(batch) };
}
