import { EventEmitter } from "node:events";
import type { ConsumerConfig, ConsumerRunConfig } from "kafkajs";
import { expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import type { KafkaDoor } from "./kafka.ts";
import { readRange } from "./read-topic.ts";

const events = { CRASH: "consumer.crash", END_BATCH_PROCESS: "consumer.end_batch_process" };

/**
 * A topic of one record, and consumers that join their group when they are told to. As in kafkajs, one that is disconnected while it joins has not ended: it reads for as long
 * as nobody disconnects it afterwards.
 */
function house() {
  const joins: PromiseWithResolvers<void>[] = [];
  const configs: ConsumerConfig[] = [];
  const heard = new EventEmitter();
  const state = { joining: 0, running: 0 };
  const consumer = {
    events,
    connect: async () => undefined,
    subscribe: async () => undefined,
    on: (name: string, listener: (event: unknown) => void) => heard.on(name, listener),
    seek: () => undefined,
    run: async ({ eachBatch }: ConsumerRunConfig) => {
      const join = Promise.withResolvers<void>();
      joins.push(join);
      state.joining++;
      await join.promise.finally(() => state.joining--);
      state.running++;
      const messages = [{ offset: "0", key: null, value: Buffer.from("v"), timestamp: "1" }];
      void eachBatch?.({ batch: { partition: 0, messages, lastOffset: () => "0" } } as never);
    },
    disconnect: async () => {
      if (state.joining === 0) state.running = 0;
    },
  };
  const admin = {
    fetchTopicOffsets: async () => [{ partition: 0, low: "0", high: "1", offset: "1" }],
    deleteGroups: async () => [],
  };
  const door = {
    client: {
      consumer: (config: ConsumerConfig) => {
        configs.push(config);
        return consumer;
      },
    },
    ask: (question: (asked: typeof admin) => unknown) => question(admin),
  } as unknown as KafkaDoor;
  const read = (signal?: AbortSignal) => {
    const values: string[] = [];
    const done = readRange(
      door,
      "t",
      new Map(),
      async (records) => void values.push(...records.map(({ value }) => `${value}`)),
      signal,
    );
    return done.then(() => values);
  };
  return { joins, configs, state, read };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

test("what stands in a topic is read, and nobody reads on", async () => {
  const { joins, state, read } = house();
  const reading = read(new AbortController().signal);
  await settled();
  joins[0]?.resolve();
  expect(await reading).toEqual(["v"]);
  expect(state).toEqual({ joining: 0, running: 0 });
});

test("a reader that is told to end while its consumer joins ends that one when it has", async () => {
  const { joins, state, read } = house();
  const over = new AbortController();
  const reading = read(over.signal);
  const refused = expect(reading).rejects.toThrow(Unavailable);
  await settled();
  over.abort();
  await settled();
  joins[0]?.resolve();
  await refused;
  await settled();
  expect(state).toEqual({ joining: 0, running: 0 });
});

test("a reader whose time is over before it begins joins no group", async () => {
  const { joins, read } = house();
  await expect(read(AbortSignal.abort())).rejects.toThrow(Unavailable);
  expect(joins).toEqual([]);
});

test("a consumer that fails to join after its reader was told to end is nobody's unhandled rejection", async () => {
  const unhandled: unknown[] = [];
  const hear = (error: unknown) => void unhandled.push(error);
  process.on("unhandledRejection", hear);
  const { joins, read } = house();
  const over = new AbortController();
  const refused = expect(read(over.signal)).rejects.toThrow();
  await settled();
  over.abort();
  joins[0]?.reject(new Error("the group is gone"));
  await refused;
  await settled();
  process.off("unhandledRejection", hear);
  expect(unhandled).toEqual([]);
});

test("a consumer that crashes is not started again behind its reader's back", async () => {
  const { joins, configs, read } = house();
  const reading = read();
  await settled();
  joins[0]?.resolve();
  await reading;
  expect(await configs[0]?.retry?.restartOnFailure?.(new Error("crashed"))).toBe(false);
});
