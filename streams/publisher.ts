/**
 * How an outbox's rows reach Kafka: one port, two ways.
 *
 * Plainly (here): at least once. A process that ends between Kafka's answer and the deletion of the rows leaves them to its successor, who publishes
 * them again, byte-identical under the same `ce_id`. Or in transactions (`transactions.ts`): exactly once for readers of committed records.
 */
import type { Appender, OutboxRow, PartitionId } from "./consumer.ts";

export interface Publisher {
  /**
   * Rows in order for each input partition, all rows of an input record or none. Resolves when every replica has them and they can be read. One call at
   * a time. Rejects with `Unavailable("kafka")`: each input partition's rows were published or were not, and the same call is to be made again.
   */
  publish(rows: readonly OutboxRow[]): Promise<void>;
  /**
   * By `partitionName`: everything below this input offset was published. Without partitions of which nothing is known. Rejects with
   * `Unavailable("kafka")`.
   */
  marks(topics: readonly string[]): Promise<ReadonlyMap<string, number>>;
  /** From here on only what lies below this offset counts as published. Rejects with `Unavailable("kafka")`. */
  setBack(partition: PartitionId, below: number): Promise<void>;
  /** These input partitions are ours, no others: what the others needed is let go. */
  keep(partitions: readonly PartitionId[]): void;
}

export function plainPublisher(appender: Appender): Publisher {
  return {
    publish: (rows) => appender.append(rows, { deadlineMs: "never" }),
    marks: async () => new Map(),
    setBack: async () => undefined,
    keep: () => undefined,
  };
}
