/**
 * Applies fetched records, step after step: what several partitions brought in the same moment in one transaction.
 *
 * Rules (architecture §1.2), each in one place below:
 * - every position of a step moves by compare-and-set; where another owner was faster, that partition is given up and the others'
 *   records are applied again at once;
 * - a record is applied only if the one before it was, for a step moves from the position as we know it;
 * - when the answer to COMMIT is lost, the positions tell what happened, and only what the table holds is published;
 * - data's fault: smaller steps until one record is found to blame; it becomes a dead letter in the next step. The world's fault: the
 *   same again. Anything else is a bug and ends the process: nothing is lost, and nobody's record is blamed for it.
 */
import type pino from "pino";
import { CommitUnknown, RecordFault, Refusal } from "../protocol/refusal.ts";
import type { Codec } from "./codec.ts";
import type { DeadLetter, Emit, GroupReached, Inbound, Move, OutboxRow, StepConsumer, StepStore } from "./consumer.ts";
import { byPlace, deadLetterRows, emittedRows, type Received, rejectedOf } from "./emission.ts";
import type { Exclusive } from "./exclusive.ts";
import { createHalving } from "./halving.ts";
import type { Outbox } from "./outbox.ts";
import type { Fetching, Owned } from "./ownership.ts";
import { partitionName } from "./partition.ts";
import { Interrupted, type Patience } from "./patience.ts";
import type { Failpoints, RunnerMetrics } from "./runner-options.ts";
import { planStep, stepLimits } from "./step-plan.ts";
import type { Topic } from "./topic.ts";

export interface StepLoop<In> {
  /**
   * Applies a run of a partition's records. Resolves to true when all are applied, to false when they were given up: they must be fetched
   * again from the partition's position. Rejects never.
   */
  apply(partition: Owned, run: Run<In>, lost: AbortSignal): Promise<boolean>;
}

/** Records without a gap between them: they lead from position `from` to position `to`. */
export interface Run<In> {
  readonly records: readonly Received<In>[];
  readonly from: number;
  readonly to: number;
}

export interface StepLoopOptions<In, Tx> {
  readonly consumer: StepConsumer<In, Tx>;
  readonly store: StepStore<Tx>;
  readonly codec: Codec;
  readonly outbox: Outbox;
  readonly exclusive: Exclusive;
  readonly patience: Patience;
  readonly fetching: Fetching;
  readonly failpoints: Failpoints;
  readonly metrics: RunnerMetrics;
  readonly log: pino.Logger;
  readonly givenUp: AbortSignal;
  readonly onFatal: (error: unknown) => void;
  readonly onCommitted: (emits: readonly Emit[]) => void;
  /** Asked within each step: is any partition of the group behind what Kafka was told? Left out: its own is enough. Rejects with `Unavailable`. */
  readonly isBehind?: ((reach: () => Promise<GroupReached>) => Promise<boolean>) | undefined;
}

/** A partition's records that wait to be applied. */
interface Queue<In> {
  readonly partition: Owned;
  rest: Run<In>;
  readonly lost: AbortSignal;
  readonly resolve: (applied: boolean) => void;
}

/** The beginning of a queue that is in a step, and the move it makes. */
interface Slice<In> {
  readonly queue: Queue<In>;
  readonly records: readonly Received<In>[];
  readonly move: Move;
}

/** What a step tells the world: as its consumer said it, and as rows of the outbox. */
interface Told {
  readonly rows: readonly OutboxRow[];
  readonly emits: readonly Emit[];
}

interface Outcome extends Told {
  readonly outcome: "committed" | "moved" | "unknown";
}

export function createStepLoop<In, Tx>(options: StepLoopOptions<In, Tx>): StepLoop<In> {
  const {
    consumer,
    store,
    codec,
    outbox,
    exclusive,
    patience,
    fetching,
    failpoints,
    metrics,
    log,
    givenUp,
    onFatal,
    onCommitted,
    isBehind,
  } = options;
  const group = consumer.name;
  const makesDeadLettersOf = (topic: Topic<unknown>) => consumer.deadLettersOf?.includes(topic) ?? true;
  const queues = new Map<string, Queue<In>>();
  const halving = createHalving(stepLimits.records);
  let interruption = new AbortController();
  let running = false;
  let stepping = false;
  givenUp.addEventListener("abort", () => interruption.abort());

  async function run(): Promise<void> {
    if (running) return;
    running = true;
    try {
      // The batches of one fetch come one after the other within the same turn of the event loop.
      await new Promise((resolve) => setImmediate(resolve));
      while (queues.size > 0) await exclusive.run(runStep);
    } catch (error) {
      onFatal(error);
      for (const queue of queues.values()) leave(queue, false);
    } finally {
      running = false;
    }
  }

  async function runStep(): Promise<void> {
    stepping = true;
    try {
      await step();
    } finally {
      stepping = false;
      for (const queue of queues.values()) leaveLost(queue);
    }
  }

  async function step(): Promise<void> {
    if (interruption.signal.aborted && !givenUp.aborted) interruption = new AbortController();
    for (const queue of queues.values()) {
      const continues = queue.rest.from === queue.partition.position;
      if (!continues || queue.lost.aborted || givenUp.aborted) leave(queue, false);
    }
    const slices = nextStep();
    if (slices.length === 0) return;
    const startedAt = performance.now();
    try {
      await outbox.room(interruption.signal);
      const done = await patience.persist(() => commit(slices), interruption.signal);
      halving.succeeded();
      if (done.outcome === "committed") {
        const records = slices.reduce((sum, slice) => sum + slice.records.length, 0);
        metrics.step(group, { records, seconds: (performance.now() - startedAt) / 1_000 });
        onCommitted(done.emits);
        settle(slices, done.rows);
      } else await reload(slices, done.outcome);
    } catch (error) {
      if (error instanceof RecordFault || error instanceof Refusal) blame(slices, error);
      else if (!(error instanceof Interrupted)) throw error;
    }
  }

  function nextStep(): Slice<In>[] {
    const waiting = Array.from(queues.values());
    const limits = { ...stepLimits, records: halving.recordsMax };
    const counts = planStep(
      waiting.map(({ rest }) => rest.records),
      limits,
    );
    return waiting.flatMap((queue, index) => {
      const { rest, partition: owned } = queue;
      const records = rest.records.slice(0, counts[index]);
      const last = records.at(-1);
      if (last === undefined) return [];
      const to = records.length === rest.records.length ? rest.to : last.offset + 1;
      return [{ queue, records, move: { topic: owned.topic, partition: owned.partition, from: rest.from, to } }];
    });
  }

  async function commit(slices: readonly Slice<In>[]): Promise<Outcome> {
    const records = slices.flatMap((slice) => slice.records);
    const published = outbox.published();
    let told: Told = { rows: [], emits: [] };
    async function work(tx: Tx, reach: () => Promise<GroupReached>): Promise<readonly OutboxRow[]> {
      // What another owner did may be missing under this step. Taking the partitions over anew, they are found to stand.
      if (await isBehind?.(reach)) throw new Error("the database went back, in a partition of another step");
      told = await applied(records, tx);
      failpoints.hit("before-commit");
      return told.rows;
    }
    try {
      const moves = slices.map(({ move }) => move);
      const outcome = await store.commitStep(group, moves, published, work);
      if (outcome === "committed") outbox.forget(published);
      return { outcome, ...told };
    } catch (error) {
      if (error instanceof CommitUnknown) return { outcome: "unknown", rows: [], emits: [] };
      throw error;
    }
  }

  async function applied(records: readonly Received<In>[], tx: Tx): Promise<Told> {
    const letters: OutboxRow[] = [];
    const buried: DeadLetter[] = [];
    const usable: Received<In>[] = [];
    const inbound: Inbound<In>[] = [];
    for (const record of records) {
      if ("code" in record.outcome) {
        if (!makesDeadLettersOf(record.topic)) continue;
        letters.push(...deadLetterRows(codec, group, record, record.outcome.code, consumer.lament));
        buried.push({ record: rejectedOf(record), code: record.outcome.code });
      } else {
        usable.push(record);
        inbound.push(record.outcome.inbound);
      }
    }
    if (buried.length > 0) await consumer.bury?.(buried, tx);
    const emits = inbound.length === 0 ? [] : await consumer.step(inbound, tx);
    return { rows: [...letters, ...emittedRows(codec, group, emits, usable)].sort(byPlace), emits };
  }

  /** The step is in the database: go on behind it and publish what it wrote. */
  function settle(slices: readonly Slice<In>[], rows: readonly OutboxRow[]): void {
    failpoints.hit("after-commit");
    for (const slice of slices) {
      for (const { topic, partition, offset, outcome } of slice.records) {
        if (!("code" in outcome)) continue;
        const place = { topic: topic.name, partition, offset, code: outcome.code };
        if (makesDeadLettersOf(topic)) {
          metrics.deadLetter(group, topic.name, outcome.code);
          log.warn(place, "a record became a dead letter");
        } else log.warn(place, "a record was passed over");
      }
      advance(slice);
    }
    outbox.publish(rows, () => {
      for (const { queue, move } of slices) queue.partition.published = move.to;
    });
  }

  function advance({ queue, records, move }: Slice<In>): void {
    queue.partition.position = move.to;
    queue.partition.progressAt = performance.now();
    queue.rest = { records: queue.rest.records.slice(records.length), from: move.to, to: queue.rest.to };
    if (queue.rest.records.length === 0) leave(queue, true);
  }

  /** Another owner was faster, or nobody knows whether we committed: the table tells, partition by partition. */
  async function reload(slices: readonly Slice<In>[], why: "moved" | "unknown"): Promise<void> {
    const wanted = slices.map(({ move }) => ({ topic: move.topic, partition: move.partition, startAt: move.from }));
    const positions = await patience.persist(() => store.loadPositions(group, wanted), interruption.signal);
    const nextOffsets = new Map(positions.map((position) => [partitionName(position), position.nextOffset]));
    await outbox.drained(interruption.signal);
    for (const slice of slices) {
      const { queue, move } = slice;
      const position = nextOffsets.get(partitionName(move));
      // Not moved: its records are still to be applied, in the next step.
      if (position === undefined || position === move.from) continue;
      // No owner moves one back. Taking the partition over anew, it is found out what that means.
      if (position < move.from && consumer.afterRestore === "stand") throw new Error("a position went back");
      // Whoever moved it may not have come to publishing, and what comes after must not overtake it.
      await outbox.publishLeftovers(move, interruption.signal);
      if (why === "unknown" && position === move.to) {
        queue.partition.published = move.to;
        advance(slice);
      } else {
        log.warn({ topic: move.topic, partition: move.partition, position }, "another owner moved the position");
        queue.partition.position = position;
        leave(queue, false);
      }
    }
  }

  function blame(slices: readonly Slice<In>[], fault: RecordFault | Refusal): void {
    const size = slices.reduce((sum, { records }) => sum + records.length, 0);
    const [{ queue }] = slices as [Slice<In>];
    const [record, ...others] = queue.rest.records as [Received<In>];
    if (halving.failed(size, `${partitionName(queue.partition)} ${record.offset}`) !== "condemned") return;
    // Not even its dead letter can be written: that is no longer the record's fault.
    if ("code" in record.outcome) throw fault;
    const code = fault instanceof Refusal ? fault.code : `sql-${fault.sqlState}`;
    queue.rest = { ...queue.rest, records: [{ ...record, outcome: { code } }, ...others] };
  }

  /**
   * Without waiting for the next turn: whoever has it, a look at all partitions, may be waiting for Kafka to take an offset, which it does only when the group
   * has met again; and that waits for this batch.
   */
  function leaveLost(queue: Queue<In>): void {
    if (queue.lost.aborted && !stepping) leave(queue, false);
  }

  function leave(queue: Queue<In>, applied: boolean): void {
    const name = partitionName(queue.partition);
    if (queues.get(name) === queue) queues.delete(name);
    if (!applied && !queue.lost.aborted) fetching.seek(queue.partition, queue.partition.position);
    queue.resolve(applied);
  }

  return {
    apply: (partition, rest, lost) =>
      new Promise((resolve) => {
        // Of a subscription that was given up: nobody may wait for it for ever.
        queues.get(partitionName(partition))?.resolve(false);
        const queue = { partition, rest, lost, resolve };
        queues.set(partitionName(partition), queue);
        const give = () => {
          interruption.abort();
          leaveLost(queue);
        };
        if (lost.aborted) give();
        else lost.addEventListener("abort", give, { once: true });
        void run();
      }),
  };
}
