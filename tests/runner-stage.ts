/**
 * The stage for the runner's tests: real servers, a database of its own, and for each test topics and a group of its own.
 */
import pino from "pino";
import { afterAll, afterEach, beforeAll, expect } from "vitest";
import type { PushRequested } from "../schemas/values.ts";
import { migrate } from "../store/migrate.ts";
import { openPostgres, type Postgres, type Queryable } from "../store/postgres.ts";
import { openSteps } from "../store/steps.ts";
import { type Codec, openCodec } from "../streams/codec.ts";
import type { Outgoing } from "../streams/consumer.ts";
import { toOutgoing } from "../streams/headers.ts";
import { type KafkaDoor, openKafka } from "../streams/kafka.ts";
import { openProducer, type Producer } from "../streams/producer.ts";
import type { ReadRecord } from "../streams/read-topic.ts";
import { type Runner, runConsumer } from "../streams/runner.ts";
import { noMetrics, type StepRunnerOptions, type Timing } from "../streams/runner-options.ts";
import type { Topic } from "../streams/topic.ts";
import { applyTopics } from "../streams/topics.ts";
import { createDatabase, uniqueName, useStack } from "./stack.ts";
import { noteTable, noting, testTopic } from "./step-consumer.ts";

export const log = pino({ level: "silent" });
/** What takes seconds in life takes tenths here. */
export const swift: Partial<Timing> = { tickMs: 100, lagMs: 200, idleCheckMs: 1_000, drainMs: 3_000, sessionMs: 6_000 };

export interface Stage {
  readonly kafka: KafkaDoor;
  readonly producer: Producer;
  readonly postgres: Postgres;
  readonly databaseUrl: string;
}

/** Opens the stage before all tests of a file and closes it after them; runners are stopped after each. */
export function useStage(): () => Stage {
  let stage: Stage | null = null;
  beforeAll(async () => {
    const databaseUrl = await createDatabase("runner");
    await migrate(databaseUrl);
    const postgres = openPostgres(databaseUrl);
    await postgres.query({ text: noteTable });
    const kafka = openKafka({ brokers: useStack().kafkaBrokers, clientId: "runner-test", log });
    stage = { kafka, postgres, databaseUrl, producer: openProducer({ kafka, log }) };
  });
  afterEach(async () => {
    await Promise.all(runners.splice(0).map((runner) => runner.stop()));
  });
  afterAll(async () => {
    await stage?.producer.close();
    await stage?.kafka.close();
    await stage?.postgres.close();
  });
  return () => {
    if (stage === null) throw new Error("the stage opens before all tests");
    return stage;
  };
}

const runners: Runner[] = [];

/** Ends with the test. */
export function untilTestEnds(runner: Runner): Runner {
  runners.push(runner);
  return runner;
}

/** Topics, a codec for them, and a consumer between them, of one test alone. */
export async function openScene({ kafka, producer, postgres }: Stage, partitions = 2) {
  const group = uniqueName("group");
  const input = testTopic(`${group}.in`);
  const output = testTopic(`${group}.out`);
  await applyTopics(kafka, { partitions, topics: [input, output] });
  const codec = await openCodec({ registryUrl: useStack().registryUrl, register: true, topics: [input, output] });
  const consumer = noting(group, input, output);
  const fatal: unknown[] = [];
  const store = openSteps(postgres, (client) => client);
  const surroundings = { kafka, codec, log, appender: producer, metrics: noMetrics, timing: swift };
  const onFatal = (error: unknown) => void fatal.push(error);
  const start = (changes: Partial<StepRunnerOptions<Queryable>> = {}) =>
    untilTestEnds(runConsumer(consumer, { ...surroundings, store, onFatal, ...changes }));
  return { group, input, output, codec, consumer, store, fatal, start, options: { ...surroundings, onFatal } };
}

export function event(codec: Codec, topic: Topic<PushRequested>, seq: number, key = `k${seq % 5}`): Outgoing {
  return toOutgoing(codec, {
    ...{ topic, key, id: `id-${seq}`, source: "/test", time: 1, subject: key },
    value: { recipientId: key, seq, requestedAt: 1 },
    traceparent: "00-trace-span-01",
  });
}

export async function until(condition: () => Promise<boolean> | boolean, msMax = 20_000): Promise<void> {
  for (const end = Date.now() + msMax; Date.now() < end; ) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error("it did not come to pass in time");
}

/** What the consumer noted, in the order of the log. */
export async function noted(
  { postgres }: Stage,
  topic: Topic<unknown>,
): Promise<{ key: string; seq: number; n: number }[]> {
  const { rows } = await postgres.query<{ key: string; seq: number; n: number }>({
    text: "SELECT key, seq, n FROM noted WHERE topic = $1 ORDER BY part, off",
    values: [topic.name],
  });
  return rows;
}

export async function outboxRows({ postgres }: Stage, group: string): Promise<number> {
  const { rows } = await postgres.query<{ count: number }>({
    text: "SELECT count(*) FROM outbox WHERE grp = $1",
    values: [group],
  });
  return rows[0]?.count ?? 0;
}

/** Every event is there; those that are there twice are the same to the last byte. */
export function expectOncePerId(records: readonly ReadRecord[], count: number): void {
  const byId = Map.groupBy(records, ({ headers }) => `${headers?.["ce_id"]}`);
  expect(byId.size).toBe(count);
  for (const [, [first, ...repeats]] of byId) {
    for (const repeat of repeats) {
      expect([repeat.key, repeat.value, repeat.headers]).toEqual([first?.key, first?.value, first?.headers]);
    }
  }
}
