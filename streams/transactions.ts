/**
 * Publishing in Kafka transactions: for readers of committed records each row is in the log exactly once, whatever dies and whenever.
 *
 * One transaction for the rows of one input partition, under a transactional id that names consumer and input partition. It holds the records, of
 * whatever topics, and the mark behind them (`transaction-session.ts`). Rows below the mark are not published: somebody else has done so.
 *
 * Nobody needs to know who owns a partition. A rival that publishes as well takes the epoch away, and whoever has lost it opens a new one, reads the
 * mark again and finds its rows below it.
 */
import type pino from "pino";
import { Unavailable } from "../protocol/refusal.ts";
import { createBacklog, type Waiting } from "./backlog.ts";
import type { OutboxRow, PartitionId } from "./consumer.ts";
import { placeIn, toMessage } from "./outgoing.ts";
import { partitionName } from "./partition.ts";
import type { Placed } from "./producer-session.ts";
import type { Publisher } from "./publisher.ts";
import {
  findMarks,
  openTransactionSession,
  type TransactionOptions,
  type TransactionSession,
} from "./transaction-session.ts";

export interface Transactions extends Publisher {
  close(): Promise<void>;
}

export interface TransactionsOptions extends TransactionOptions {
  readonly log: pino.Logger;
}

/** Connects for an input partition when something of it is to be published. */
export function openTransactions(options: TransactionsOptions): Transactions {
  const { kafka, group, log } = options;
  const sessions = new Map<string, TransactionSession>();
  const partitionCounts = new Map<string, number>();

  async function sessionOf(input: PartitionId): Promise<TransactionSession> {
    const name = partitionName(input);
    const session = sessions.get(name) ?? (await openTransactionSession(options, input));
    sessions.set(name, session);
    return session;
  }

  /** One transaction for one input partition: what `wanted` says in view of the mark; nothing for null. */
  async function commit(
    input: PartitionId,
    wanted: (below: number) => Promise<{ readonly rows: readonly OutboxRow[]; readonly below: number } | null>,
  ): Promise<void> {
    const session = await sessionOf(input);
    try {
      const work = await wanted(session.below);
      if (work !== null) await session.commit(await requestsOf(work.rows), work.below);
    } catch (error) {
      log.warn({ err: error, ...input }, "a transaction did not come to its end; a new epoch looks what became of it");
      sessions.delete(partitionName(input));
      await session.close();
      throw error;
    }
  }

  async function publishOf(rows: readonly OutboxRow[]): Promise<void> {
    const [{ inputTopic: topic, inputPartition: partition }] = rows as [OutboxRow];
    await commit({ topic, partition }, async (below) => {
      const fresh = rows.filter(({ inputOffset }) => inputOffset >= below);
      const last = fresh.at(-1);
      return last === undefined ? null : { rows: fresh, below: last.inputOffset + 1 };
    });
  }

  /** In requests within Kafka's limits, in order for each partition. */
  async function requestsOf(rows: readonly OutboxRow[]): Promise<readonly (readonly Placed[])[]> {
    const backlog = createBacklog<Waiting & Placed>();
    for (const row of rows) {
      const record = toMessage(row);
      backlog.add({ ...record, partition: placeIn(record, await partitionsOf(row.topic)) });
    }
    const requests: (readonly Placed[])[] = [];
    while (backlog.records > 0) requests.push(backlog.take());
    return requests;
  }

  /** Asked once: the count is fixed as soon as there is data. */
  async function partitionsOf(topic: string): Promise<number> {
    const known = partitionCounts.get(topic);
    if (known !== undefined) return known;
    const { topics } = await kafka.ask((admin) => admin.fetchTopicMetadata({ topics: [topic] }));
    const count = topics[0]?.partitions.length ?? 0;
    if (count === 0) throw new Unavailable("kafka");
    partitionCounts.set(topic, count);
    return count;
  }

  return {
    async publish(rows) {
      const inputs = Map.groupBy(rows, ({ inputTopic: topic, inputPartition: partition }) =>
        partitionName({ topic, partition }),
      );
      const ends = await Promise.allSettled(Array.from(inputs.values(), publishOf));
      for (const end of ends) if (end.status === "rejected") throw end.reason;
    },
    marks: (topics) => findMarks(kafka, group, topics),
    async setBack(input, below) {
      log.warn({ ...input, below }, "the database is older than what was published: the mark goes back");
      await commit(input, async () => ({ rows: [], below }));
    },
    keep(partitions) {
      const names = new Set(partitions.map(partitionName));
      for (const [name, session] of sessions) {
        if (names.has(name)) continue;
        sessions.delete(name);
        void session.close();
      }
    },
    async close() {
      await Promise.all(Array.from(sessions.values(), (session) => session.close()));
    },
  };
}
