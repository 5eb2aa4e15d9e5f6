/**
 * The store of a consumer without state: positions are what the group committed to Kafka, and there is no outbox.
 *
 * With it the same loop that runs steps gives a plain consumer at-least-once: what it returned is published, and only behind that is an
 * offset committed. After a crash or a rebalance the records since the last commit are handled again.
 */
import type { PlainConsumer, StepConsumer, StepStore } from "./consumer.ts";
import type { KafkaDoor } from "./kafka.ts";
import { partitionName } from "./ownership.ts";

export function plainStore(kafka: KafkaDoor): StepStore<null> {
  return {
    async loadPositions(group, partitions) {
      const topics = Array.from(new Set(partitions.map(({ topic }) => topic)));
      const answers = await kafka.ask((admin) => admin.fetchOffsets({ groupId: group, topics }));
      const committed = new Map<string, number>();
      for (const { topic, partitions: offsets } of answers) {
        for (const { partition, offset } of offsets) committed.set(partitionName({ topic, partition }), Number(offset));
      }
      return partitions.map(({ topic, partition, startAt }) => {
        // -1 stands for no commit.
        const nextOffset = committed.get(partitionName({ topic, partition })) ?? -1;
        return { topic, partition, nextOffset: nextOffset < 0 ? startAt : nextOffset };
      });
    },
    async commitStep(_group, _moves, _published, work) {
      await work(null);
      return "committed";
    },
    leftovers: async () => [],
    deletePublished: async () => undefined,
    acceptGap: async () => undefined,
  };
}

/** A plain consumer, as the loop sees it. */
export function asStepConsumer<In>({ react, ...consumer }: PlainConsumer<In>): StepConsumer<In, null> {
  return { ...consumer, step: (batch) => react(batch) };
}
