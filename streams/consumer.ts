/**
 * What a consumer is, and the ports the runner needs to run one.
 *
 * A consumer is a pure decision over a batch: it has no try/catch, retry, logging, metrics or clock of its own; position, commit,
 * publishing, halving and retries are the runner's (architecture §1.2).
 */
import type { Topic } from "./topic.ts";

/** A decoded record. */
export interface Inbound<T> {
  readonly topic: Topic<T>;
  readonly partition: number;
  readonly offset: number;
  readonly key: string;
  readonly value: T;
  readonly headers: Readonly<Record<string, string>>;
  /** LogAppendTime, ms since the epoch. */
  readonly timestamp: number;
}

/** A record that could not be used, as the dead-letter rule sees it: the raw facts, no value. */
export type Rejected = Omit<Inbound<unknown>, "value" | "topic"> & { readonly topic: string };

/** A record on its way to the dead letters, and why. */
export interface DeadLetter {
  readonly record: Rejected;
  readonly code: string;
}

/** Something a consumer tells the world because of one record it was handed. */
export interface Emit<T = unknown> {
  readonly topic: Topic<T>;
  readonly key: string;
  /** The record that caused it: names the event (`ce_id`) and its place in the outbox. */
  readonly cause: Pick<Inbound<unknown>, "partition" | "offset"> & { readonly topic: { readonly name: string } };
  /** When it happened, from the data and not from the clock: a repeat must be byte-identical. ms since the epoch. */
  readonly time: number;
  /** `ce_subject`. */
  readonly subject: string;
  /** The value, given the event's id. */
  readonly value: (eventId: string) => T;
}

/** Fetch larger and later, for consumers nobody waits for: waking up costs more than the work. */
export interface Pace {
  readonly bytesMin: number;
  readonly waitMsMax: number;
}

interface ConsumerBase<In> {
  /** Consumer group, folder and metric label. */
  readonly name: string;
  readonly reads: readonly Topic<In>[];
  readonly pace?: Pace;
  /**
   * Throws a `Refusal` when a decoded record can never be applied: it becomes a dead letter at once. Pure.
   */
  readonly check?: (record: Inbound<In>) => void;
  /**
   * When a record may be applied, ms since the epoch; at most two minutes after its append. Until then it and what is behind it in its partition
   * wait in the log: the partition is not fetched, the others go on. Left out: at once. Pure.
   */
  readonly dueAt?: (record: Inbound<In>) => number;
  /** How many items a record stands for, where it is more than one: a step takes at most 2,000. Pure. */
  readonly itemsOf?: (record: Inbound<In>) => number;
  /**
   * Topics whose dead letters this group makes; a record of another one that cannot be used is passed over. Where several groups read a topic, one of them makes the dead letter
   * and tells the world, and a second would only say the same again. Left out: of all topics that it reads.
   */
  readonly deadLettersOf?: readonly Topic<unknown>[];
  /** What to tell the world about a dead letter, where it had been answered 202. Pure; sees only headers and key. */
  readonly lament?: (record: Rejected, code: string) => readonly Emit[];
}

/** Changes state: one PostgreSQL transaction a step. `Tx` is what `store/` offers inside it. */
export interface StepConsumer<In, Tx> extends ConsumerBase<In> {
  /** Handed all records of a step, in order for each key. Returns what to emit, in order for each cause. */
  readonly step: (batch: readonly Inbound<In>[], tx: Tx) => Promise<readonly Emit[]>;
  /**
   * What to keep of the dead letters of a step, in its transaction, beside what `lament` tells of them; in their order. Whatever stands in them, it must be possible to write it:
   * a dead letter that cannot be made ends the process.
   */
  readonly bury?: (letters: readonly DeadLetter[], tx: Tx) => Promise<void>;
  /**
   * `stand`: in a database that was put back from a backup it applies nothing until an operator has seen to it (docs/restore.md), for what it did
   * since must not be done again as if for the first time. To know it, Kafka is told the position before anything that came of it leaves
   * (`witness.ts`). Left out: what it did since is done again.
   *
   * `stand-together`: its state crosses partitions, so none may go on where any is behind, in any process. Each step asks Kafka anew.
   */
  readonly afterRestore?: "stand" | "stand-together";
}

/** Keeps no state in PostgreSQL: plain at-least-once; commits the offset when what it returned is published. */
export interface PlainConsumer<In> extends ConsumerBase<In> {
  readonly react: (batch: readonly Inbound<In>[]) => Promise<readonly Emit[]>;
}

/** A record on its way to Kafka, encoded. */
export interface Outgoing {
  readonly topic: string;
  /** Text, except in a dead letter, which keeps the bytes it came with. */
  readonly key: string | Uint8Array;
  readonly value: Uint8Array;
  /** CloudEvents binary mode, `traceparent`; text values. */
  readonly headers: Readonly<Record<string, string>>;
}

/** Appends records to the log; `streams/producer.ts` implements it. */
export interface Appender {
  /**
   * Resolves when every replica has all of them (acks=all). Records with the same key stay in the order of the calls.
   *
   * `deadlineMs` bounds the wait; `"never"` waits for as long as Kafka is away. Without it the appender's own bound holds.
   *
   * Throws `Overloaded` (nothing was taken: too much waits already) or `Unavailable("kafka")` at the deadline: then each record
   * was written or was not. The same records under the same `ce_id` may be appended again without harm.
   */
  append(records: readonly Outgoing[], options?: { readonly deadlineMs?: number | "never" }): Promise<void>;
}

/** An outbox row: `Outgoing` under the input position that caused it, and its number there. */
export interface OutboxRow extends Outgoing {
  readonly inputTopic: string;
  readonly inputPartition: number;
  readonly inputOffset: number;
  readonly n: number;
}

export interface PartitionId {
  readonly topic: string;
  readonly partition: number;
}

/** A move of a position: compare-and-set from `from` to `to` (the next offset to apply). */
export interface Move extends PartitionId {
  readonly from: number;
  readonly to: number;
}

/** How far a whole group is in a database. */
export interface GroupReached {
  readonly generation: number;
  /** An operator's command found that it must not go on, whatever Kafka was told. */
  readonly isHeld: boolean;
  /** Partitions that nobody has taken over yet have none. */
  readonly positions: readonly (PartitionId & { readonly nextOffset: number })[];
}

/**
 * The runner's port to PostgreSQL; `store/steps.ts` implements it.
 *
 * Throws `Unavailable` (nothing happened), `CommitUnknown` (the answer to COMMIT was lost: ask for the positions), `RecordFault`
 * (a record's data was refused by the database), all from `protocol/refusal.ts`.
 */
export interface StepStore<Tx> {
  /** Current positions; a partition without one gets `startAt`. */
  loadPositions(
    group: string,
    partitions: readonly (PartitionId & { readonly startAt: number })[],
  ): Promise<readonly (PartitionId & { readonly nextOffset: number })[]>;
  /** Outbox rows of one input partition, in key order (offset, n), behind `after`; at most `limit`. */
  leftovers(
    group: string,
    partition: PartitionId,
    limit: number,
    after?: { readonly inputOffset: number; readonly n: number },
  ): Promise<readonly OutboxRow[]>;
  /**
   * One step: moves every position (compare-and-set), runs `work`, writes its outbox rows, deletes published ones. All or nothing.
   * Answers `moved` when another owner was faster: nothing was written. `reach` asks the database in which this step would be committed.
   */
  commitStep(
    group: string,
    moves: readonly Move[],
    published: readonly (PartitionId & { readonly from: number; readonly below: number })[],
    work: (tx: Tx, reach: () => Promise<GroupReached>) => Promise<readonly OutboxRow[]>,
  ): Promise<"committed" | "moved">;
  /** Those of the rows that stand in the table, byte for byte; in their order. */
  stillWaiting(group: string, rows: readonly OutboxRow[]): Promise<readonly OutboxRow[]>;
  /**
   * Deletes published rows: those of the partition from one input offset to below another. The lower bound spares the index the remains of all
   * rows before.
   */
  deletePublished(
    group: string,
    published: readonly (PartitionId & { readonly from: number; readonly below: number })[],
  ): Promise<void>;
  /** How often the database was put back from a backup and an operator said so. */
  loadGeneration(): Promise<number>;
  loadReached(group: string): Promise<GroupReached>;
  /**
   * An operator accepts a gap: the position becomes `nextOffset`, whatever it was. Unpublished rows from there on are deleted; with `refuse`, where there
   * are any, nothing happens and `rows-wait` is answered.
   */
  acceptGap(
    group: string,
    partition: PartitionId,
    nextOffset: number,
    waitingRows?: "delete" | "refuse",
  ): Promise<"accepted" | "rows-wait">;
}
