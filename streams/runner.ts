/**
 * Runs a consumer: fetches, decodes, applies in steps, publishes, commits, until it is told to stop (architecture §1.2).
 *
 *     subscription.ts   kafkajs: batches in, seeks and commits out      step-loop.ts   records -> transactions, faults told apart
 *     ownership.ts      which partitions, from which position           outbox.ts      committed -> published -> deleted
 *     upkeep.ts         what is done by the clock                       publisher.ts   how: plainly, or in transactions (transactions.ts)
 *     commits.ts        what Kafka is told of positions                 witness.ts     is the database older than that?
 *
 * This file joins them: it decides whether a batch may be applied, and builds the Kafka consumer anew when it has crashed or stands
 * still.
 *
 * Promises: the position in PostgreSQL is the truth, Kafka's committed offset a hint that never runs ahead of what is published. While
 * the world is at fault nothing advances, `ready` is false, and nothing is lost.
 */
import { aborted, backoffMs, pause, within } from "./backoff.ts";
import { behindRows, createCommits } from "./commits.ts";
import type { OutboxRow, PartitionId, PlainConsumer, StepConsumer } from "./consumer.ts";
import { splitDue } from "./due.ts";
import { createExclusive } from "./exclusive.ts";
import { admit } from "./log-range.ts";
import { createOutbox } from "./outbox.ts";
import { createOwnership, type Fetching, type Owned } from "./ownership.ts";
import { partitionName } from "./partition.ts";
import { createPatience, Interrupted } from "./patience.ts";
import { asStepConsumer, plainStore } from "./plain-store.ts";
import { plainPublisher } from "./publisher.ts";
import { receive } from "./receive.ts";
import { type PlainRunnerOptions, type StepRunnerOptions, StoodStill, usualTiming } from "./runner-options.ts";
import { createStepLoop } from "./step-loop.ts";
import { type FetchedBatch, type Subscription, type SubscriptionEvents, subscribe } from "./subscription.ts";
import { type PartitionLag, startUpkeep } from "./upkeep.ts";
import { isGroupBehind } from "./witness.ts";

export interface Runner {
  /** Are positions loaded and all servers there? */
  ready(): boolean;
  /** As of the last look at the log's ends. */
  lag(): readonly PartitionLag[];
  /** Looks at all partitions at rest now, as it does every 30 s: after a gap was accepted, for example. Never rejects. */
  check(): Promise<void>;
  /** Ends the step under way, publishes what is committed, commits offsets, leaves the group. Never rejects. */
  stop(): Promise<void>;
}

/** Runs a consumer without state. Returns at once. */
export function runPlainConsumer<In>(consumer: PlainConsumer<In>, options: PlainRunnerOptions): Runner {
  return run(asStepConsumer(consumer), { ...options, store: plainStore(options.kafka) }, false);
}

/** Runs a consumer with state. Returns at once; it joins its group, and joins again, by itself. */
export function runConsumer<In, Tx>(consumer: StepConsumer<In, Tx>, options: StepRunnerOptions<Tx>): Runner {
  return run(consumer, options, true);
}

/** The partitions of one generation of the group. */
interface Assignment {
  readonly ids: readonly PartitionId[];
  readonly over: AbortController;
  /** By `partitionName`; null until their positions are known. */
  owned: ReadonlyMap<string, Owned> | null;
  taken: Promise<void>;
}

/** A close that takes longer is left to itself: the coordinator will miss the member soon enough. */
const closeMsMax = 10_000;

/** A record that waits for its time is looked at again after this: by then the clock may have been set. Sooner would only cost fetches, later be felt. */
const holdMsMax = 10_000;

/** The same at the end of the process, twice: with what comes before them it has to end within 20 s (bin/service-main.ts). */
const lastCloseMsMax = 4_000;

function run<In, Tx>(consumer: StepConsumer<In, Tx>, options: StepRunnerOptions<Tx>, hasState: boolean): Runner {
  const { kafka, codec, store, metrics, failpoints = { hit: () => undefined } } = options;
  const publisher = options.publisher ?? plainPublisher(options.appender);
  const timing = { ...usualTiming, ...options.timing };
  const group = consumer.name;
  const log = options.log.child({ consumer: group });
  const topics = new Map(consumer.reads.map((topic) => [topic.name, topic]));

  /** From here on nothing is applied; what is committed is still published. */
  const stopping = new AbortController();
  /** From here on nothing happens at all. */
  const givenUp = new AbortController();
  const exclusive = createExclusive();
  const patience = createPatience(log, (door) => metrics.retry(group, door));
  const holds = new Set<NodeJS.Timeout>();
  let subscription: Subscription | null = null;
  let assignment: Assignment | null = null;
  let building: Promise<void> = Promise.resolve();
  let crashes = 0;
  let stalls = 0;
  let isStopped: Promise<void> | null = null;

  const fetching: Fetching = {
    seek: (id, offset) => subscription?.seek(id, offset),
    pause: (id) => subscription?.pause(id),
    resume: (id) => subscription?.resume(id),
  };
  const commits = createCommits(() => subscription, failpoints);
  const { afterRestore } = consumer;
  const standsTogether = afterRestore === "stand-together";
  const announce = afterRestore === undefined ? undefined : tellOf;
  const stillWaiting = standsTogether ? (rows: readonly OutboxRow[]) => store.stillWaiting(group, rows) : undefined;
  const outbox = createOutbox({
    ...{ group, store, publisher, patience, failpoints, onFatal, givenUp: givenUp.signal, announce, stillWaiting },
  });
  const atGap = hasState ? "stop" : "begin-again";
  const ownership = createOwnership({
    ...{ group, kafka, store, outbox, publisher, commits, patience, fetching, log, atGap, afterRestore },
    topics: Array.from(topics.keys()),
  });
  const parts = { consumer, store, codec, outbox, exclusive, patience, fetching, failpoints, metrics, log };
  const loop = createStepLoop<In, Tx>({
    ...parts,
    onFatal,
    isBehind: standsTogether ? (reach) => isGroupBehind(kafka, group, Array.from(topics.keys()), reach) : undefined,
    onCommitted: options.onCommitted ?? (() => undefined),
    givenUp: stopping.signal,
  });
  const upkeep = startUpkeep({
    ...{ group, store, outbox, ownership, commits, timing, metrics, log, check, onStall },
    topics: Array.from(topics.keys()),
    owned: () => (assignment?.owned == null ? null : Array.from(assignment.owned.values())),
    note: ownership.note,
    heldUpAt: () => (outbox.state().ageSeconds * 1_000 > timing.tickMs ? performance.now() : patience.awayAt),
    onRest: () => {
      stalls = 0;
    },
  });
  build();

  function onFatal(error: unknown): void {
    if (givenUp.signal.aborted) return;
    log.error({ err: error }, "the consumer cannot go on");
    stopping.abort();
    givenUp.abort();
    assignment?.over.abort();
    options.onFatal(error);
  }

  /** Kafka knows how far we are before anything leaves that came of it. */
  function tellOf(rows: readonly OutboxRow[]): Promise<void> {
    return commits.commit(behindRows(rows), ownership.note());
  }

  /** Quiet where the work was given up on purpose; anything else that was thrown is a bug. */
  async function orFatal<Result>(work: () => Promise<Result>, otherwise: Result): Promise<Result> {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof Interrupted)) onFatal(error);
      return otherwise;
    }
  }

  /** Joins the group with a consumer of Kafka's that is new; the old one, if there is one, is given up. */
  function build(delayMs = 0): void {
    building = building.then(() =>
      orFatal(async () => {
        const old = subscription;
        subscription = null;
        assignment?.over.abort();
        assignment = null;
        await within(closeMsMax, Promise.race([old?.close(), aborted(stopping.signal)]));
        await pause(delayMs, stopping.signal);
        if (stopping.signal.aborted) return;
        const names = Array.from(topics.keys());
        const current: { is: Subscription | null } = { is: null };
        const joined = await patience.persist(
          () =>
            subscribe(
              kafka,
              { group, topics: names, pace: consumer.pace, sessionMs: timing.sessionMs },
              eventsOf(current),
            ),
          stopping.signal,
        );
        current.is = joined;
        subscription = joined;
      }, undefined),
    );
  }

  /** What an older subscription still says is not heard. */
  function eventsOf(source: { readonly is: Subscription | null }): SubscriptionEvents {
    const isCurrent = () => source.is !== null && source.is === subscription;
    return {
      onAssigned: (ids) => isCurrent() && assign(ids),
      onBatch: async (batch, lost) => isCurrent() && orFatal(() => onBatch(batch, lost), false),
      onSkipped: (id, nextOffset) => {
        const owned = assignment?.owned?.get(partitionName(id));
        if (isCurrent() && owned !== undefined) owned.seen = nextOffset;
      },
      onCrash: (error) => {
        if (!isCurrent() || stopping.signal.aborted) return;
        log.warn({ err: error }, "the Kafka consumer ended; it is built anew");
        build(backoffMs(crashes++));
      },
    };
  }

  function assign(ids: readonly PartitionId[]): void {
    assignment?.over.abort();
    const next: Assignment = { ids, over: new AbortController(), owned: null, taken: Promise.resolve() };
    assignment = next;
    if (stopping.signal.aborted) return;
    next.taken = orFatal(async () => {
      const owned = await exclusive.run(() => ownership.take(ids, next.over.signal));
      next.owned = new Map(owned.map((one) => [partitionName(one), one]));
      crashes = 0;
      log.info({ partitions: ids.length }, "positions are loaded");
    }, undefined);
  }

  async function onBatch(batch: FetchedBatch, lost: AbortSignal): Promise<boolean> {
    const current = assignment;
    if (current === null) return false;
    // The batch comes as soon as the group has met; the positions take a moment longer.
    if (current.owned === null) await Promise.race([current.taken, aborted(lost), aborted(stopping.signal)]);
    const owned = current.owned?.get(partitionName(batch));
    const topic = topics.get(batch.topic);
    if (owned === undefined || topic === undefined || owned.stopped !== null || lost.aborted) return false;
    if (!(await isNext(owned, batch, lost))) return false;

    const from = owned.position;
    const values = batch.messages.map(({ value }) => value);
    const learning = codec.learn(values);
    if (learning !== null) await learned(values, learning, eitherOf(lost));
    const records = batch.messages.map((message) => receive(consumer, codec, topic, batch.partition, message));
    const { count, nextAt } = splitDue(consumer, records, Date.now());
    const to = nextAt === null ? batch.nextOffset : (records[count]?.offset ?? from);
    const run = { records: records.slice(0, count), from, to };
    const applied = run.records.length === 0 || (await loop.apply(owned, run, lost));
    if (applied) stalls = 0;
    if (!applied || nextAt === null) return applied;
    if (!lost.aborted) hold(owned, nextAt);
    return false;
  }

  /** `asked`: the first attempt, which is under way; a second one beside it would leave its failure to nobody. */
  function learned(values: readonly (Uint8Array | null)[], asked: Promise<void>, until: AbortSignal): Promise<void> {
    let attempt: Promise<void> | null = asked;
    return patience.persist(async () => {
      const answer = attempt ?? codec.learn(values);
      attempt = null;
      await answer;
    }, until);
  }

  /** Not fetched until its next record is due, or for a while. What is resumed before it is due comes here again. */
  function hold(owned: Owned, until: number): void {
    owned.heldUntil = until;
    fetching.pause(owned);
    fetching.seek(owned, owned.position);
    const timer = setTimeout(
      () => {
        holds.delete(timer);
        // Of a later assignment it is resumed, or stands, for reasons of its own.
        if (assignment?.owned?.get(partitionName(owned)) === owned && !owned.stopped) fetching.resume(owned);
      },
      Math.min(holdMsMax, Math.max(0, until - Date.now())),
    );
    holds.add(timer);
  }

  /** May the batch be applied at the partition's position? If not, the next fetch starts there, or the partition stands. */
  async function isNext(owned: Owned, batch: FetchedBatch, lost: AbortSignal): Promise<boolean> {
    const verdict = admit(owned.position, batch.fetchedOffset, batch.highWatermark);
    if (verdict === "apply") return true;
    if (verdict === "seek") fetching.seek(owned, owned.position);
    if (verdict === "seek") return false;
    const until = eitherOf(lost);
    if (verdict === "ask") {
      const range = (await patience.persist(() => ownership.ranges([owned.topic]), until)).get(partitionName(owned));
      if (range !== undefined && range.low <= owned.position) return true;
    }
    await ownership.confirm(owned, until);
    return false;
  }

  function eitherOf(lost: AbortSignal): AbortSignal {
    return AbortSignal.any([lost, stopping.signal]);
  }

  async function check(): Promise<void> {
    const current = assignment;
    if (!hasState || current?.owned == null) return;
    const quietSince = performance.now() - timing.tickMs;
    const idle = Array.from(current.owned.values()).filter(
      ({ stopped, progressAt }) => stopped !== null || progressAt < quietSince,
    );
    if (idle.length > 0)
      await orFatal(() => exclusive.run(() => ownership.check(idle, current.over.signal)), undefined);
  }

  function isRestored(): boolean {
    return Array.from(assignment?.owned?.values() ?? []).some(({ stopped }) => stopped === "restored");
  }

  function onStall(): void {
    if (stopping.signal.aborted) return;
    if (stalls++ > 0) onFatal(new StoodStill());
    else {
      log.warn("records wait and nothing comes: the Kafka consumer is built anew");
      build();
    }
  }

  return {
    ready: () => assignment?.owned != null && !isRestored() && !patience.waiting && !stopping.signal.aborted,
    lag: upkeep.lag,
    check,
    stop() {
      isStopped ??= (async () => {
        stopping.abort();
        assignment?.over.abort();
        for (const timer of holds) clearTimeout(timer);
        const drain = AbortSignal.timeout(timing.drainMs);
        await Promise.race([exclusive.run(async () => undefined), aborted(drain)]);
        await outbox.drained(drain).catch(() => undefined);
        await within(lastCloseMsMax, upkeep.stop());
        givenUp.abort();
        await within(lastCloseMsMax, building);
        await within(lastCloseMsMax, subscription?.close() ?? Promise.resolve());
      })();
      return isStopped;
    },
  };
}
