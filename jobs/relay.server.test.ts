import { randomUUID } from "node:crypto";
import pino from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { addFact, type Fact, type HeldFacts, holdFacts } from "../store/facts.ts";
import { migrate } from "../store/migrate.ts";
import { inTransaction, openPostgres, type Postgres } from "../store/postgres.ts";
import { type KafkaDoor, openKafka } from "../streams/kafka.ts";
import { openProducer, type Producer } from "../streams/producer.ts";
import { readTopic } from "../streams/read-topic.ts";
import { applyTopics } from "../streams/topics.ts";
import { startProxy } from "../tests/redis-proxy.ts";
import { until } from "../tests/runner-stage.ts";
import { createDatabase, uniqueName, useStack } from "../tests/stack.ts";
import { testTopic } from "../tests/step-consumer.ts";
import { type Relay, startRelay } from "./relay.ts";

const log = pino({ level: "silent" });
const topic = testTopic(uniqueName("facts"));
let databaseUrl: string;
let postgres: Postgres;
let kafka: KafkaDoor;
let producer: Producer;

beforeAll(async () => {
  databaseUrl = await createDatabase("relay");
  await migrate(databaseUrl);
  postgres = openPostgres(databaseUrl);
  kafka = openKafka({ brokers: useStack().kafkaBrokers, clientId: "relay-test", log });
  producer = openProducer({ kafka, log });
  await applyTopics(kafka, { partitions: 2, topics: [topic] });
});

afterAll(async () => {
  await producer?.close();
  await kafka?.close();
  await postgres?.close();
});

function fact(key: string, text: string): Fact {
  const id = randomUUID();
  return { id, topic: topic.name, key, value: Buffer.from(text), headers: { ce_id: id } };
}

function relay(hold: () => Promise<HeldFacts | null> = () => holdFacts(databaseUrl)): Relay {
  return startRelay({ hold, appender: producer, log, onFatal: () => undefined });
}

async function published(): Promise<string[]> {
  return (await readTopic(kafka, topic.name)).map(({ key, value }) => `${key} ${value}`);
}

async function timesPublished({ id }: Fact): Promise<number> {
  return (await readTopic(kafka, topic.name)).filter(({ headers }) => headers?.["ce_id"]?.toString() === id).length;
}

test("facts reach their topic in order for each key, under their row's id, and a rolled back one never", async () => {
  const running = relay();
  const facts = Array.from({ length: 12 }, (_, i) => fact(`a${i % 3}`, String(i)));
  for (const one of facts) await inTransaction(postgres, (client) => addFact(client, one));
  await inTransaction(postgres, (client) => addFact(client, facts[0] as Fact));
  await expect(
    inTransaction(postgres, async (client) => {
      await addFact(client, fact("a0", "never"));
      throw new Error("rolled back");
    }),
  ).rejects.toThrow();
  await until(async () => (await published()).length >= 12);
  await running.stop();
  const records = await readTopic(kafka, topic.name);
  expect(records).toHaveLength(12);
  for (const key of ["a0", "a1", "a2"]) {
    const own = records.filter((record) => record.key?.toString() === key);
    expect(own.map(({ value }) => value?.toString())).toEqual(
      facts.filter((one) => one.key === key).map(({ value }) => value.toString()),
    );
  }
  expect(new Set(records.map(({ headers }) => headers?.["ce_id"]?.toString()))).toEqual(
    new Set(facts.map(({ id }) => id)),
  );
});

test("two relays: one works, and the other takes over when the first loses its connection", async () => {
  const before = (await published()).length;
  const first = relay();
  await until(() => first.holds());
  const second = relay();
  const { rows } = await postgres.query<{ pid: number }>({
    text: "SELECT pid FROM pg_stat_activity WHERE application_name = 'sealpost relay' AND datname = current_database()",
  });
  expect(second.holds()).toBe(false);
  await first.stop();
  expect(rows.length).toBeGreaterThan(0);
  await until(() => second.holds());
  await postgres.query({
    text: "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sealpost relay' AND datname = current_database()",
  });
  await inTransaction(postgres, (client) => addFact(client, fact("b", "after")));
  await until(async () => (await published()).length > before);
  await second.stop();
  expect((await published()).slice(before)).toHaveLength(1);
});

test("who is frozen with the facts has them for half a minute, and does not believe it has them for longer", async () => {
  const proxy = await startProxy(databaseUrl);
  const frozen = (await holdFacts(proxy.url)) as HeldFacts;
  expect(frozen.held()).toBe(true);
  proxy.freeze();
  const second = relay();
  await until(() => second.holds(), 60_000);
  expect(frozen.held()).toBe(false);
  const one = fact("d", "after");
  await inTransaction(postgres, (client) => addFact(client, one));
  await until(async () => (await timesPublished(one)) > 0);
  proxy.heal();
  await expect(frozen.unpublished(1)).rejects.toThrow(Unavailable);
  await frozen.release();
  // It stands back, and takes the lock again when that is free.
  expect(await holdFacts(databaseUrl)).toBeNull();
  await second.stop();
  await until(async () => {
    const again = await holdFacts(databaseUrl);
    await again?.release();
    return again !== null;
  });
  expect(await timesPublished(one)).toBe(1);
  proxy.close();
});

test("a relay whose session was ended between reading and publishing publishes nothing with it, and each fact once with the next", async () => {
  let ended = false;
  const running = relay(async () => {
    const facts = await holdFacts(databaseUrl);
    if (facts === null) return null;
    return {
      ...facts,
      unpublished: async (limit) => {
        const page = await facts.unpublished(limit);
        if (page.length > 0 && !ended) {
          ended = true;
          await postgres.query({
            text: "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sealpost relay' AND datname = current_database()",
          });
          await until(() => !facts.held());
        }
        return page;
      },
    };
  });
  const one = fact("e", "once");
  await inTransaction(postgres, (client) => addFact(client, one));
  await until(async () => (await timesPublished(one)) > 0);
  await running.stop();
  expect([ended, await timesPublished(one)]).toEqual([true, 1]);
});

test("what was published long ago is forgotten, what was not never", async () => {
  const facts = (await holdFacts(databaseUrl)) as HeldFacts;
  await inTransaction(postgres, (client) => addFact(client, fact("c", "waits")));
  await facts.forgetPublished(Date.now() + 1_000);
  const { rows } = await postgres.query<{ key: string }>({ text: "SELECT key FROM facts" });
  expect(rows.map(({ key }) => key)).toEqual(["c"]);
  expect(await holdFacts(databaseUrl)).toBeNull();
  await facts.release();
});
