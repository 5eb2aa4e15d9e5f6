/**
 * One epoch of one transactional id: who publishes what came of one input partition, until somebody else does.
 *
 * Opening it makes every older one powerless: Kafka ends its transaction, and refuses whatever it still sends. Only then the mark is read: the input
 * offset below which everything was published. A transaction holds records and the mark behind them, so nobody publishes a second time what lies below
 * the mark, and nothing below it is missing.
 *
 * kafkajs 2.2.4 commits such offsets without the group's generation, and so has no other fence than the transactional id.
 */
import type { Transaction } from "kafkajs";
import { Unavailable } from "../protocol/refusal.ts";
import { pause } from "./backoff.ts";
import type { PartitionId } from "./consumer.ts";
import type { KafkaDoor } from "./kafka.ts";
import { partitionName } from "./partition.ts";
import { createPartitioner, disconnect, type Placed, sendAcknowledged } from "./producer-session.ts";
import type { Failpoints } from "./runner-options.ts";

export interface TransactionSession {
  /** Of the input partition everything below this offset is published. */
  readonly below: number;
  /**
   * Publishes the requests' records, in order, and moves the mark, both or neither. One call at a time. Rejects with `Unavailable("kafka")`: it
   * happened or did not, and the session is used up.
   */
  commit(requests: readonly (readonly Placed[])[], below: number): Promise<void>;
  /** Never throws. */
  close(): Promise<void>;
}

export interface TransactionOptions {
  readonly kafka: KafkaDoor;
  /** The consumer's; its marks are the offsets of the group `<group>-published`. */
  readonly group: string;
  readonly failpoints: Failpoints;
}

/**
 * Readers of committed records wait for an open transaction this long at most, when its producer has died. Shorter, and a pause of the machine would
 * end transactions that only had to wait.
 */
const transactionMsMax = 10_000;
/** Kafka says so for a moment after each commit, while it writes the end of the transaction into the partitions. */
const stillEndingPauseMs = 20;
const stillEndingMsMax = 5_000;
const retry = { initialRetryTime: 20, maxRetryTime: 1_000, retries: 5 };

function marksGroupOf(group: string): string {
  return `${group}-published`;
}

/** Connects, and fences whoever published for this input partition before. Rejects with `Unavailable("kafka")`. */
export async function openTransactionSession(
  { kafka, group, failpoints }: TransactionOptions,
  input: PartitionId,
): Promise<TransactionSession> {
  const marks = marksGroupOf(group);
  const producer = kafka.client.producer({
    transactionalId: `${group}-${input.topic}-${input.partition}`,
    transactionTimeout: transactionMsMax,
    maxInFlightRequests: 1,
    allowAutoTopicCreation: false,
    createPartitioner,
    retry,
  });
  /** kafkajs asks for its epoch with the first transaction, and Kafka hears of one only when something is in it. */
  let next: Transaction | null;
  let below: number;
  try {
    await producer.connect();
    next = await producer.transaction();
    below = (await findMarks(kafka, group, [input.topic])).get(partitionName(input)) ?? 0;
  } catch (error) {
    await disconnect(producer);
    throw error instanceof Unavailable ? error : new Unavailable("kafka", error);
  }
  const acknowledged = new Map<string, number>();

  /** First of all in a transaction: repeating it is harmless, repeating records would not be. */
  async function begin(transaction: Transaction, to: number): Promise<void> {
    const offsets = { partition: input.partition, offset: String(to) };
    for (const until = Date.now() + stillEndingMsMax; ; ) {
      try {
        await transaction.sendOffsets({
          consumerGroupId: marks,
          topics: [{ topic: input.topic, partitions: [offsets] }],
        });
        return;
      } catch (error) {
        if (!isStillEnding(error) || Date.now() > until) throw error;
        await pause(stillEndingPauseMs);
      }
    }
  }

  return {
    get below() {
      return below;
    },
    async commit(requests, to) {
      try {
        const transaction = next ?? (await producer.transaction());
        next = null;
        failpoints.hit("before-transaction");
        await begin(transaction, to);
        failpoints.hit("after-mark");
        for (const records of requests) await sendAcknowledged(transaction, records, acknowledged);
        failpoints.hit("before-transaction-commit");
        await transaction.commit();
        failpoints.hit("after-transaction-commit");
      } catch (error) {
        throw error instanceof Unavailable ? error : new Unavailable("kafka", error);
      }
      below = to;
    },
    close: () => disconnect(producer),
  };
}

/** By `partitionName`; without those that have none. Rejects with `Unavailable("kafka")`. */
export async function findMarks(
  kafka: KafkaDoor,
  group: string,
  topics: readonly string[],
): Promise<ReadonlyMap<string, number>> {
  const groupId = marksGroupOf(group);
  const answers = await kafka.ask((admin) => admin.fetchOffsets({ groupId, topics: [...new Set(topics)] }));
  return new Map(
    answers.flatMap(({ topic, partitions }) =>
      partitions.flatMap(({ partition, offset }): [string, number][] => {
        // -1 stands for no commit.
        return Number(offset) < 0 ? [] : [[partitionName({ topic, partition }), Number(offset)]];
      }),
    ),
  );
}

function isStillEnding(error: unknown): boolean {
  return error instanceof Error && (error as Error & { readonly type?: unknown }).type === "CONCURRENT_TRANSACTIONS";
}
