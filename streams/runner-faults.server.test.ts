import { spawn } from "node:child_process";
import { once } from "node:events";
import type { Consumer, ConsumerConfig } from "kafkajs";
import { describe, expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import type { PushRequested } from "../schemas/values.ts";
import { openPostgres } from "../store/postgres.ts";
import { openSteps } from "../store/steps.ts";
import { openProxy } from "../tests/proxy.ts";
import {
  event,
  expectOncePerId,
  noted,
  openScene,
  outboxRows,
  type Stage,
  until,
  untilTestEnds,
  useStage,
} from "../tests/runner-stage.ts";
import { useStack } from "../tests/stack.ts";
import type { StepProcess } from "../tests/step-process.ts";
import type { Inbound, PlainConsumer } from "./consumer.ts";
import type { KafkaDoor } from "./kafka.ts";
import { readTopic } from "./read-topic.ts";
import { runConsumer, runPlainConsumer } from "./runner.ts";
import type { Failpoint } from "./runner-options.ts";

const stage = useStage();
const seqsOf = (count: number, first = 1_000) => Array.from({ length: count }, (_, i) => first + i);

describe("a process killed with SIGKILL", () => {
  const points: Failpoint[] = [
    "before-commit",
    "after-commit",
    "after-publish",
    "before-offset-commit",
    "after-offset-commit",
  ];
  test.concurrent.for(points)(
    "%s: its successor loses nothing, applies nothing twice, and repeats only what is the same to the last byte",
    {
      timeout: 40_000,
    },
    async (failpoint) => {
      const { group, input, output, codec, consumer, store, options } = await openScene(stage());
      const seqs = seqsOf(60);
      await stage().producer.append(seqs.slice(0, 50).map((seq) => event(codec, input, seq)));
      const config: StepProcess = {
        ...{ group, failpoint, urls: useStack(), databaseUrl: stage().databaseUrl },
        ...{ input: input.name, output: output.name },
      };
      const child = spawn(process.execPath, ["tests/step-process.ts", JSON.stringify(config)], { stdio: "inherit" });
      const [, signal] = (await once(child, "exit")) as [number | null, string | null];
      expect(signal).toBe("SIGKILL");
      await stage().producer.append(seqs.slice(50).map((seq) => event(codec, input, seq)));
      const successor = runConsumer(consumer, { ...options, store });
      await until(async () => (await noted(stage(), input)).length === 60, 30_000);
      await until(async () => (await outboxRows(stage(), group)) === 0);
      expect((await noted(stage(), input)).every(({ n }) => n === 1)).toBe(true);
      const told = await readTopic(stage().kafka, output.name);
      expectOncePerId(told, 60);
      for (const key of ["k0", "k1", "k2", "k3", "k4"]) {
        const values = told.filter((one) => `${one.key}` === key).map(({ value }) => codec.decode(output, value).seq);
        expect(Array.from(new Set(values))).toEqual(seqs.filter((seq) => `k${seq % 5}` === key));
      }
      await successor.stop();
    },
  );
});

/** PostgreSQL behind a proxy. */
async function proxiedStore({ databaseUrl }: Stage) {
  const url = new URL(databaseUrl);
  const proxy = await openProxy({ targetPort: Number(url.port) });
  url.port = String(proxy.port);
  const postgres = openPostgres(url.href);
  return {
    proxy,
    store: openSteps(postgres, (client) => client),
    close: async () => {
      await proxy.close();
      await postgres.close();
    },
  };
}

describe("while PostgreSQL", () => {
  test("is away, nothing advances and nobody is blamed; when it is back, everything goes on", async () => {
    const { input, codec, start, fatal } = await openScene(stage());
    const { proxy, store, close } = await proxiedStore(stage());
    const runner = start({ store });
    await stage().producer.append(seqsOf(10).map((seq) => event(codec, input, seq)));
    await until(async () => (await noted(stage(), input)).length === 10);
    proxy.mode = "silent";
    proxy.reset();
    await stage().producer.append(seqsOf(10, 2_000).map((seq) => event(codec, input, seq)));
    await until(() => !runner.ready());
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(await noted(stage(), input)).toHaveLength(10);
    proxy.mode = "open";
    proxy.reset();
    await until(async () => (await noted(stage(), input)).length === 20);
    await until(() => runner.ready());
    expect(await readTopic(stage().kafka, `${input.name}.dlq`)).toEqual([]);
    expect(fatal).toEqual([]);
    await runner.stop();
    await close();
  });

  test("leaves the answer to COMMIT out, each step is in the table once and told once, committed or not", async () => {
    const { group, input, output, codec, start, fatal } = await openScene(stage());
    const { proxy, store, close } = await proxiedStore(stage());
    let commits = 0;
    const lost = { answer: 0, request: 0 };
    proxy.onRequest = (bytes) => {
      if (!bytes.includes("COMMIT") || ++commits % 3 !== 0) return;
      const isAnswer = commits % 2 === 0;
      lost[isAnswer ? "answer" : "request"]++;
      proxy.mode = isAnswer ? "deaf" : "silent";
      setTimeout(() => {
        proxy.reset();
        proxy.mode = "open";
      }, 60);
    };
    const runner = start({ store });
    const seqs = seqsOf(300);
    for (let at = 0; at < 300; at += 10) {
      await stage().producer.append(seqs.slice(at, at + 10).map((seq) => event(codec, input, seq)));
      await new Promise((resolve) => setTimeout(resolve, 60));
    }
    await until(async () => (await noted(stage(), input)).length === 300);
    proxy.onRequest = null;
    await until(async () => (await outboxRows(stage(), group)) === 0);
    expect(lost.answer).toBeGreaterThan(1);
    expect(lost.request).toBeGreaterThan(1);
    expect((await noted(stage(), input)).every(({ n }) => n === 1)).toBe(true);
    const told = await readTopic(stage().kafka, output.name);
    expectOncePerId(told, 300);
    for (const key of ["k0", "k1", "k2", "k3", "k4"]) {
      const values = told.filter((one) => `${one.key}` === key).map(({ value }) => codec.decode(output, value).seq);
      expect(Array.from(new Set(values))).toEqual(seqs.filter((seq) => `k${seq % 5}` === key));
    }
    expect(fatal).toEqual([]);
    await runner.stop();
    await close();
  });
});

/** A door whose consumers are handed to the test. */
function watchedKafka(onConsumer: (consumer: Consumer) => void): KafkaDoor {
  const { kafka } = stage();
  const client = Object.assign(Object.create(kafka.client), {
    consumer: (config: ConsumerConfig) => {
      const consumer = kafka.client.consumer(config);
      onConsumer(consumer);
      return consumer;
    },
  });
  return { ...kafka, client };
}

describe("a Kafka consumer that stands still without an error", () => {
  test("is built anew, and what waited is applied", async () => {
    const { input, codec, start, fatal } = await openScene(stage());
    const consumers: Consumer[] = [];
    const kafka = watchedKafka((consumer) => consumers.push(consumer));
    start({ kafka, timing: { tickMs: 100, lagMs: 100, stallMs: 1_500, sessionMs: 6_000 } });
    await stage().producer.append([event(codec, input, 1)]);
    await until(async () => (await noted(stage(), input)).length === 1);
    consumers[0]?.pause([{ topic: input.name }]);
    await stage().producer.append([event(codec, input, 2)]);
    await until(async () => (await noted(stage(), input)).length === 2);
    expect(consumers).toHaveLength(2);
    expect(fatal).toEqual([]);
  });

  test("twice in a row ends the process", async () => {
    const { input, codec, start, fatal } = await openScene(stage());
    const kafka = watchedKafka((consumer) => {
      consumer.on("consumer.group_join", () => consumer.pause([{ topic: input.name }]));
    });
    await stage().producer.append([event(codec, input, 1)]);
    start({ kafka, timing: { tickMs: 100, lagMs: 100, stallMs: 600, sessionMs: 6_000 } });
    await until(() => fatal.length > 0);
    expect(fatal).toHaveLength(1);
  });
});

describe("a consumer without state", () => {
  function reacting(
    scene: Awaited<ReturnType<typeof openScene>>,
    onBatch: (batch: readonly Inbound<PushRequested>[]) => void = () => undefined,
  ): PlainConsumer<PushRequested> {
    return {
      name: scene.group,
      reads: [scene.input],
      ...(scene.consumer.check && { check: scene.consumer.check }),
      react: async (batch) => {
        onBatch(batch);
        return batch.map((record) => ({
          ...{ topic: scene.output, key: record.key, cause: record, time: record.timestamp, subject: record.key },
          value: () => record.value,
        }));
      },
    };
  }

  test("handles what comes, publishes what it returns, and goes on where it stopped", async () => {
    const scene = await openScene(stage(), 3);
    const { input, output, codec, options, fatal } = scene;
    const handled: number[] = [];
    const consumer = reacting(scene, (batch) => handled.push(...batch.map(({ value }) => value.seq)));
    const first = untilTestEnds(runPlainConsumer(consumer, options));
    await stage().producer.append([...seqsOf(100), 13].map((seq) => event(codec, input, seq)));
    await until(() => handled.length === 100);
    await first.stop();
    untilTestEnds(runPlainConsumer(consumer, options));
    await stage().producer.append(seqsOf(20, 2_000).map((seq) => event(codec, input, seq)));
    await until(() => handled.length === 120);
    await until(async () => (await readTopic(stage().kafka, output.name)).length === 120);
    expect(await readTopic(stage().kafka, `${input.name}.dlq`)).toHaveLength(1);
    expect(new Set(handled).size).toBe(120);
    expect(fatal).toEqual([]);
  });

  test("handles the same again while a server is away", async () => {
    const scene = await openScene(stage(), 1);
    let away = 3;
    let done = 0;
    const consumer = reacting(scene, () => {
      if (away-- > 0) throw new Unavailable("redis");
      done++;
    });
    untilTestEnds(runPlainConsumer(consumer, scene.options));
    await stage().producer.append([event(scene.codec, scene.input, 1)]);
    await until(() => done === 1);
    expect(scene.fatal).toEqual([]);
  });
});
