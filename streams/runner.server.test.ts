import pino from "pino";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { PushRequested } from "../schemas/values.ts";
import { migrate } from "../store/migrate.ts";
import type { Queryable } from "../store/postgres.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { openSteps } from "../store/steps.ts";
import { createDatabase, uniqueName, useStack } from "../tests/stack.ts";
import { noteTable, noting, testTopic } from "../tests/step-consumer.ts";
import { type Codec, openCodec } from "./codec.ts";
import { toOutgoing } from "./headers.ts";
import { type KafkaDoor, openKafka } from "./kafka.ts";
import { openProducer, type Producer } from "./producer.ts";
import { readTopic } from "./read-topic.ts";
import { type Runner, runConsumer } from "./runner.ts";
import { noMetrics, type StepRunnerOptions, type Timing } from "./runner-options.ts";
import type { Topic } from "./topic.ts";
import { applyTopics } from "./topics.ts";

const log = pino({ level: process.argv.includes("--loud") ? "debug" : "silent" });
const swift: Partial<Timing> = { tickMs: 100, lagMs: 200, idleCheckMs: 1_000, drainMs: 3_000 };
let kafka: KafkaDoor;
let producer: Producer;
let postgres: Postgres;
let databaseUrl: string;
const runners: Runner[] = [];

beforeAll(async () => {
  databaseUrl = await createDatabase("runner");
  await migrate(databaseUrl);
  postgres = openPostgres(databaseUrl);
  await postgres.query({ text: noteTable });
  kafka = openKafka({ brokers: useStack().kafkaBrokers, clientId: "runner-test", log });
  producer = openProducer({ kafka, log });
});

afterEach(async () => {
  await Promise.all(runners.splice(0).map((runner) => runner.stop()));
});

afterAll(async () => {
  await producer?.close();
  await kafka?.close();
  await postgres?.close();
});

/** Topics, a codec for them, and a consumer between them, all of this test alone. */
async function scene(partitions = 2) {
  const group = uniqueName("group");
  const input = testTopic(`${group}.in`);
  const output = testTopic(`${group}.out`);
  await applyTopics(kafka, { partitions, topics: [input, output] });
  const codec = await openCodec({ registryUrl: useStack().registryUrl, register: true, topics: [input, output] });
  const consumer = noting(group, input, output);
  const fatal: unknown[] = [];
  const store = openSteps(postgres, (client) => client);
  const start = (changes: Partial<StepRunnerOptions<Queryable>> = {}, of = consumer) => {
    const runner = runConsumer(of, {
      ...{ kafka, codec, store, log, appender: producer, metrics: noMetrics, timing: swift },
      onFatal: (error) => fatal.push(error),
      ...changes,
    });
    runners.push(runner);
    return runner;
  };
  return { group, input, output, codec, consumer, store, fatal, start };
}

function event(codec: Codec, topic: Topic<PushRequested>, seq: number, key = `k${seq % 5}`) {
  return toOutgoing(codec, {
    ...{ topic, key, id: `id-${seq}`, source: "/test", time: 1, subject: key },
    value: { recipientId: key, seq, requestedAt: 1 },
    traceparent: "00-trace-span-01",
  });
}

async function until(condition: () => Promise<boolean> | boolean, msMax = 15_000): Promise<void> {
  for (const end = Date.now() + msMax; Date.now() < end; ) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error("it did not come to pass in time");
}

async function noted(topic: Topic<unknown>): Promise<{ key: string; seq: number; n: number }[]> {
  const { rows } = await postgres.query<{ key: string; seq: number; n: number }>({
    text: "SELECT key, seq, n FROM noted WHERE topic = $1 ORDER BY part, off",
    values: [topic.name],
  });
  return rows;
}

async function outboxRows(group: string): Promise<number> {
  const { rows } = await postgres.query<{ count: number }>({
    text: "SELECT count(*) FROM outbox WHERE grp = $1",
    values: [group],
  });
  return rows[0]?.count ?? 0;
}

describe("the runner", () => {
  test("applies every record once, in order for each key, tells the world once, and leaves an empty outbox", async () => {
    const { group, input, output, codec, start, fatal } = await scene(4);
    const seqs = Array.from({ length: 1_200 }, (_, i) => i + 1_000);
    await producer.append(seqs.slice(0, 600).map((seq) => event(codec, input, seq)));
    const runner = start();
    await producer.append(seqs.slice(600).map((seq) => event(codec, input, seq)));
    await until(async () => (await noted(input)).length === 1_200);
    await until(async () => (await outboxRows(group)) === 0);
    expect(runner.ready()).toBe(true);
    const rows = await noted(input);
    expect(rows.every(({ n }) => n === 1)).toBe(true);
    const told = await readTopic(kafka, output.name);
    const values = told.map(({ value }) => codec.decode(output, value));
    for (const key of ["k0", "k1", "k2", "k3", "k4"]) {
      const expected = seqs.filter((seq) => `k${seq % 5}` === key);
      expect(rows.filter((row) => row.key === key).map(({ seq }) => seq)).toEqual(expected);
      expect(values.filter(({ recipientId }) => recipientId === key).map(({ seq }) => seq)).toEqual(expected);
    }
    expect(told[0]?.headers).toMatchObject({
      ce_type: Buffer.from(output.name),
      ce_source: Buffer.from(`/sealpost/${group}`),
      traceparent: Buffer.from("00-trace-span-01"),
    });
    await until(() => runner.lag().length === 4 && runner.lag().every(({ records }) => records === 0));
    await runner.stop();
    const [committed] = await kafka.ask((admin) => admin.fetchOffsets({ groupId: group, topics: [input.name] }));
    expect(committed?.partitions.reduce((sum, { offset }) => sum + Math.max(0, Number(offset)), 0)).toBe(1_200);
    expect(fatal).toEqual([]);
  });
});
