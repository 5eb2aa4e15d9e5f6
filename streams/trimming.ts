/**
 * Deletes the beginning of a topic: records that are old and that every reader has passed.
 *
 * Promises: nothing that a reader has not passed is deleted, however old; nothing younger than the time is deleted, whoever has passed it. Kafka drops
 * the bytes of what was deleted when it has closed the segment they are in.
 */
import type { Admin } from "kafkajs";
import type { KafkaDoor } from "./kafka.ts";

export interface TrimOrder {
  readonly topic: string;
  /** Records appended before this may go; ms since the epoch, by the log's clock. */
  readonly beforeMs: number;
  /** For each reader where it stands, by partition: a partition that is missing is one it has never stood in. */
  readonly positions: readonly ReadonlyMap<number, number>[];
}

/** Answers how many offsets went. Rejects with `Unavailable("kafka")`. */
export function trimTopic(kafka: KafkaDoor, order: TrimOrder): Promise<number> {
  return kafka.ask(async (admin) => {
    const { topic } = order;
    // Also so that kafkajs knows the partitions' leaders: it deletes only where it has asked before.
    const ranges = await admin.fetchTopicOffsets(topic);
    const young = await firstSince(admin, topic, order.beforeMs);
    const trimmed = ranges.flatMap(({ partition, low }) => {
      const offset = Math.min(young.get(partition) ?? 0, ...order.positions.map((at) => at.get(partition) ?? 0));
      return offset > Number(low) ? [{ partition, offset, records: offset - Number(low) }] : [];
    });
    if (trimmed.length === 0) return 0;
    const partitions = trimmed.map(({ partition, offset }) => ({ partition, offset: String(offset) }));
    await admin.deleteTopicRecords({ topic, partitions });
    return trimmed.reduce((sum, { records }) => sum + records, 0);
  });
}

/** Is nothing left of what was appended before this time? Rejects with `Unavailable("kafka")`. */
export function isEmptyBefore(kafka: KafkaDoor, topic: string, beforeMs: number): Promise<boolean> {
  return kafka.ask(async (admin) => {
    const young = await firstSince(admin, topic, beforeMs);
    const ranges = await admin.fetchTopicOffsets(topic);
    return ranges.every(({ partition, low }) => (young.get(partition) ?? Number.POSITIVE_INFINITY) <= Number(low));
  });
}

/** By partition the first offset appended at this time or later; the end of the log when there is none. */
async function firstSince(admin: Admin, topic: string, ms: number): Promise<ReadonlyMap<number, number>> {
  const offsets = await admin.fetchTopicOffsetsByTimestamp(topic, ms);
  return new Map(offsets.map(({ partition, offset }) => [partition, Number(offset)]));
}
