/**
 * An operator's word that a gap is well: records between a group's position and the log are gone, and the group shall go on without them.
 */
import type { PartitionId, StepStore } from "./consumer.ts";
import type { KafkaDoor } from "./kafka.ts";

/**
 * Moves the group's position to the log's first record. A running consumer finds it at its next look (`Timing.idleCheckMs`) and goes on;
 * what was committed before is published first. Answers where it was and is; `rows-wait` where rows of records behind the new position have not left and
 * are not to be lost (`waitingRows`): nothing was moved.
 *
 * Rejects with `Unavailable`.
 */
export async function acceptGap(
  kafka: KafkaDoor,
  store: Pick<StepStore<never>, "acceptGap" | "loadPositions">,
  group: string,
  { topic, partition }: PartitionId,
  waitingRows: "delete" | "refuse" = "delete",
): Promise<{ readonly from: number; readonly to: number } | "rows-wait"> {
  const offsets = await kafka.ask((admin) => admin.fetchTopicOffsets(topic));
  const to = Number(offsets.find((one) => one.partition === partition)?.low ?? 0);
  const [before] = await store.loadPositions(group, [{ topic, partition, startAt: to }]);
  const accepted = await store.acceptGap(group, { topic, partition }, to, waitingRows);
  if (accepted === "rows-wait") return "rows-wait";
  return { from: before?.nextOffset ?? to, to };
}
