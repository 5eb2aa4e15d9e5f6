import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { event, expectOncePerId, log, noted, openScene, outboxRows, until, useStage } from "../tests/runner-stage.ts";
import { useStack } from "../tests/stack.ts";
import type { StepProcess } from "../tests/step-process.ts";
import { type ReadRecord, readTopic } from "./read-topic.ts";
import type { Failpoint } from "./runner-options.ts";
import { findMarks } from "./transaction-session.ts";
import { openTransactions, type Transactions } from "./transactions.ts";

const stage = useStage();
const seqsOf = (count: number, first = 1_000) => Array.from({ length: count }, (_, i) => first + i);
/** A busy machine takes its time over a session's end. */
const patienceMs = 60_000;
const keys = ["k0", "k1", "k2", "k3", "k4"];

type Scene = Awaited<ReturnType<typeof openScene>>;

const opened: Transactions[] = [];
const children: ChildProcess[] = [];

afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
});
afterAll(() => Promise.all(opened.map((one) => one.close())));

function transactionsOf({ group }: Scene): Transactions {
  const { kafka } = stage();
  const transactions = openTransactions({ kafka, group, log, failpoints: { hit: () => undefined } });
  opened.push(transactions);
  return transactions;
}

/** A consumer in a process of its own, which dies or freezes at a failpoint. */
function doomed({ group, input, output }: Scene, how: Pick<StepProcess, "failpoint" | "transactional" | "freezes">) {
  const config: StepProcess = {
    ...{ group, input: input.name, output: output.name, ...how },
    ...{ urls: useStack(), databaseUrl: stage().databaseUrl },
  };
  const child = spawn(process.execPath, ["tests/step-process.ts", JSON.stringify(config)], { stdio: "inherit" });
  children.push(child);
  return child;
}

function append({ codec, input }: Scene, seqs: readonly number[]): Promise<void> {
  return stage().producer.append(seqs.map((seq) => event(codec, input, seq)));
}

async function published(scene: Scene): Promise<readonly ReadRecord[]> {
  return readTopic(stage().kafka, scene.output.name);
}

/** Not only once for each id: once. And in order for each key. */
function expectExactly({ codec, output }: Scene, told: readonly ReadRecord[], seqs: readonly number[]): void {
  expectOncePerId(told, seqs.length);
  expect(told).toHaveLength(seqs.length);
  for (const key of keys) {
    const values = told.filter((one) => `${one.key}` === key).map(({ value }) => codec.decode(output, value).seq);
    expect(values).toEqual(seqs.filter((seq) => `k${seq % 5}` === key));
  }
}

async function isFinished({ group, input }: Scene, count: number): Promise<void> {
  await until(async () => (await noted(stage(), input)).length === count, patienceMs);
  await until(async () => (await outboxRows(stage(), group)) === 0, patienceMs);
}

describe("a process killed with SIGKILL", () => {
  const points: Failpoint[] = [
    "after-commit",
    "before-transaction",
    "after-mark",
    "before-transaction-commit",
    "after-transaction-commit",
    "after-publish",
  ];
  test.for(points)(
    "%s: readers of committed records see each record once, in order",
    { timeout: 150_000 },
    async (failpoint) => {
      const scene = await openScene(stage());
      const seqs = seqsOf(60);
      await append(scene, seqs.slice(0, 50));
      const [, signal] = (await once(doomed(scene, { failpoint, transactional: true }), "exit")) as [null, string];
      expect(signal).toBe("SIGKILL");
      await append(scene, seqs.slice(50));
      scene.start({ publisher: transactionsOf(scene) });
      await isFinished(scene, 60);
      expect((await noted(stage(), scene.input)).every(({ n }) => n === 1)).toBe(true);
      // Readers of committed records see the end of a transaction a moment after it was answered.
      await until(async () => (await published(scene)).length >= seqs.length, patienceMs);
      expectExactly(scene, await published(scene), seqs);
      expect(scene.fatal).toEqual([]);
    },
  );

  test("after-publish, where it published plainly: repeats are seen, so the tests above would see them", {
    timeout: 150_000,
  }, async () => {
    const scene = await openScene(stage());
    await append(scene, seqsOf(50));
    await once(doomed(scene, { failpoint: "after-publish" }), "exit");
    scene.start();
    await isFinished(scene, 50);
    const told = await published(scene);
    expectOncePerId(told, 50);
    expect(told.length).toBeGreaterThan(50);
  });
});

describe("a process that was frozen and is thought dead", () => {
  test.for<Failpoint>(["before-transaction", "before-transaction-commit", "after-commit"])(
    "%s: what its successor published it does not publish again",
    { timeout: 150_000 },
    async (failpoint) => {
      const scene = await openScene(stage());
      const seqs = seqsOf(80);
      await append(scene, seqs.slice(0, 50));
      const zombie = doomed(scene, { failpoint, transactional: true, freezes: true });
      // It stands there with a step in the table, and its session runs out.
      await until(async () => (await outboxRows(stage(), scene.group)) > 0, patienceMs);
      const successor = scene.start({ publisher: transactionsOf(scene) });
      await until(async () => (await published(scene)).length === 50, patienceMs);
      await append(scene, seqs.slice(50, 60));
      await until(async () => (await published(scene)).length === 60, patienceMs);
      zombie.kill("SIGCONT");
      await append(scene, seqs.slice(60, 70));
      await until(async () => (await published(scene)).length === 70, patienceMs);
      // Now it is the zombie's turn alone: it has taken its place in the group again.
      await successor.stop();
      await append(scene, seqs.slice(70));
      await isFinished(scene, 80);
      expect(zombie.exitCode).toBe(null);
      // Readers of committed records see the end of a transaction a moment after it was answered.
      await until(async () => (await published(scene)).length >= seqs.length, patienceMs);
      expectExactly(scene, await published(scene), seqs);
      expect(scene.fatal).toEqual([]);
    },
  );
});

test("a transaction whose process died holds readers up for seconds, even when nobody takes its partition over", {
  timeout: 150_000,
}, async () => {
  const scene = await openScene(stage(), 1);
  await append(scene, seqsOf(10));
  const child = doomed(scene, { failpoint: "before-transaction-commit", transactional: true });
  await once(child, "exit");
  const diedAt = Date.now();
  await stage().producer.append([event(scene.codec, scene.output, 1)]);
  expect(await published(scene)).toEqual([]);
  await until(async () => (await published(scene)).length > 0, patienceMs);
  // The timeout of 10 s, and the 10 s after which the broker looks for such transactions.
  expect(Date.now() - diedAt).toBeLessThan(25_000);
  expect(await published(scene)).toHaveLength(1);
});

test("a database older than the mark: what comes of applying records again is published again", async () => {
  const scene = await openScene(stage(), 1);
  const first = scene.start({ publisher: transactionsOf(scene) });
  await append(scene, seqsOf(10));
  await until(async () => (await published(scene)).length === 10, patienceMs);
  await first.stop();
  const marks = await findMarks(stage().kafka, scene.group, [scene.input.name]);
  expect(Array.from(marks.values())).toEqual([10]);
  await stage().postgres.query({ text: "DELETE FROM noted WHERE topic = $1", values: [scene.input.name] });
  await stage().postgres.query({
    text: "UPDATE consumer_positions SET next_offset = 4 WHERE grp = $1",
    values: [scene.group],
  });
  scene.start({ publisher: transactionsOf(scene) });
  await isFinished(scene, 6);
  const told = await published(scene);
  expectOncePerId(told, 10);
  expect(told).toHaveLength(16);
});

test("rows of several topics are in one transaction, dead letters and what is told about them included", async () => {
  const scene = await openScene(stage(), 1);
  scene.start({ publisher: transactionsOf(scene) });
  await append(scene, [1_000, 13, 1_001]);
  await until(async () => (await published(scene)).length === 3, patienceMs);
  expect(await readTopic(stage().kafka, `${scene.input.name}.dlq`)).toHaveLength(1);
  expect(scene.fatal).toEqual([]);
});
