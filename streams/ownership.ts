/**
 * The partitions a runner owns: where each stands, and whether that place is still in the log.
 *
 * Taking a partition over is: read its position, publish what its last owner committed and did not publish, go to the position. It does
 * not wait for a batch: an idle partition's leftovers would wait with it. A position outside the log (a recreated topic, a cut tail,
 * expired records) stops the partition until an operator accepts the gap (`gap.ts`): records are missing, and nobody but a person can
 * say that this is well. Where the log once ended before the position it stands also when the log has grown past it, for what stands there now are others:
 * as long as this process lives, also when the partition was given back and taken again meanwhile. So does a position behind what Kafka was told, where the
 * consumer wants that (`witness.ts`): of such a partition nothing is published and nothing told. Of a consumer whose state crosses partitions all stand where one is behind, whoever owns it.
 */
import type pino from "pino";
import { pause } from "./backoff.ts";
import type { Commits } from "./commits.ts";
import type { PartitionId, StepConsumer, StepStore } from "./consumer.ts";
import type { KafkaDoor } from "./kafka.ts";
import { findRanges } from "./log-ends.ts";
import { isInside, type LogRange } from "./log-range.ts";
import type { Outbox } from "./outbox.ts";
import { partitionName } from "./partition.ts";
import type { Patience } from "./patience.ts";
import { Interrupted } from "./patience.ts";
import type { Publisher } from "./publisher.ts";
import { findTold, isBehind, isGroupBehind, noteOf, type Reached } from "./witness.ts";

/** A partition in this runner's hands. */
export interface Owned extends PartitionId {
  /** The next offset to apply: as PostgreSQL has it, as far as we know. */
  position: number;
  /** Everything below is applied and published. */
  published: number;
  /** Everything below was fetched, records without data included. */
  seen: number;
  /** Why it is not fetched: its position lies outside the log, the log once ended before it, or the database is older than what Kafka was told. */
  stopped: "gap" | "cut" | "restored" | null;
  /** Not fetched before, because its next record is not due, ms since the epoch; 0 when it was not held. */
  heldUntil: number;
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
  /** Of all that the group reads. */
  readonly topics: readonly string[];
  readonly store: Pick<StepStore<never>, "loadPositions" | "loadGeneration" | "loadReached">;
  readonly outbox: Outbox;
  readonly publisher: Pick<Publisher, "marks" | "setBack" | "keep">;
  readonly commits: Commits;
  readonly patience: Patience;
  readonly fetching: Fetching;
  readonly log: pino.Logger;
  /** A consumer without state has nothing that could be missing: it begins again at the log's start. */
  readonly atGap: "stop" | "begin-again";
  readonly afterRestore: StepConsumer<never, never>["afterRestore"];
}

export interface Ownership {
  /** Takes partitions over. Rejects with `Interrupted`. */
  take(partitions: readonly PartitionId[], until: AbortSignal): Promise<Owned[]>;
  /** Does the same again for partitions at rest: positions may have been moved, leftovers left, a gap accepted. */
  check(partitions: readonly Owned[], until: AbortSignal): Promise<void>;
  /** Answers whether the position is in the log; if it is not, the partition is stopped or begins again. Seeks where it goes on. */
  confirm(partition: Owned, until: AbortSignal): Promise<boolean>;
  /** Stands beside the offsets that Kafka is told; undefined where nobody would read it. */
  note(): string | undefined;
  /** Where the log of these topics' partitions begins and ends, by `partitionName`. Rejects with `Unavailable("kafka")`. */
  ranges(topics: readonly string[]): Promise<ReadonlyMap<string, LogRange>>;
}

interface Place {
  readonly id: PartitionId;
  readonly position: number;
  readonly range: LogRange;
  /** Null also where nobody asks. */
  readonly told: Reached | null;
  /** Below it everything is said to be published. */
  readonly mark: number;
  /** The database is older than what Kafka was told of this partition, or of another on which it depends. */
  readonly isOld: boolean;
}

/** A new leader may say for a moment that the log is shorter than it is. */
const secondLookMs = 1_000;

export function createOwnership(options: OwnershipOptions): Ownership {
  const { group, kafka, store, outbox, publisher, commits, patience, fetching, log, atGap } = options;
  const stands = options.afterRestore !== undefined;
  const standsTogether = options.afterRestore === "stand-together";
  let generation = 0;
  /** The positions before which a log was seen to end, by `partitionName`. */
  const cutAt = new Map<string, number>();

  const ranges = (topics: readonly string[]) => findRanges(kafka, topics);

  async function placesOf(partitions: readonly PartitionId[], until: AbortSignal): Promise<readonly Place[]> {
    const topics = partitions.map(({ topic }) => topic);
    // Before the positions: another owner moves one first, and tells Kafka then.
    const told = await toldOf(topics, until);
    const groupIsOld = standsTogether && (await patience.persist(askGroup, until));
    const marks = await patience.persist(() => publisher.marks(topics), until);
    const log = await patience.persist(() => ranges(topics), until);
    // A group that is new to a partition begins at its start.
    const wanted = partitions.map((id) => ({ ...id, startAt: log.get(partitionName(id))?.low ?? 0 }));
    const loaded = await patience.persist(() => store.loadPositions(group, wanted), until);
    return loaded.map(({ topic, partition, nextOffset }) => {
      const id = { topic, partition };
      const range = log.get(partitionName(id)) ?? { low: 0, high: 0 };
      const name = partitionName(id);
      const toldOfIt = told.get(name) ?? null;
      const isBehindItself = stands && isBehind({ generation, nextOffset }, toldOfIt, range.low);
      const isOld = groupIsOld || isBehindItself;
      return { id, position: nextOffset, range, told: toldOfIt, mark: marks.get(name) ?? 0, isOld };
    });
  }

  /** Publishes what was left. What was published before its position went back is no reason to leave out what comes of applying it again. */
  async function publishLeftovers({ id, position, mark }: Place, until: AbortSignal): Promise<void> {
    if (mark > position) await patience.persist(() => publisher.setBack(id, position), until);
    await outbox.publishLeftovers(id, until);
  }

  function askGroup(): Promise<boolean> {
    return isGroupBehind(kafka, group, options.topics, () => store.loadReached(group));
  }

  async function toldOf(topics: readonly string[], until: AbortSignal): Promise<ReadonlyMap<string, Reached>> {
    if (!stands) return new Map();
    const told = await patience.persist(() => findTold(kafka, group, topics), until);
    generation = await patience.persist(() => store.loadGeneration(), until);
    return told;
  }

  /** Tells Kafka where the partitions stand, before anything leaves from there, except of those that are behind. */
  async function tell(places: readonly Place[], until: AbortSignal): Promise<void> {
    for (const place of places) {
      const isKnown = place.told?.generation === generation && place.told.nextOffset === place.position;
      if (place.isOld) commits.silence(place.id);
      else commits.begin(place.id, isKnown ? place.position : -1);
    }
    if (!stands) return;
    const offsets = places.filter(({ isOld }) => !isOld).map(({ id, position }) => ({ ...id, nextOffset: position }));
    await patience.persist(() => commits.commit(offsets, noteOf(generation)), until);
  }

  function goTo(owned: Owned): void {
    fetching.seek(owned, owned.position);
    fetching.resume(owned);
    if (owned.stopped !== null) log.info({ ...placeOf(owned), stopped: owned.stopped }, "the partition goes on");
    owned.stopped = null;
    cutAt.delete(partitionName(owned));
  }

  function standStill(owned: Owned, told: Reached | null): void {
    fetching.pause(owned);
    if (owned.stopped === "restored") return;
    owned.stopped = "restored";
    log.error(
      { ...placeOf(owned), generation, told },
      "the database is older than what Kafka was told: was it put back from a backup? The partition stands until after-restore has run",
    );
  }

  /** Why the position cannot be gone on from; null where it can. */
  function whyNot(owned: Owned, range: LogRange | undefined): "gap" | "cut" | null {
    if (range === undefined) return "gap";
    if (owned.position > range.high) return "cut";
    // Accepting the gap begins at `low`.
    if (cutAt.get(partitionName(owned)) === owned.position && owned.position !== range.low) return "cut";
    return isInside(owned.position, range) ? null : "gap";
  }

  function stop(owned: Owned, range: LogRange | undefined, why: "gap" | "cut"): void {
    fetching.pause(owned);
    if (why === "cut") cutAt.set(partitionName(owned), owned.position);
    if (owned.stopped === why) return;
    owned.stopped = why;
    log.error(
      { ...placeOf(owned), ...range },
      why === "cut"
        ? "the log ends before the position, so records that were read are not in it any more: the partition stands until the gap is accepted"
        : "the position is outside the log: the partition stands until the gap is accepted",
    );
  }

  async function settle(owned: Owned, range: LogRange, until: AbortSignal): Promise<boolean> {
    if (whyNot(owned, range) !== null) return confirm(owned, until);
    goTo(owned);
    return true;
  }

  async function confirm(owned: Owned, until: AbortSignal): Promise<boolean> {
    const look = async () => (await patience.persist(() => ranges([owned.topic]), until)).get(partitionName(owned));
    let range = await look();
    if (owned.stopped !== "cut" && whyNot(owned, range) === "cut") {
      await pause(secondLookMs, until);
      if (until.aborted) throw new Interrupted();
      range = await look();
    }
    const why = whyNot(owned, range);
    if (why !== null && atGap === "stop") {
      stop(owned, range, why);
      return false;
    }
    if (why !== null) {
      log.warn(
        { ...placeOf(owned), ...range },
        "the position is outside the log: the partition begins again at its start",
      );
      owned.position = range?.low ?? 0;
    }
    goTo(owned);
    return why === null;
  }

  return {
    ranges,
    confirm,
    note: () => (stands ? noteOf(generation) : undefined),

    async take(partitions, until) {
      await outbox.drained(until);
      publisher.keep(partitions);
      // More members than partitions: some have none.
      if (partitions.length === 0) return [];
      const taken: Owned[] = [];
      const places = await placesOf(partitions, until);
      await tell(places, until);
      for (const place of places) {
        const { id, position, range, told } = place;
        const owned: Owned = {
          ...id,
          position,
          published: position,
          seen: 0,
          stopped: null,
          heldUntil: 0,
          progressAt: performance.now(),
        };
        taken.push(owned);
        if (place.isOld) {
          standStill(owned, told);
          continue;
        }
        await publishLeftovers(place, until);
        await settle(owned, range, until);
      }
      return taken;
    },

    async check(partitions, until) {
      await outbox.drained(until);
      const byName = new Map(partitions.map((owned) => [partitionName(owned), owned]));
      const places = await placesOf(partitions, until);
      if (stands) await tell(places, until);
      for (const place of places) {
        const { id, position, range, told } = place;
        const owned = byName.get(partitionName(id)) as Owned;
        const moved = position !== owned.position;
        owned.position = position;
        owned.published = position;
        if (place.isOld) {
          standStill(owned, told);
          continue;
        }
        await publishLeftovers(place, until);
        if (moved || owned.stopped !== null || whyNot(owned, range) !== null) await settle(owned, range, until);
      }
    },
  };
}

function placeOf({ topic, partition, position }: Owned): object {
  return { topic, partition, position };
}
