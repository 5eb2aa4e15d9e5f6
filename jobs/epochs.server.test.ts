import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pino from "pino";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { DAY_MS } from "../protocol/limits.ts";
import { Unavailable } from "../protocol/refusal.ts";
import { earliestEpochAt } from "../store/ingress.ts";
import type { Keyring } from "../store/keyring/keyring.ts";
import { createKeyring, openKeyring } from "../store/keyring/keyring-file.ts";
import { openRootFile } from "../store/keyring/root-file.ts";
import { type KafkaDoor, openKafka } from "../streams/kafka.ts";
import { deadLetterTopicName, type Topic } from "../streams/topic.ts";
import { applyTopics } from "../streams/topics.ts";
import { trimTopic } from "../streams/trimming.ts";
import { uniqueName, useStack } from "../tests/stack.ts";
import { testTopic } from "../tests/step-consumer.ts";
import { destroyPassedEpochs } from "./epochs.ts";

const { signal } = new AbortController();
const log = pino({ level: "silent" });

/** The log's clock is the real one: records are appended today, and jobs run in the days after. */
const today = Date.now();
const soon = today + 10 * DAY_MS;
/** The lowest epoch that a record appended today may be of. */
const firstOfToday = earliestEpochAt(today);
const firstLasting = earliestEpochAt(soon);

let kafka: KafkaDoor;
let folder: string;
let keyring: Keyring;
let topic: Topic<unknown>;

beforeAll(() => {
  kafka = openKafka({ brokers: useStack().kafkaBrokers, clientId: "epochs-test", log });
});
afterAll(() => kafka.close());

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "sealpost-epochs-"));
  const roots = openRootFile(join(folder, "root"));
  createKeyring(join(folder, "keyring"), roots);
  keyring = openKeyring(join(folder, "keyring"), roots);
  for (let number = firstOfToday - 5; number <= firstLasting + 2; number++) keyring.create({ kind: "epoch", number });
  topic = testTopic(uniqueName("ingress"));
  await applyTopics(kafka, { partitions: 2, topics: [topic] });
  return () => {
    keyring.close();
    rmSync(folder, { recursive: true });
  };
});

async function append(name: string, headers: Record<string, string> = {}): Promise<void> {
  const producer = kafka.client.producer();
  await producer.connect();
  await producer.send({ topic: name, messages: [{ partition: 1, value: "sealed", headers }] });
  await producer.disconnect();
}

async function lowestAfter(now = soon): Promise<number | null> {
  await destroyPassedEpochs({ keyring, kafka, topic }, now, signal);
  return keyring.oldest("epoch");
}

test("with an empty log all keys go but those of which content may still come", async () => {
  expect(await lowestAfter()).toBe(firstLasting);
});

test("the keys of what lies in the log stay until it is trimmed", async () => {
  await append(topic.name);
  expect(await lowestAfter()).toBe(firstOfToday);
  expect(await lowestAfter(soon + 30 * DAY_MS)).toBe(firstOfToday);
  await trimTopic(kafka, { topic: topic.name, beforeMs: soon, positions: [new Map([[1, 1]])] });
  expect(await lowestAfter()).toBe(firstLasting);
});

test("the keys of dead letters stay, by when they came into the log and not by when they died", async () => {
  const appendedMs = today - 2 * DAY_MS;
  await append(deadLetterTopicName(topic), { "x-orig-timestamp": String(today) });
  await append(deadLetterTopicName(topic), { "x-orig-timestamp": String(appendedMs) });
  expect(await lowestAfter()).toBe(earliestEpochAt(appendedMs));
});

test("a dead letter that does not say when it came keeps all keys", async () => {
  await append(deadLetterTopicName(topic));
  expect(await lowestAfter()).toBe(firstOfToday - 5);
});

test("while Kafka cannot be asked, and in a run that was ended, nothing is destroyed", async () => {
  const away = openKafka({ brokers: ["127.0.0.1:9"], clientId: "away", log });
  await expect(destroyPassedEpochs({ keyring, kafka: away, topic }, soon, signal)).rejects.toThrow(Unavailable);
  await away.close();
  await destroyPassedEpochs({ keyring, kafka, topic }, soon, AbortSignal.abort());
  expect(keyring.oldest("epoch")).toBe(firstOfToday - 5);
});
