import { beforeAll, expect, test } from "vitest";
import { openSteps } from "../store/steps.ts";
import { committedOffsets } from "../streams/plain-store.ts";
import { readTopic } from "../streams/read-topic.ts";
import type { Reader } from "../streams/readers.ts";
import { runPlainConsumer } from "../streams/runner.ts";
import type { Topic } from "../streams/topic.ts";
import { applyTopics } from "../streams/topics.ts";
import { event, noted, openScene, until, untilTestEnds, useStage } from "../tests/runner-stage.ts";
import { uniqueName } from "../tests/stack.ts";
import { testTopic } from "../tests/step-consumer.ts";
import { trimTopics } from "./trimming.ts";

const stage = useStage();
const { signal } = new AbortController();
const keptMs = 1_000_000;

let topic: Topic<unknown>;
let readers: Reader[];
let trimmed: Map<string, number>;

beforeAll(() => {
  trimmed = new Map();
});

/** Two partitions, two readers: one with its positions in PostgreSQL, one with Kafka. */
async function openTopic(): Promise<void> {
  const name = uniqueName("trimmed");
  topic = { ...testTopic(name), retention: { trimmedAfterMs: keptMs } };
  readers = [
    { group: `${name}-state`, reads: [topic], positions: "postgres" },
    { group: `${name}-plain`, reads: [topic], positions: "kafka" },
  ];
  trimmed = new Map();
  await applyTopics(stage().kafka, { partitions: 2, topics: [topic] });
}

/** To both partitions; answers a time after which the next are appended. */
async function append(count: number): Promise<number> {
  const producer = stage().kafka.client.producer();
  await producer.connect();
  const messages = Array.from({ length: count }, (_, n) => [0, 1].map((partition) => ({ partition, value: `${n}` })));
  await producer.send({ topic: topic.name, messages: messages.flat() });
  await producer.disconnect();
  await new Promise((resolve) => setTimeout(resolve, 20));
  return Date.now();
}

async function stand(group: "state" | "plain", offsets: readonly number[]): Promise<void> {
  const [state, plain] = readers as [Reader, Reader];
  const partitions = offsets.map((offset, partition) => ({ partition, offset }));
  if (group === "plain") {
    const seeks = partitions.map(({ partition, offset }) => ({ partition, offset: String(offset) }));
    await stage().kafka.ask((admin) =>
      admin.setOffsets({ groupId: plain.group, topic: topic.name, partitions: seeks }),
    );
    return;
  }
  const steps = openSteps(stage().postgres, () => null);
  for (const { partition, offset } of partitions) {
    await steps.acceptGap(state.group, { topic: topic.name, partition }, offset);
  }
}

/** Where the log begins, by partition, after a run for which everything appended before `beforeMs` is old. */
async function lowsAfter(beforeMs: number): Promise<readonly number[]> {
  const { postgres, kafka } = stage();
  const onTrimmed = (name: string, records: number) => trimmed.set(name, records);
  await trimTopics({ postgres, kafka, onTrimmed, topics: [topic], readers }, beforeMs + keptMs, signal);
  const offsets = await kafka.ask((admin) => admin.fetchTopicOffsets(topic.name));
  return offsets.toSorted((a, b) => a.partition - b.partition).map(({ low }) => Number(low));
}

test("what is old goes as far as every reader has passed it, and what is young stays", async () => {
  await openTopic();
  const between = await append(10);
  const end = await append(10);
  await stand("state", [15, 4]);
  await stand("plain", [12, 20]);
  expect(await lowsAfter(between - keptMs)).toEqual([0, 0]);
  expect(await lowsAfter(between)).toEqual([10, 4]);
  expect(trimmed).toEqual(new Map([[topic.name, 14]]));
  expect(await lowsAfter(end)).toEqual([12, 4]);
  await stand("state", [20, 20]);
  await stand("plain", [20, 20]);
  expect(await lowsAfter(end)).toEqual([20, 20]);
  expect(await readTopic(stage().kafka, topic.name)).toEqual([]);
  trimmed = new Map();
  expect(await lowsAfter(end)).toEqual([20, 20]);
  expect(trimmed.size).toBe(0);
});

test("a reader that has never stood in a partition keeps all of it", async () => {
  await openTopic();
  const end = await append(5);
  await stand("plain", [5, 5]);
  expect(await lowsAfter(end)).toEqual([0, 0]);
  await stand("state", [5]);
  expect(await lowsAfter(end)).toEqual([5, 0]);

  await openTopic();
  const later = await append(5);
  await stand("state", [5, 5]);
  expect(await lowsAfter(later)).toEqual([0, 0]);
});

test("topics with a retention in Kafka are not touched", async () => {
  await openTopic();
  topic = { ...topic, retention: { keptMs } };
  readers = [];
  expect(await lowsAfter(await append(3))).toEqual([0, 0]);
});

test("consumers of both kinds go on behind what was trimmed, and lose nothing", async () => {
  const scene = await openScene(stage());
  const { kafka, postgres, producer } = stage();
  const seen: number[] = [];
  const plain = {
    name: `${scene.group}-plain`,
    reads: [scene.input],
    react: async (batch: readonly { readonly value: { readonly seq: number } }[]) => {
      seen.push(...batch.map(({ value }) => value.seq));
      return [];
    },
  };
  const startBoth = () => [scene.start(), untilTestEnds(runPlainConsumer(plain, scene.options))];
  let runners = startBoth();
  const events = (from: number) =>
    Array.from({ length: 50 }, (_, n) => event(scene.codec, scene.input, 1_000 + from + n));
  await producer.append(events(0));
  await until(async () => (await noted(stage(), scene.input)).length === 50 && seen.length >= 50);
  await Promise.all(runners.map((runner) => runner.stop()));
  const committed = await committedOffsets(kafka, plain.name, [scene.input.name]);
  expect(committed.reduce((sum, { nextOffset }) => sum + nextOffset, 0)).toBe(50);

  topic = { ...scene.input, retention: { trimmedAfterMs: keptMs } };
  readers = [
    { group: scene.group, reads: [topic], positions: "postgres" },
    { group: plain.name, reads: [topic], positions: "kafka" },
  ];
  expect((await lowsAfter(Date.now() + 1_000)).reduce((sum, low) => sum + low, 0)).toBe(50);
  seen.length = 0;
  runners = startBoth();
  await producer.append(events(50));
  await until(async () => (await noted(stage(), scene.input)).length === 100 && seen.length >= 50);
  expect((await noted(stage(), scene.input)).every(({ n }) => n === 1)).toBe(true);
  expect(scene.fatal).toEqual([]);
  expect((await postgres.query({ text: "SELECT 1" })).rows).toHaveLength(1);
});
