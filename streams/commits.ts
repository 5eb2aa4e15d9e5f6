/**
 * The offsets that a group tells Kafka: one commit at a time, and of a partition none behind an earlier one, however many ask.
 */
import { Unavailable } from "../protocol/refusal.ts";
import type { OutboxRow, PartitionId } from "./consumer.ts";
import { createExclusive } from "./exclusive.ts";
import { partitionName } from "./partition.ts";
import type { Failpoints } from "./runner-options.ts";
import type { Subscription } from "./subscription.ts";

export type Offset = PartitionId & { readonly nextOffset: number };

export interface Commits {
  /** A partition is taken over: what was told of it last, or -1. */
  begin(partition: PartitionId, nextOffset: number): void;
  /** Of this partition Kafka is told nothing: what it knows is still needed. */
  silence(partition: PartitionId): void;
  /** Tells Kafka, where it does not know as much already. `note` stands beside the offsets. Rejects with `Unavailable("kafka")`: some may be told. */
  commit(offsets: readonly Offset[], note?: string): Promise<void>;
}

export function createCommits(subscription: () => Subscription | null, failpoints: Failpoints): Commits {
  const exclusive = createExclusive();
  const told = new Map<string, number>();
  return {
    begin: (partition, nextOffset) => void told.set(partitionName(partition), nextOffset),
    silence: (partition) => void told.set(partitionName(partition), Number.POSITIVE_INFINITY),
    commit: (offsets, note) =>
      exclusive.run(async () => {
        const due = offsets.filter((one) => one.nextOffset > (told.get(partitionName(one)) ?? -1));
        if (due.length === 0) return;
        const current = subscription();
        if (current === null) throw new Unavailable("kafka");
        failpoints.hit("before-offset-commit");
        await current.commit(due, note);
        failpoints.hit("after-offset-commit");
        for (const one of due) told.set(partitionName(one), one.nextOffset);
      }),
  };
}

/** The positions behind the records that these rows came of; the rows are in order. Pure. */
export function behindRows(rows: readonly OutboxRow[]): readonly Offset[] {
  const last = new Map<string, Offset>();
  for (const { inputTopic: topic, inputPartition: partition, inputOffset } of rows) {
    last.set(partitionName({ topic, partition }), { topic, partition, nextOffset: inputOffset + 1 });
  }
  return [...last.values()];
}
