import pino from "pino";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import type { PushRequested } from "../schemas/values.ts";
import { frozenMs, InMemoryKafka, refusingMs } from "../tests/in-memory-kafka.ts";
import { pushRequested } from "./catalogue.ts";
import type { Codec } from "./codec.ts";
import type { OutboxRow, Outgoing, StepConsumer, StepStore } from "./consumer.ts";
import { runConsumer } from "./runner.ts";
import { noMetrics, StoodStill } from "./runner-options.ts";

const minuteMs = 60_000;
const quiet = pino({ level: "silent" });
const topic = pushRequested.name;

const jsonCodec: Codec = {
  encode: (_, value) => Buffer.from(JSON.stringify(value)),
  decode: (_, bytes) => JSON.parse(`${bytes}`),
  learn: () => null,
};

/** What PostgreSQL would hold; `away` is asked before each answer. */
function table() {
  const state = { position: 0, away: async () => undefined as undefined | never };
  const store: StepStore<null> = {
    loadPositions: async (_, partitions) => {
      await state.away();
      return partitions.map((id) => ({ ...id, nextOffset: state.position }));
    },
    leftovers: async () => [],
    commitStep: async (_group, moves, _published, work) => {
      await state.away();
      await work(null, async () => ({ generation: 0, isHeld: false, positions: [] }));
      for (const { to } of moves) state.position = to;
      return "committed";
    },
    deletePublished: async () => undefined,
    stillWaiting: async (_, rows: readonly OutboxRow[]) => rows,
    loadGeneration: async () => 0,
    loadReached: async () => ({ generation: 0, isHeld: false, positions: [] }),
    acceptGap: async () => "accepted",
  };
  return { state, store };
}

function scene(codec: Codec = jsonCodec, { dueAt }: Pick<StepConsumer<PushRequested, null>, "dueAt"> = {}) {
  const kafka = new InMemoryKafka();
  const { state, store } = table();
  const applied: number[] = [];
  const fatal: unknown[] = [];
  const consumer: StepConsumer<PushRequested, null> = {
    name: "g",
    reads: [pushRequested],
    ...(dueAt && { dueAt }),
    step: async (batch) => {
      applied.push(...batch.map(({ value }) => value.seq));
      return [];
    },
  };
  const start = () => {
    const runner = runConsumer(consumer, {
      ...{ kafka: kafka.door, codec, log: quiet, metrics: noMetrics, store },
      appender: { append: async (_: readonly Outgoing[]) => undefined },
      // By a clock that no test sets.
      timing: { drainMs: 10 },
      onFatal: (error) => void fatal.push(error),
    });
    stops.push(() => runner.stop());
    return runner;
  };
  const append = (seq: number, timestamp?: number) => {
    const value = Buffer.from(JSON.stringify({ recipientId: "k", seq, requestedAt: 1 }));
    kafka.append({ topic, key: "k", value, headers: {} }, timestamp);
  };
  return { kafka, state, applied, fatal, start, append };
}

/** What a server that is away does to each question. */
function failingAfter(ms: number, door: Unavailable["door"] = "postgres"): () => Promise<never> {
  return async () => {
    await new Promise((resolve) => setTimeout(resolve, ms));
    throw new Unavailable(door);
  };
}

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);
const stops: (() => Promise<void>)[] = [];

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(async () => {
  const stopped = Promise.all(stops.splice(0).map((stop) => stop()));
  await pass(minuteMs);
  await stopped;
  vi.useRealTimers();
});

test.each([
  ["refuses", refusingMs],
  ["does not answer", frozenMs],
])("a Kafka that %s for half an hour ends nothing; when it is back, what waits is applied", async (_, ms) => {
  const { kafka, applied, fatal, start, append } = scene();
  const runner = start();
  append(1);
  await pass(minuteMs);
  expect([applied, runner.ready()]).toEqual([[1], true]);

  kafka.awayMs = ms;
  append(2);
  // From when it is found out.
  await pass(2 * minuteMs);
  for (let minutes = 0; minutes < 30; minutes++) {
    expect(runner.ready()).toBe(false);
    await pass(minuteMs);
  }
  kafka.awayMs = null;
  await pass(minuteMs);
  expect([applied, runner.ready(), fatal]).toEqual([[1, 2], true, []]);
});

test.each([
  ["refuses", refusingMs],
  ["does not answer", frozenMs],
])("a PostgreSQL that %s for half an hour is no reason to build anything anew, nor to end", async (_, ms) => {
  const { kafka, state, applied, fatal, start, append } = scene();
  const runner = start();
  append(1);
  await pass(minuteMs);

  state.away = failingAfter(ms);
  append(2);
  await pass(minuteMs);
  for (let seconds = 0; seconds < 30 * 60; seconds++) {
    expect(runner.ready()).toBe(false);
    await pass(1_000);
  }
  state.away = async () => undefined;
  await pass(minuteMs);
  expect([applied, runner.ready(), kafka.consumers.length, fatal]).toEqual([[1, 2], true, 1, []]);
});

test("a process that is started while PostgreSQL does not answer waits for it", async () => {
  const { state, applied, fatal, start, append } = scene();
  state.away = failingAfter(frozenMs);
  append(1);
  const runner = start();
  await pass(30 * minuteMs);
  expect([applied, runner.ready(), fatal]).toEqual([[], false, []]);
  state.away = async () => undefined;
  await pass(minuteMs);
  expect([applied, runner.ready()]).toEqual([[1], true]);
});

test("what hangs after a server was away is found all the same: built anew, and again the process ends", async () => {
  const { kafka, state, fatal, start, append } = scene();
  const runner = start();
  append(1);
  await pass(minuteMs);
  state.away = failingAfter(refusingMs);
  append(2);
  await pass(10_000);
  expect(runner.ready()).toBe(false);
  // An answer that nobody owes any more.
  state.away = () => new Promise(() => undefined);
  await pass(2 * minuteMs);
  expect([kafka.consumers.length, fatal]).toEqual([2, []]);
  await pass(3 * minuteMs);
  expect(fatal).toEqual([expect.any(StoodStill)]);
});

test("a consumer that is handed nothing is built anew; twice in a row, and the process ends", async () => {
  const { kafka, fatal, start, append } = scene();
  kafka.isDeaf = true;
  append(1);
  start();
  await pass(80_000);
  expect([kafka.consumers.length, fatal]).toEqual([2, []]);
  await pass(80_000);
  expect(fatal).toEqual([expect.any(StoodStill)]);
});

test("two stalls between which nothing waited are not in a row", async () => {
  const { kafka, applied, fatal, start, append } = scene();
  kafka.isDeaf = true;
  append(1);
  start();
  await pass(65_000);
  expect(kafka.consumers).toHaveLength(1);
  kafka.isDeaf = false;
  await pass(minuteMs);
  expect([applied, kafka.consumers.length]).toEqual([[1], 2]);
  // Somebody else's: it was never handed to this one.
  kafka.consumers[1]?.pause([{ topic }]);
  append(2);
  await pass(80_000);
  expect([applied, kafka.consumers.length, fatal]).toEqual([[1, 2], 3, []]);
});

test("a registry that cannot say what schema a record has is asked again, and each of its failures is somebody's", async () => {
  let isAway = true;
  let asked = 0;
  const unhandled: unknown[] = [];
  const hear = (error: unknown) => void unhandled.push(error);
  process.on("unhandledRejection", hear);
  const { applied, fatal, start, append } = scene({
    ...jsonCodec,
    learn: () => {
      if (!isAway) return null;
      asked++;
      return failingAfter(refusingMs, "registry")();
    },
  });
  append(1);
  const runner = start();
  await pass(minuteMs);
  expect([applied, runner.ready()]).toEqual([[], false]);
  expect(asked).toBeGreaterThan(5);
  isAway = false;
  await pass(minuteMs);
  process.off("unhandledRejection", hear);
  expect([applied, fatal, unhandled]).toEqual([[1], [], []]);
});

test("a record that was not due by a clock that was an hour behind is applied soon after the clock was set right", async () => {
  const { kafka, applied, fatal, start, append } = scene(jsonCodec, { dueAt: ({ timestamp }) => timestamp + 1_000 });
  start();
  await pass(5_000);
  const appendedAt = Date.now();
  vi.setSystemTime(appendedAt - 60 * minuteMs);
  append(1, appendedAt);
  await pass(5_000);
  expect(applied).toEqual([]);
  vi.setSystemTime(appendedAt + 5_000);
  await pass(11_000);
  expect([applied, kafka.consumers.length, fatal]).toEqual([[1], 1, []]);
});

test("a record waits for its time, however often it is looked at before", async () => {
  const { kafka, applied, fatal, start, append } = scene(jsonCodec, { dueAt: ({ timestamp }) => timestamp + 90_000 });
  start();
  await pass(5_000);
  append(1);
  await pass(89_000);
  expect(applied).toEqual([]);
  await pass(2_000);
  expect([applied, kafka.consumers.length, fatal]).toEqual([[1], 1, []]);
});
