/**
 * What the runner is given, and what it tells: ports with nothing of Kafka's or PostgreSQL's in them.
 */
import type pino from "pino";
import type { Codec } from "./codec.ts";
import type { Appender, Emit, StepStore } from "./consumer.ts";
import type { KafkaDoor } from "./kafka.ts";
import type { Publisher } from "./publisher.ts";

/** For a consumer without state. */
export interface PlainRunnerOptions {
  readonly kafka: KafkaDoor;
  readonly codec: Codec;
  readonly appender: Appender;
  readonly log: pino.Logger;
  readonly metrics: RunnerMetrics;
  /**
   * Called once, when going on would be wrong: a bug (neither the input's fault nor the world's) or a consumer that stays stalled. The
   * process shall end and be started again; nothing is lost by it.
   */
  readonly onFatal: (error: unknown) => void;
  readonly failpoints?: Failpoints;
  readonly timing?: Partial<Timing>;
}

/** For a consumer with state. */
export interface StepRunnerOptions<Tx> extends PlainRunnerOptions {
  readonly store: StepStore<Tx>;
  /** How what a step emits is published. Left out: by the appender. */
  readonly publisher?: Publisher | undefined;
  /**
   * Told what a step emitted as soon as it is committed, for whoever in this process need not wait for it to be published. A hint: after a crash, or
   * when the answer to COMMIT was lost, nobody is told. Must not throw.
   */
  readonly onCommitted?: ((emits: readonly Emit[]) => void) | undefined;
}

/** A consumer that stands still, also after it was built anew: the process is to be started again. */
export class StoodStill extends Error {
  override readonly name = "StoodStill";

  constructor() {
    super("the consumer stands still, also after it was built anew");
  }
}

/** The moments at which a test ends the process: between any two of them everything is as a crash may find it. */
export type Failpoint =
  | "before-commit"
  | "after-commit"
  | "before-transaction"
  | "after-mark"
  | "before-transaction-commit"
  | "after-transaction-commit"
  | "after-publish"
  | "before-offset-commit"
  | "after-offset-commit";

export interface Failpoints {
  hit(point: Failpoint): void;
}

/** What a run shows to whoever watches. `group` is the consumer's name. Cheap and must not throw. */
export interface RunnerMetrics {
  step(group: string, step: { readonly records: number; readonly seconds: number }): void;
  deadLetter(group: string, topic: string, code: string): void;
  retry(group: string, door: string): void;
  lag(group: string, topic: string, partition: number, records: number): void;
  /** Steps committed and not yet published, and how long the oldest of them waits. */
  outbox(group: string, state: { readonly steps: number; readonly ageSeconds: number }): void;
  /** Partitions that stand still because their position lies outside the log: an operator must look. */
  gaps(group: string, partitions: number): void;
  /** Partitions that stand still because the database is older than what Kafka was told: an operator must look. */
  restored(group: string, partitions: number): void;
}

/** ms. */
export interface Timing {
  /** How often positions of idle partitions are read again: what another owner left is found within this. */
  readonly idleCheckMs: number;
  /**
   * Lag without progress for this long while no server is away, and the Kafka consumer is built anew; once more, and the process ends. Longer than it takes until a server
   * that does not answer is found to be away (30 s of Kafka's and of PostgreSQL's, and the wait for a connection), or each freeze would be taken for a stall.
   */
  readonly stallMs: number;
  /** Offset commits, deletion of published rows, the watchdog's look. */
  readonly tickMs: number;
  /** How often Kafka is asked for the ends of the log. */
  readonly lagMs: number;
  /** How long `stop` waits for what is committed to be published. */
  readonly drainMs: number;
  /**
   * After this long without a heartbeat the group gives a member's partitions to others; a process that was killed is missed that long.
   * Shorter is safe (the position is the fence) and answers every pause of a busy machine with a rebalance.
   */
  readonly sessionMs: number;
}

export const usualTiming: Timing = {
  idleCheckMs: 30_000,
  stallMs: 60_000,
  tickMs: 1_000,
  lagMs: 10_000,
  drainMs: 5_000,
  sessionMs: 10_000,
};

export const noMetrics: RunnerMetrics = {
  step: () => undefined,
  deadLetter: () => undefined,
  retry: () => undefined,
  lag: () => undefined,
  outbox: () => undefined,
  gaps: () => undefined,
  restored: () => undefined,
};
