/**
 * The partitions a runner owns: where each stands, and whether that place is still in the log.
 *
 * Taking a partition over is: read its position, publish what its last owner committed and did not publish, go to the position. It does
 * not wait for a batch: an idle partition's leftovers would wait with it. A position outside the log (a recreated topic, a cut tail,
 * expired records) stops the partition until an operator accepts the gap (`gap.ts`): records are missing, and nobody but a person can
 * say that this is well.
 */
import type pino from "pino";
import { pause } from "./backoff.ts";
import type { PartitionId, StepStore } from "./consumer.ts";
import type { KafkaDoor } from "./kafka.ts";
import { isInside, type LogRange } from "./log-range.ts";
import type { Outbox } from "./outbox.ts";
import type { Patience } from "./patience.ts";
import { Interrupted } from "./patience.ts";

/** A partition in this runner's hands. */
export interface Owned extends PartitionId {
  /** The next offset to apply: as PostgreSQL has it, as far as we know. */
  position: number;
  /** Everything below is applied and published. */
  published: number;
  /** What the coordinator was told last; -1 for nothing yet. */
  committed: number;
  /** Everything below was fetched, records without data included. */
  seen: number;
  /** Not fetched, because the position lies outside the log. */
  stopped: boolean;
  /** When it last went forward, or had nothing to go forward to. ms. */
  progressAt: number;
}

/** What ownership does to the fetching side. */
export interface Fetching {
  seek(partition: PartitionId, offset: number): void;
  pause(partition: PartitionId): void;
  resume(partition: PartitionId): void;
}

export interface OwnershipOptions {
  readonly group: string;
  readonly kafka: KafkaDoor;
  readonly store: Pick<StepStore<never>, "loadPositions">;
  readonly outbox: Outbox;
  readonly patience: Patience;
  readonly fetching: Fetching;
  readonly log: pino.Logger;
  /** A consumer without state has nothing that could be missing: it begins again at the log's start. */
  readonly atGap: "stop" | "begin-again";
}

export interface Ownership {
  /** Takes partitions over. Rejects with `Interrupted`. */
  take(partitions: readonly PartitionId[], until: AbortSignal): Promise<Owned[]>;
  /** Does the same again for partitions at rest: positions may have been moved, leftovers left, a gap accepted. */
  check(partitions: readonly Owned[], until: AbortSignal): Promise<void>;
  /** Answers whether the position is in the log; if it is not, the partition is stopped or begins again. Seeks where it goes on. */
  confirm(partition: Owned, until: AbortSignal): Promise<boolean>;
  /** Where the log of these topics' partitions begins and ends, by `partitionName`. Rejects with `Unavailable("kafka")`. */
  ranges(topics: readonly string[]): Promise<ReadonlyMap<string, LogRange>>;
}

/** A new leader may say for a moment that the log is shorter than it is. */
const secondLookMs = 1_000;

export function partitionName({ topic, partition }: PartitionId): string {
  return `${topic} ${partition}`;
}

export function createOwnership(options: OwnershipOptions): Ownership {
  const { group, kafka, store, outbox, patience, fetching, log, atGap } = options;

  async function ranges(topics: readonly string[]): Promise<ReadonlyMap<string, LogRange>> {
    const found = new Map<string, LogRange>();
    await kafka.ask(async (admin) => {
      for (const topic of new Set(topics)) {
        for (const { partition, low, high } of await admin.fetchTopicOffsets(topic)) {
          found.set(partitionName({ topic, partition }), { low: Number(low), high: Number(high) });
        }
      }
    });
    return found;
  }

  async function positionsOf(partitions: readonly PartitionId[], until: AbortSignal) {
    const log = await patience.persist(() => ranges(partitions.map(({ topic }) => topic)), until);
    // A group that is new to a partition begins at its start.
    const wanted = partitions.map((id) => ({ ...id, startAt: log.get(partitionName(id))?.low ?? 0 }));
    const loaded = await patience.persist(() => store.loadPositions(group, wanted), until);
    return loaded.map(({ topic, partition, nextOffset }) => ({
      id: { topic, partition },
      position: nextOffset,
      range: log.get(partitionName({ topic, partition })) ?? { low: 0, high: 0 },
    }));
  }

  function goTo(owned: Owned): void {
    fetching.seek(owned, owned.position);
    fetching.resume(owned);
    if (owned.stopped) log.info(placeOf(owned), "the position is in the log again: the partition goes on");
    owned.stopped = false;
  }

  function stop(owned: Owned, range: LogRange): void {
    fetching.pause(owned);
    if (owned.stopped) return;
    owned.stopped = true;
    log.error(
      { ...placeOf(owned), ...range },
      "the position is outside the log: the partition stands until the gap is accepted",
    );
  }

  async function settle(owned: Owned, range: LogRange, until: AbortSignal): Promise<boolean> {
    if (isInside(owned.position, range)) {
      goTo(owned);
      return true;
    }
    if (!owned.stopped && owned.position > range.high) {
      await pause(secondLookMs, until);
      if (until.aborted) throw new Interrupted();
    }
    return confirm(owned, until);
  }

  async function confirm(owned: Owned, until: AbortSignal): Promise<boolean> {
    const range = (await patience.persist(() => ranges([owned.topic]), until)).get(partitionName(owned));
    const inside = range !== undefined && isInside(owned.position, range);
    if (!inside && atGap === "stop") {
      stop(owned, range ?? { low: 0, high: 0 });
      return false;
    }
    if (!inside) {
      log.warn(
        { ...placeOf(owned), ...range },
        "the position is outside the log: the partition begins again at its start",
      );
      owned.position = range?.low ?? 0;
    }
    goTo(owned);
    return inside;
  }

  return {
    ranges,
    confirm,

    async take(partitions, until) {
      // More members than partitions: some have none.
      if (partitions.length === 0) return [];
      await outbox.drained(until);
      const taken: Owned[] = [];
      for (const { id, position, range } of await positionsOf(partitions, until)) {
        await outbox.publishLeftovers(id, until);
        const owned = {
          ...id,
          position,
          published: position,
          committed: -1,
          seen: 0,
          stopped: false,
          progressAt: Date.now(),
        };
        await settle(owned, range, until);
        taken.push(owned);
      }
      return taken;
    },

    async check(partitions, until) {
      await outbox.drained(until);
      const byName = new Map(partitions.map((owned) => [partitionName(owned), owned]));
      for (const { id, position, range } of await positionsOf(partitions, until)) {
        const owned = byName.get(partitionName(id)) as Owned;
        await outbox.publishLeftovers(id, until);
        const moved = position !== owned.position;
        owned.position = position;
        owned.published = position;
        if (moved || owned.stopped || !isInside(position, range)) await settle(owned, range, until);
      }
    },
  };
}

function placeOf({ topic, partition, position }: Owned): object {
  return { topic, partition, position };
}
