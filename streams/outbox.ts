/**
 * From the outbox to Kafka: what a step wrote is published after its commit, step after step.
 *
 * Promises: step k's rows are appended before step k + 1's; at most two steps are unpublished; a row is deleted only when every replica
 * has it. Rows that another owner left are published from the table. What is not published when the runner gives up stays in the table.
 */

import { unlessAborted } from "./backoff.ts";
import type { OutboxRow, PartitionId, StepStore } from "./consumer.ts";
import { Interrupted, type Patience } from "./patience.ts";
import type { Publisher } from "./publisher.ts";
import type { Failpoints } from "./runner-options.ts";

export type Published = PartitionId & { readonly from: number; readonly below: number };

export interface Outbox {
  /** Resolves when one more step may be committed. Rejects with `Interrupted`. */
  room(until: AbortSignal): Promise<void>;
  /** Takes what a committed step wrote; does not wait. `onPublished` is called when Kafka has it all. */
  publish(rows: readonly OutboxRow[], onPublished: () => void): void;
  /**
   * Publishes the rows of a partition that stand in the table and were not published by this runner, in order. Nothing may be on its
   * way: `drained` first. Rejects with `Interrupted`.
   */
  publishLeftovers(partition: PartitionId, until: AbortSignal): Promise<void>;
  /** Resolves when everything handed over is published. Rejects with `Interrupted`. */
  drained(until: AbortSignal): Promise<void>;
  /** Ranges of input offsets whose rows are published and still in the table. */
  published(): readonly Published[];
  /** Forgets them: they were deleted. */
  forget(published: readonly Published[]): void;
  /** Steps of ours that are unpublished, and for how long the oldest, or what another owner left, has been waiting to leave. */
  state(): { readonly steps: number; readonly ageSeconds: number };
}

export interface OutboxOptions {
  readonly group: string;
  readonly store: Pick<StepStore<never>, "leftovers">;
  readonly publisher: Pick<Publisher, "publish">;
  readonly patience: Patience;
  readonly failpoints: Failpoints;
  readonly givenUp: AbortSignal;
  readonly onFatal: (error: unknown) => void;
  /** What must be done before these rows may leave. Rejects with `Unavailable`: it is done again. */
  readonly announce?: ((rows: readonly OutboxRow[]) => Promise<void>) | undefined;
  /**
   * Asked then: those that are still in the table may leave. The others another owner has published, or the database that held them is gone and
   * whoever goes on in this one was not told in time. Rejects with `Unavailable`.
   */
  readonly stillWaiting?: ((rows: readonly OutboxRow[]) => Promise<readonly OutboxRow[]>) | undefined;
}

/** One on its way and one behind it: more would not be faster, only more to repeat after a crash. */
const unpublishedStepsMax = 2;
/** Rows of a large step, a few MB at most. */
const leftoversPage = 100;
/** PostgreSQL's largest integer: behind every row of an offset. */
const nMax = 2_147_483_647;

export function createOutbox(options: OutboxOptions): Outbox {
  const { group, store, publisher, patience, failpoints, givenUp, onFatal, announce, stillWaiting } = options;
  const marks = new Map<string, Published>();
  /** When each unpublished step was committed, oldest first. */
  const unpublished: number[] = [];
  /** Since when leftovers are on their way; null while none are. */
  let leftoversSince: number | null = null;
  let last: Promise<void> = Promise.resolve();
  const waiting: (() => void)[] = [];

  async function append(rows: readonly OutboxRow[], until: AbortSignal): Promise<void> {
    if (rows.length === 0) return;
    if (announce !== undefined) await patience.persist(() => announce(rows), until);
    const leaving = stillWaiting === undefined ? rows : await patience.persist(() => stillWaiting(rows), until);
    if (leaving.length > 0) await patience.persist(() => publisher.publish(leaving), until);
  }

  /** Rows of these input offsets are published, and so is everything between them and an earlier mark. */
  function mark({ topic, partition }: PartitionId, from: number, below: number): void {
    const name = nameOf({ topic, partition });
    marks.set(name, { topic, partition, from: marks.get(name)?.from ?? from, below });
  }

  async function publishStep(rows: readonly OutboxRow[], onPublished: () => void): Promise<void> {
    await append(rows, givenUp);
    failpoints.hit("after-publish");
    // In order: the last row of each partition is the mark that stays.
    for (const { inputTopic: topic, inputPartition: partition, inputOffset } of rows) {
      mark({ topic, partition }, inputOffset, inputOffset + 1);
    }
    unpublished.shift();
    onPublished();
    for (const wake of waiting.splice(0)) wake();
  }

  return {
    async room(until) {
      while (unpublished.length >= unpublishedStepsMax) {
        await unlessAborted(new Promise<void>((resolve) => waiting.push(resolve)), until);
        if (until.aborted) throw new Interrupted();
      }
    },

    publish(rows, onPublished) {
      unpublished.push(Date.now());
      last = last
        .then(() => publishStep(rows, onPublished))
        .catch((error: unknown) => {
          if (!givenUp.aborted) onFatal(error);
          // Nothing that comes after this step may be published by this runner.
          return new Promise<never>(() => undefined);
        });
    },

    async publishLeftovers(id, until) {
      let after = { inputOffset: (marks.get(nameOf(id))?.below ?? 0) - 1, n: nMax };
      let first: number | undefined;
      let held: readonly OutboxRow[] = [];
      for (;;) {
        const rows = await patience.persist(() => store.leftovers(group, id, leftoversPage, after), until);
        first ??= rows[0]?.inputOffset;
        after = rows.at(-1) ?? after;
        const isEnd = rows.length < leftoversPage;
        const known = [...held, ...rows];
        // All rows of an input record at once: those of the last one may go on in the next page.
        const whole = isEnd ? known : known.filter(({ inputOffset }) => inputOffset < after.inputOffset);
        leftoversSince = Date.now();
        await append(whole, until).finally(() => {
          leftoversSince = null;
        });
        held = known.slice(whole.length);
        if (isEnd) break;
      }
      if (first !== undefined) mark(id, first, after.inputOffset + 1);
    },

    async drained(until) {
      await unlessAborted(last, until);
      if (until.aborted && unpublished.length > 0) throw new Interrupted();
    },
    published: () => Array.from(marks.values()),
    forget(published) {
      for (const one of published) {
        const now = marks.get(nameOf(one));
        if (now === one) marks.delete(nameOf(one));
        // More was published meanwhile. The next deletion begins behind this one, or it would wade through its remains.
        else if (now !== undefined && now.from < one.below && one.below <= now.below)
          marks.set(nameOf(one), { ...now, from: one.below });
      }
    },
    state() {
      const oldest = unpublished[0] ?? leftoversSince;
      return { steps: unpublished.length, ageSeconds: oldest === null ? 0 : (Date.now() - oldest) / 1_000 };
    },
  };
}

function nameOf({ topic, partition }: PartitionId): string {
  return `${topic} ${partition}`;
}
