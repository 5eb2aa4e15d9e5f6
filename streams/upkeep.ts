/**
 * What a runner does by the clock, off the path of records: offset commits, the end of published rows, a look at idle partitions, lag,
 * and the watchdog for a consumer that stands still without an error (tulios/kafkajs#659).
 */
import type pino from "pino";
import { Unavailable } from "../protocol/refusal.ts";
import type { Commits } from "./commits.ts";
import type { PartitionId, StepStore } from "./consumer.ts";
import type { LogRange } from "./log-range.ts";
import type { Outbox } from "./outbox.ts";
import type { Owned, Ownership } from "./ownership.ts";
import { partitionName } from "./partition.ts";
import type { RunnerMetrics, Timing } from "./runner-options.ts";

export interface PartitionLag extends PartitionId {
  /** Records not yet applied. */
  readonly records: number;
  /** The partition stands until an operator has seen to it. */
  readonly stopped: boolean;
}

export interface UpkeepOptions {
  readonly group: string;
  /** All that the group reads. */
  readonly topics: readonly string[];
  readonly store: Pick<StepStore<never>, "deletePublished">;
  readonly outbox: Outbox;
  readonly ownership: Pick<Ownership, "ranges">;
  readonly timing: Timing;
  readonly metrics: RunnerMetrics;
  readonly log: pino.Logger;
  /** Partitions whose positions are loaded; null while there is no assignment. */
  owned(): readonly Owned[] | null;
  readonly commits: Pick<Commits, "commit">;
  /** Stands beside committed offsets. */
  note(): string | undefined;
  /** When the runner was last held up by something it knows of, as `performance.now()` tells it. */
  heldUpAt(): number;
  check(): Promise<void>;
  onStall(): void;
  /** Nothing waits to be read. */
  onRest(): void;
}

export interface Upkeep {
  lag(): readonly PartitionLag[];
  /** Ends the timers, then tidies up once more: deletes what is published, commits offsets. Never rejects. */
  stop(): Promise<void>;
}

export function startUpkeep(options: UpkeepOptions): Upkeep {
  const { group, store, outbox, ownership, timing, commits, metrics, log } = options;
  let lags: readonly PartitionLag[] = [];
  let assignedAt = performance.now();
  let excusedAt = 0;
  const timers = [
    every(timing.tickMs, async () => {
      const { steps, ageSeconds } = outbox.state();
      metrics.outbox(group, { steps, ageSeconds });
      const lastStepAt = Math.max(0, ...(options.owned() ?? []).map(({ progressAt }) => progressAt));
      if (performance.now() - lastStepAt >= timing.tickMs) await deletePublished();
    }),
    every(timing.tickMs, commitOffsets),
    every(timing.lagMs, look),
    every(timing.idleCheckMs, options.check),
  ];

  function every(ms: number, work: () => Promise<void>): NodeJS.Timeout {
    let busy = false;
    return setInterval(() => {
      if (busy) return;
      busy = true;
      void quietly(work).finally(() => {
        busy = false;
      });
    }, ms);
  }

  async function quietly(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      // Nothing depends on it: the next round does it.
      if (error instanceof Unavailable) log.debug({ err: error }, "upkeep is put off");
      else log.error({ err: error }, "upkeep failed");
    }
  }

  /** At rest; while there are steps, the next one does it. */
  async function deletePublished(): Promise<void> {
    const published = outbox.published();
    if (published.length === 0) return;
    await store.deletePublished(group, published);
    outbox.forget(published);
  }

  async function commitOffsets(): Promise<void> {
    const owned = options.owned() ?? [];
    const offsets = owned.map(({ topic, partition, published }) => ({ topic, partition, nextOffset: published }));
    await commits.commit(offsets, options.note());
  }

  /**
   * From when on it counts that nothing comes. Each failure to reach a server sets it back, and no more than that: as long as servers are away nobody stands still, and
   * when they are back there is as much time to go on as ever. But whoever has failed once, is at it again and gets no answer any more is no excuse for ever: an attempt that
   * a server owes an answer ends sooner than a stall begins (`Timing.stallMs`), so what hangs for longer hangs by our own doing.
   */
  function countedFrom(): number {
    return Math.max(excusedAt, options.heldUpAt());
  }

  function stall(): void {
    // What is built anew has its time.
    excusedAt = performance.now();
    options.onStall();
  }

  async function rangesNow(): Promise<ReadonlyMap<string, LogRange>> {
    try {
      return await ownership.ranges(options.topics);
    } catch (error) {
      excusedAt = performance.now();
      throw error;
    }
  }

  async function look(): Promise<void> {
    const ranges = await rangesNow();
    const owned = options.owned();
    const now = performance.now();
    if (owned === null) {
      // Joining a group takes seconds; one that is never joined is a stall as well.
      if (now - Math.max(assignedAt, countedFrom()) > 2 * timing.stallMs) stall();
      return;
    }
    assignedAt = now;
    // What another member has now is for that one to report.
    const gone = lags.filter((one) => !owned.some((other) => partitionName(other) === partitionName(one)));
    for (const { topic, partition } of gone) metrics.lag(group, topic, partition, 0);
    lags = owned.map((partition) => {
      const end = ranges.get(partitionName(partition))?.high ?? partition.position;
      const records = Math.max(0, end - Math.max(partition.position, partition.seen));
      const hasNothingToDo = records === 0 || partition.heldUntil > Date.now();
      if (hasNothingToDo) partition.progressAt = Math.max(partition.progressAt, now - timing.tickMs);
      metrics.lag(group, partition.topic, partition.partition, records);
      return { topic: partition.topic, partition: partition.partition, records, stopped: partition.stopped !== null };
    });
    metrics.gaps(group, owned.filter(({ stopped }) => stopped === "gap" || stopped === "cut").length);
    metrics.restored(group, owned.filter(({ stopped }) => stopped === "restored").length);
    const behind = owned.filter(({ stopped }, index) => stopped === null && (lags[index]?.records ?? 0) > 0);
    if (behind.length === 0) options.onRest();
    const from = countedFrom();
    if (behind.some(({ progressAt }) => now - Math.max(progressAt, from) > timing.stallMs)) stall();
  }

  return {
    lag: () => lags,
    async stop() {
      for (const timer of timers) clearInterval(timer);
      await Promise.all([quietly(deletePublished), quietly(commitOffsets)]);
    },
  };
}
