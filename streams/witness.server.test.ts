import { expect, test } from "vitest";
import { beginGeneration } from "../store/generation.ts";
import { event, expectOncePerId, noted, openScene, outboxRows, until, useStage } from "../tests/runner-stage.ts";
import type { Appender, OutboxRow } from "./consumer.ts";
import { partitionName, partitionOf } from "./partition.ts";
import { readTopic } from "./read-topic.ts";
import { type Runner, runConsumer } from "./runner.ts";
import { noMetrics, type StepRunnerOptions } from "./runner-options.ts";
import { findTold } from "./witness.ts";

const stage = useStage();

/** A scene whose consumer stands in a database that went back. */
async function openStanding() {
  const scene = await openScene(stage(), 1);
  const consumer = { ...scene.consumer, afterRestore: "stand" as const };
  const place = { topic: scene.input.name, partition: 0 };
  const start = (changes: Partial<StepRunnerOptions<Parameters<typeof consumer.step>[1]>> = {}) =>
    runConsumer(consumer, { ...scene.options, store: scene.store, ...changes });
  const told = async () =>
    (await findTold(stage().kafka, scene.group, [place.topic])).get(partitionName(place)) ?? null;
  const say = (from: number, count: number) =>
    stage().producer.append(Array.from({ length: count }, (_, n) => event(scene.codec, scene.input, 100 + from + n)));
  const left = async () => readTopic(stage().kafka, scene.output.name);
  /** What an older backup holds of it. */
  const putBack = (position: number) => scene.store.acceptGap(scene.group, place, position);
  return { ...scene, place, start, told, say, left, putBack };
}

test("Kafka is told of a position before anything leaves that came of it", async () => {
  const { start, told, say, left } = await openStanding();
  const early: number[] = [];
  const appender: Appender = {
    append: async (records, options) => {
      const { nextOffset = -1 } = (await told()) ?? {};
      for (const { inputOffset } of records as readonly OutboxRow[])
        if (inputOffset >= nextOffset) early.push(inputOffset);
      await stage().producer.append(records, options);
    },
  };
  // Nothing is told by the clock.
  const runner = start({ appender, timing: { tickMs: 60_000, lagMs: 200, idleCheckMs: 60_000, sessionMs: 6_000 } });
  await until(async () => (await told()) !== null);
  for (let from = 1; from <= 40; from += 10) {
    await say(from, 10);
    await until(async () => (await left()).length >= from + 9);
  }
  expect(early).toEqual([]);
  expect(await told()).toEqual({ generation: 0, nextOffset: 40 });
  await runner.stop();
});

test("a consumer whose position is behind what Kafka was told stands, leaves that as it is, and goes on in the next generation", async () => {
  const { group, input, start, told, say, left, putBack, store } = await openStanding();
  const first = start();
  await say(1, 20);
  await until(async () => (await left()).length === 20);
  await first.stop();
  expect(await told()).toEqual({ generation: 0, nextOffset: 20 });

  await putBack(12);
  await say(21, 5);
  const restored: number[] = [];
  const second = start({ metrics: { ...noMetrics, restored: (_, partitions) => restored.push(partitions) } });
  await until(() => restored.at(-1) === 1);
  expect(second.ready()).toBe(false);
  await second.check();
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(await noted(stage(), input)).toHaveLength(20);
  expect(await told()).toEqual({ generation: 0, nextOffset: 20 });
  expect(await left()).toHaveLength(20);
  // Another process finds the same.
  await second.stop();
  const third = start();
  await until(() => third.lag().some(({ stopped }) => stopped));
  expect(await told()).toEqual({ generation: 0, nextOffset: 20 });

  const generation = await beginGeneration(stage().postgres, 0);
  await third.check();
  await until(async () => (await noted(stage(), input)).length === 25);
  await until(() => third.ready());
  await until(async () => (await outboxRows(stage(), group)) === 0);
  expect(await told()).toEqual({ generation, nextOffset: 25 });
  // Eight were done again, under the same ids.
  expectOncePerId(await left(), 25);
  expect(await left()).toHaveLength(33);
  await third.stop();

  // A backup from before the recovery is behind, however far its position is.
  await stage().postgres.query({ text: "UPDATE database_generation SET generation = $1", values: [generation - 1] });
  await store.acceptGap(group, { topic: input.name, partition: 0 }, 25);
  const fourth = start();
  await until(() => fourth.lag().some(({ stopped }) => stopped));
  await fourth.stop();
  await beginGeneration(stage().postgres, generation);
});

/** A scene of two partitions whose consumer has state across them; ten records of each were applied and have left. */
async function openTogether() {
  const scene = await openScene(stage(), 2);
  const consumer = { ...scene.consumer, afterRestore: "stand-together" as const };
  const start = () => runConsumer(consumer, { ...scene.options, store: scene.store });
  const keys = [0, 1].map((partition) => {
    return Array.from({ length: 20 }, (_, n) => `k${n}`).find((key) => partitionOf(key, 2) === partition) as string;
  });
  const say = (partition: number, from: number, count: number) =>
    stage().producer.append(
      Array.from({ length: count }, (_, n) =>
        event(scene.codec, scene.input, 1_000 * (partition + 1) + from + n, keys[partition]),
      ),
    );
  const putBack = (partition: number, position: number) =>
    scene.store.acceptGap(scene.group, { topic: scene.input.name, partition }, position);
  const left = async () => readTopic(stage().kafka, scene.output.name);
  const stands = (runner: Runner) => {
    const lags = runner.lag();
    return lags.length === 2 && lags.every(({ stopped }) => stopped);
  };
  const first = start();
  await Promise.all([say(0, 0, 10), say(1, 0, 10)]);
  await until(async () => (await left()).length === 20);
  return { ...scene, start, say, putBack, left, stands, first };
}

test("where state crosses partitions, a partition that moved nothing since the backup stands with those that did", async () => {
  const { start, say, putBack, left, stands, first, input } = await openTogether();
  await first.stop();
  await putBack(0, 4);
  await say(1, 10, 10);
  const second = start();
  await until(() => stands(second));
  expect(second.ready()).toBe(false);
  await second.check();
  await second.stop();
  expect(await noted(stage(), input)).toHaveLength(20);
  expect(await left()).toHaveLength(20);

  const generation = await beginGeneration(stage().postgres, 0);
  const third = start();
  await until(async () => (await noted(stage(), input)).length === 30);
  await until(() => third.ready());
  await third.stop();
  expectOncePerId(await left(), 30);
  expect(generation).toBeGreaterThan(0);
});

test("where state crosses partitions, a database that goes back under running processes is noticed by a step that touches none of what it lost", async () => {
  const { start, say, putBack, left, stands, first, input, fatal } = await openTogether();
  await putBack(0, 4);
  await say(1, 10, 5);
  await until(() => fatal.length > 0 || stands(first));
  await first.stop();
  expect(await noted(stage(), input)).toHaveLength(20);
  const second = start();
  await until(() => stands(second));
  expect(await left()).toHaveLength(20);
  await second.stop();
});

test("a group that was told to stand does so also in a generation in which nothing is behind", async () => {
  const { start, say, stands, first, group, input } = await openTogether();
  await first.stop();
  await stage().postgres.query({ text: "INSERT INTO held_groups VALUES ($1)", values: [group] });
  await say(1, 10, 5);
  const second = start();
  await until(() => stands(second));
  expect(await noted(stage(), input)).toHaveLength(20);
  await stage().postgres.query({ text: "DELETE FROM held_groups WHERE grp = $1", values: [group] });
  await second.check();
  await until(async () => (await noted(stage(), input)).length === 25);
  await second.stop();
});

test("a database that is put back under a running consumer ends it, and the next one stands", async () => {
  const { start, say, left, putBack, fatal, input } = await openStanding();
  const first = start();
  await say(1, 10);
  await until(async () => (await left()).length === 10);
  await putBack(4);
  await say(11, 1);
  await until(() => fatal.length > 0 || first.lag().some(({ stopped }) => stopped));
  await first.stop();
  const second = start();
  await until(() => second.lag().some(({ stopped }) => stopped));
  expect(await noted(stage(), input)).toHaveLength(10);
  await second.stop();
});
