/**
 * The step loop and the outbox against a world that fails at random: a store in memory with the promises of the real one.
 */
import fc from "fast-check";
import pino from "pino";
import { expect, test } from "vitest";
import { CommitUnknown, RecordFault, Unavailable } from "../protocol/refusal.ts";
import type { PushRequested } from "../schemas/values.ts";
import { pushRequested } from "./catalogue.ts";
import type { Codec } from "./codec.ts";
import type { Appender, OutboxRow, Outgoing, StepConsumer, StepStore } from "./consumer.ts";
import { emittedRows, type Received } from "./emission.ts";
import { createExclusive } from "./exclusive.ts";
import { createOutbox } from "./outbox.ts";
import type { Owned } from "./ownership.ts";
import { partitionName } from "./partition.ts";
import { createPatience } from "./patience.ts";
import { plainPublisher } from "./publisher.ts";
import { noMetrics } from "./runner-options.ts";
import { createStepLoop } from "./step-loop.ts";

type Fault = "none" | "away" | "unknown-committed" | "unknown-lost" | "rival";
type AppendFault = "none" | "away" | "written-all-the-same";

const codec: Codec = {
  encode: (_, value) => Buffer.from(JSON.stringify(value)),
  decode: () => {
    throw new Error("not used");
  },
  learn: () => null,
};
const group = "g";
const quiet = pino({ level: "silent" });
const nothing = () => undefined;

/** Every third event comes in two parts, so that a page or a mark may fall between them. */
const usual: StepConsumer<PushRequested, (offsets: string[]) => void> = {
  name: group,
  reads: [pushRequested],
  step: async (batch, tx) => {
    tx(batch.map(({ partition, offset }) => `${partition}:${offset}`));
    if (batch.some(({ value }) => value.seq === 666)) throw new RecordFault("23514", null);
    return batch.flatMap((cause) =>
      Array.from({ length: cause.offset % 3 === 0 ? 2 : 1 }, () => ({
        ...{ topic: pushRequested, key: cause.key, cause, time: 1, subject: "s" },
        value: () => cause.value,
      })),
    );
  },
};

function recordAt(partition: number, offset: number, isBad: boolean): Received<PushRequested> {
  const value = { recipientId: `p${partition}`, seq: isBad ? 666 : offset, requestedAt: 1 };
  const message = { key: Buffer.from(`p${partition}`), value: Buffer.from("raw"), timestamp: "1", attributes: 0 };
  const inbound = { topic: pushRequested, partition, offset, key: `p${partition}`, value, headers: {}, timestamp: 1 };
  return {
    ...{ topic: pushRequested, partition, offset, bytes: 100, items: 1, outcome: { inbound } },
    message: { ...message, offset: String(offset), headers: {} },
  };
}

/** A log of `length` records in each partition; offsets leave holes, as transactions do. */
function logOf(partitions: number, length: number, bad: ReadonlySet<string>) {
  const offsets = Array.from({ length }, (_, i) => i + Math.floor(i / 4));
  return Array.from({ length: partitions }, (_, partition) =>
    offsets.map((offset) => recordAt(partition, offset, bad.has(`${partition}:${offset}`))),
  );
}

class World {
  readonly positions = new Map<string, number>();
  readonly applied: string[] = [];
  readonly published: Outgoing[] = [];
  table: OutboxRow[] = [];
  readonly log: Received<PushRequested>[][];
  readonly faults: Fault[];
  readonly appendFaults: AppendFault[];

  constructor(log: Received<PushRequested>[][], faults: readonly Fault[], appendFaults: readonly AppendFault[]) {
    this.log = log;
    this.faults = [...faults];
    this.appendFaults = [...appendFaults];
  }

  readonly store: StepStore<(offsets: string[]) => void> = {
    loadPositions: async (_, partitions) =>
      partitions.map((id) => ({ ...id, nextOffset: this.positions.get(partitionName(id)) ?? 0 })),
    leftovers: async (_, { partition }, limit, after = { inputOffset: -1, n: 0 }) =>
      this.table
        .filter((row) => row.inputPartition === partition)
        .filter(
          ({ inputOffset, n }) => inputOffset > after.inputOffset || (inputOffset === after.inputOffset && n > after.n),
        )
        .sort((a, b) => a.inputOffset - b.inputOffset || a.n - b.n)
        .slice(0, limit),
    commitStep: async (_, moves, published, work) => {
      const fault = this.faults.shift() ?? "none";
      if (fault === "away") throw new Unavailable("postgres");
      if (fault === "rival") this.rivalSteps((moves[0] as { partition: number }).partition);
      if (moves.some((move) => (this.positions.get(partitionName(move)) ?? 0) !== move.from)) return "moved";
      const offsets: string[] = [];
      const reached = { generation: 0, isHeld: false, positions: [] };
      const rows = await work(
        (applied) => void offsets.push(...applied),
        async () => reached,
      );
      if (fault === "unknown-lost") throw new CommitUnknown();
      this.delete(published);
      for (const move of moves) this.positions.set(partitionName(move), move.to);
      this.applied.push(...offsets);
      this.table.push(...rows);
      if (fault === "unknown-committed") throw new CommitUnknown();
      return "committed";
    },
    deletePublished: async (_, published) => this.delete(published),
    stillWaiting: async (_, rows) => rows,
    loadGeneration: async () => 0,
    loadReached: async () => ({ generation: 0, isHeld: false, positions: [] }),
    acceptGap: async () => "accepted",
  };

  readonly appender: Appender = {
    append: async (records) => {
      const fault = this.appendFaults.shift() ?? "none";
      await new Promise((resolve) => setImmediate(resolve));
      if (fault !== "away") this.published.push(...records);
      if (fault !== "none") throw new Unavailable("kafka");
    },
  };

  /** Another owner applies the next good record, and dies before it has published what it wrote. */
  private rivalSteps(partition: number): void {
    const name = partitionName({ topic: pushRequested.name, partition });
    const position = this.positions.get(name) ?? 0;
    const record = this.log[partition]?.find(({ offset }) => offset >= position);
    if (record === undefined || !("inbound" in record.outcome) || record.outcome.inbound.value.seq === 666) return;
    const cause = record.outcome.inbound;
    const parts = Array.from({ length: cause.offset % 3 === 0 ? 2 : 1 }, () => ({
      ...{ topic: pushRequested, key: cause.key, cause, time: 1, subject: "s" },
      value: () => cause.value,
    }));
    this.positions.set(name, record.offset + 1);
    this.applied.push(`${partition}:${record.offset}`);
    this.table.push(...emittedRows(codec, group, parts, [record]));
  }

  private delete(
    published: readonly { readonly partition: number; readonly from: number; readonly below: number }[],
  ): void {
    this.table = this.table.filter(
      (row) =>
        !published.some(
          ({ partition, from, below }) =>
            row.inputPartition === partition && row.inputOffset >= from && row.inputOffset < below,
        ),
    );
  }
}

function openLoop(world: World, consumer: StepConsumer<PushRequested, (offsets: string[]) => void> = usual) {
  const fatal: unknown[] = [];
  const over = new AbortController();
  const patience = createPatience(quiet, nothing, () => 0);
  const shared = {
    ...{ patience, givenUp: over.signal, failpoints: { hit: nothing } },
    onCommitted: () => undefined,
    onFatal: (error: unknown) => {
      fatal.push(error);
      over.abort();
    },
  };
  const outbox = createOutbox({ group, store: world.store, publisher: plainPublisher(world.appender), ...shared });
  const fetching = { seek: nothing, pause: nothing, resume: nothing };
  const exclusive = createExclusive();
  const loop = createStepLoop({
    ...{ consumer, codec, outbox, fetching, metrics: noMetrics, log: quiet, store: world.store },
    ...{ exclusive, ...shared },
  });
  return { loop, outbox, over, fatal, exclusive };
}

function ownedAt(partition: number, position: number): Owned {
  const state = { published: 0, seen: 0, stopped: null, heldUntil: 0, progressAt: 0 };
  return { topic: pushRequested.name, partition, position, ...state };
}

/** Fetches and applies until the log's end, as the runner does. */
async function consume(world: World, fetchMax: number, consumer = usual): Promise<readonly unknown[]> {
  const { loop, outbox, over, fatal } = openLoop(world, consumer);
  await Promise.all(
    world.log.map(async (records, partition) => {
      const owned = ownedAt(partition, 0);
      const end = (records.at(-1)?.offset ?? -1) + 1;
      while (owned.position < end && !over.signal.aborted) {
        const fetched = records.filter(({ offset }) => offset >= owned.position).slice(0, fetchMax);
        const to = (fetched.at(-1)?.offset ?? 0) + 1;
        await loop.apply(owned, { records: fetched, from: owned.position, to }, over.signal);
      }
    }),
  );
  await outbox.drained(over.signal).catch(nothing);
  await world.store.deletePublished(group, outbox.published());
  return fatal;
}

const faults = fc.array(
  fc.constantFrom<Fault>("none", "none", "away", "unknown-committed", "unknown-lost", "rival", "rival"),
  { maxLength: 60 },
);
const appendFaults = fc.array(fc.constantFrom<AppendFault>("none", "none", "away", "written-all-the-same"), {
  maxLength: 30,
});
const bad = fc.array(fc.tuple(fc.nat(2), fc.nat(30)), { maxLength: 3 });

test("whatever fails, every record is applied once and in order, every event is published in order, and a bad record is a dead letter", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.record({ faults, appendFaults, bad, fetchMax: fc.integer({ min: 1, max: 12 }) }),
      async ({ faults, appendFaults, bad, fetchMax }) => {
        const isBad = new Set(bad.map(([partition, offset]) => `${partition}:${offset}`));
        const world = new World(logOf(3, 25, isBad), faults, appendFaults);
        expect(await consume(world, fetchMax)).toEqual([]);
        for (const [partition, records] of world.log.entries()) {
          const good = records.filter(({ offset }) => !isBad.has(`${partition}:${offset}`));
          const applied = world.applied.filter((place) => place.startsWith(`${partition}:`));
          expect(applied).toEqual(good.map(({ offset }) => `${partition}:${offset}`));
          const own = world.published.filter(({ key }) => `${key}` === `p${partition}`);
          const events = own.filter(({ topic }) => topic === pushRequested.name);
          const firsts = new Map(
            events.map((one) => [one.headers["ce_id"], JSON.parse(`${one.value}`) as PushRequested]),
          );
          const seqs = good.flatMap(({ offset }) => (offset % 3 === 0 ? [offset, offset] : [offset]));
          expect(Array.from(firsts.values(), ({ seq }) => seq)).toEqual(seqs);
          const letters = own.filter(({ topic }) => topic === `${pushRequested.name}.dlq`);
          const condemned = records.filter(({ offset }) => isBad.has(`${partition}:${offset}`));
          expect(Array.from(new Set(letters.map(({ headers }) => Number(headers["x-orig-offset"]))))).toEqual(
            condemned.map(({ offset }) => offset),
          );
        }
        expect(world.table).toEqual([]);
      },
    ),
    { numRuns: 300 },
  );
});

test("a group makes dead letters of just the topics whose it shall make; other bad records are passed over, and it goes on", async () => {
  const records = logOf(1, 8, new Set(["0:5"]));
  const [own = []] = records;
  // One that its step finds to be bad, and one that was refused before.
  const log = [own.map((record) => (record.offset === 2 ? { ...record, outcome: { code: "undecodable" } } : record))];
  const world = new World(log, [], []);
  expect(await consume(world, 3, { ...usual, deadLettersOf: [] })).toEqual([]);
  expect(world.applied).toEqual(own.flatMap(({ offset }) => (offset === 2 || offset === 5 ? [] : [`0:${offset}`])));
  expect(world.published.filter(({ topic }) => topic !== pushRequested.name)).toEqual([]);

  const sole = new World(log, [], []);
  expect(await consume(sole, 3, { ...usual, deadLettersOf: [pushRequested] })).toEqual([]);
  const letters = sole.published.filter(({ topic }) => topic !== pushRequested.name);
  expect(letters.map(({ topic, headers }) => [topic, headers["x-orig-offset"]])).toEqual([
    [`${pushRequested.name}.dlq`, "2"],
    [`${pushRequested.name}.dlq`, "5"],
  ]);
});

test("a record of which no topic would take what it makes a consumer say is a dead letter, and its company is applied", async () => {
  const [own = []] = logOf(1, 8, new Set());
  const large: StepConsumer<PushRequested, (offsets: string[]) => void> = {
    ...usual,
    step: async (batch, tx) => {
      const emits = await usual.step(batch, tx);
      return emits.map((one) => (one.cause.offset === 5 ? { ...one, subject: "x".repeat(2_000_000) } : one));
    },
  };
  const world = new World([own], ["away"], ["away"]);
  expect(await consume(world, 4, large)).toEqual([]);
  expect(world.applied).toEqual(own.flatMap(({ offset }) => (offset === 5 ? [] : [`0:${offset}`])));
  const letters = world.published.filter(({ topic }) => topic !== pushRequested.name);
  expect(new Set(letters.map(({ headers }) => `${headers["x-orig-offset"]} ${headers["x-error-code"]}`))).toEqual(
    new Set(["5 too-large"]),
  );
});

test("what is kept of dead letters is written in the transaction that passes them, once, whatever fails", async () => {
  const kept: StepConsumer<PushRequested, (offsets: string[]) => void> = {
    ...usual,
    bury: async (letters, tx) =>
      tx(letters.map(({ record: { topic, partition, offset }, code }) => `${topic} ${partition}:${offset} ${code}`)),
  };
  const [own = []] = logOf(1, 8, new Set(["0:5"]));
  // One that its step finds to be bad, and one that was refused before.
  const log = [own.map((record) => (record.offset === 2 ? { ...record, outcome: { code: "undecodable" } } : record))];
  const world = new World(log, ["away", "unknown-lost", "unknown-committed", "away", "unknown-lost"], []);
  expect(await consume(world, 3, kept)).toEqual([]);
  const { name } = pushRequested;
  expect(world.applied.filter((place) => place.startsWith(name))).toEqual([
    `${name} 0:2 undecodable`,
    `${name} 0:5 sql-23514`,
  ]);
  // Whose dead letters another group makes, it keeps nothing of.
  const passing = new World(log, [], []);
  expect(await consume(passing, 3, { ...kept, deadLettersOf: [] })).toEqual([]);
  expect(passing.applied.filter((place) => place.startsWith(name))).toEqual([]);
});

test("a bug in a step ends the run and blames no record", async () => {
  const world = new World(logOf(1, 5, new Set()), [], []);
  const failing = world.store.commitStep;
  Object.assign(world.store, {
    commitStep: (...args: Parameters<typeof failing>) =>
      args[1].some(({ to }) => to > 3) ? Promise.reject(new TypeError("a bug")) : failing(...args),
  });
  expect(await consume(world, 1)).toEqual([expect.any(TypeError)]);
  expect(world.applied).toEqual(["0:0", "0:1", "0:2"]);
});

test("records that do not continue where the partition stands are not applied", async () => {
  const world = new World(logOf(1, 5, new Set()), [], []);
  const { loop, over } = openLoop(world);
  const owned = ownedAt(0, 0);
  const records = world.log[0] ?? [];
  const applying = loop.apply(owned, { records, from: 0, to: 6 }, over.signal);
  // A look at the idle partition found that an operator had moved it.
  owned.position = 2;
  world.positions.set(partitionName(owned), 2);
  expect(await applying).toBe(false);
  expect(world.applied).toEqual([]);
});

test("who has lost its partitions gives its batches back at once, also while another has the turn and will keep it until the group has met again", async () => {
  const world = new World(logOf(3, 5, new Set()), [], []);
  const { loop, fatal, exclusive } = openLoop(world);
  const met = Promise.withResolvers<void>();
  const during = Promise.withResolvers<void>();
  const lost = new AbortController();
  const applyFrom = (partition: number) =>
    loop.apply(ownedAt(partition, 0), { records: world.log[partition] ?? [], from: 0, to: 6 }, lost.signal);
  // A step is under way when it happens: the turn behind it is another's.
  const commitStep = world.store.commitStep;
  Object.assign(world.store, {
    commitStep: async () => {
      void exclusive.run(() => met.promise);
      during.resolve();
      await new Promise((resolve) => lost.signal.addEventListener("abort", resolve));
      throw new Unavailable("postgres");
    },
  });
  const inStep = applyFrom(0);
  await during.promise;
  const behind = applyFrom(1);
  lost.abort();
  expect(await Promise.all([inStep, behind])).toEqual([false, false]);
  // And one that comes too late.
  expect(await applyFrom(2)).toBe(false);
  Object.assign(world.store, { commitStep });
  met.resolve();
  expect(
    await loop.apply(ownedAt(0, 0), { records: world.log[0] ?? [], from: 0, to: 6 }, new AbortController().signal),
  ).toBe(true);
  expect([world.applied.length, fatal]).toEqual([5, []]);
});
