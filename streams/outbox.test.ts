import { getEventListeners } from "node:events";
import pino from "pino";
import { expect, test } from "vitest";
import type { OutboxRow, Outgoing } from "./consumer.ts";
import { createOutbox } from "./outbox.ts";
import { createPatience } from "./patience.ts";

const at = { topic: "in", partition: 0 };

function row(inputOffset: number): OutboxRow {
  const place = { inputTopic: at.topic, inputPartition: at.partition, inputOffset, n: 0 };
  return { ...place, topic: "out", key: "k", value: Buffer.alloc(0), headers: {} };
}

/** An outbox whose appends wait until they are let go, and how many listeners its steps left on a signal. */
function house() {
  const appends: (() => void)[] = [];
  const outbox = createOutbox({
    group: "g",
    store: { leftovers: async () => [] },
    publisher: { publish: () => new Promise<void>((resolve) => appends.push(resolve)) },
    patience: createPatience(pino({ level: "silent" }), () => undefined),
    failpoints: { hit: () => undefined },
    givenUp: new AbortController().signal,
    onFatal: (error) => {
      throw error;
    },
  });
  return {
    outbox,
    publish: (offset: number) => outbox.publish([row(offset)], () => undefined),
    appended: async () => {
      await settled();
      appends.shift()?.();
      await settled();
    },
  };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

test("what was deleted is not deleted again, though more was published while that was committed", async () => {
  const { outbox, publish, appended } = house();
  publish(1);
  await appended();
  const deleted = outbox.published();
  publish(2);
  await appended();
  expect(outbox.published()).toEqual([{ ...at, from: 1, below: 3 }]);
  outbox.forget(deleted);
  expect(outbox.published()).toEqual([{ ...at, from: 2, below: 3 }]);
  outbox.forget(outbox.published());
  expect(outbox.published()).toEqual([]);
});

test("waiting for room and for the end leaves nothing behind on a signal that lives on", async () => {
  const { outbox, publish, appended } = house();
  const { signal } = new AbortController();
  publish(1);
  publish(2);
  for (let offset = 3; offset < 10; offset++) {
    const room = outbox.room(signal);
    await appended();
    await room;
    publish(offset);
  }
  const drained = outbox.drained(signal);
  await appended();
  await appended();
  await drained;
  expect(getEventListeners(signal, "abort")).toHaveLength(0);
});

test("leftovers are published with all rows of an input record at once, however many pages they fill", async () => {
  const rows = [60, 250, 1, 99, 3].flatMap((count, offset) =>
    Array.from({ length: count }, (_, n) => ({ ...row(offset), n })),
  );
  const published: (readonly OutboxRow[])[] = [];
  const outbox = createOutbox({
    group: "g",
    store: {
      leftovers: async (_group, _partition, limit, after = { inputOffset: -1, n: 0 }) =>
        rows
          .filter(
            ({ inputOffset, n }) =>
              inputOffset > after.inputOffset || (inputOffset === after.inputOffset && n > after.n),
          )
          .slice(0, limit),
    },
    publisher: { publish: async (some) => void published.push(some) },
    patience: createPatience(pino({ level: "silent" }), () => undefined),
    failpoints: { hit: () => undefined },
    givenUp: new AbortController().signal,
    onFatal: (error) => {
      throw error;
    },
  });
  await outbox.publishLeftovers(at, new AbortController().signal);
  expect(published.flat()).toEqual(rows);
  expect(published.length).toBeGreaterThan(1);
  const calls = published.map((some) => new Set(some.map(({ inputOffset }) => inputOffset)));
  expect(calls.reduce((sum, offsets) => sum + offsets.size, 0)).toBe(5);
  expect(outbox.published()).toEqual([{ ...at, from: 0, below: 5 }]);
});

test("what another owner left and cannot leave is known to wait", async () => {
  const appends: PromiseWithResolvers<void>[] = [];
  const outbox = createOutbox({
    ...{ group: "g", store: { leftovers: async () => [row(1)] }, failpoints: { hit: () => undefined } },
    publisher: {
      publish: () => {
        const append = Promise.withResolvers<void>();
        appends.push(append);
        return append.promise;
      },
    },
    patience: createPatience(pino({ level: "silent" }), () => undefined),
    givenUp: new AbortController().signal,
    onFatal: (error) => {
      throw error;
    },
  });
  const leaving = outbox.publishLeftovers(at, new AbortController().signal);
  await settled();
  await expect.poll(() => outbox.state().ageSeconds).toBeGreaterThan(0);
  appends[0]?.resolve();
  await leaving;
  expect(outbox.state()).toEqual({ steps: 0, ageSeconds: 0 });
});

test("rows leave that stand in the table still when Kafka was told, and no others", async () => {
  const said: string[] = [];
  const offsetsOf = (rows: readonly Outgoing[]) => (rows as readonly OutboxRow[]).map(({ inputOffset }) => inputOffset);
  const table = new Set([1, 2, 5]);
  const outbox = createOutbox({
    ...{ group: "g", store: { leftovers: async () => [row(5), row(6)] }, failpoints: { hit: () => undefined } },
    patience: createPatience(pino({ level: "silent" }), () => undefined),
    givenUp: new AbortController().signal,
    onFatal: (error) => {
      throw error;
    },
    publisher: { publish: async (rows) => void said.push(`left ${offsetsOf(rows)}`) },
    announce: async (rows) => void said.push(`told ${offsetsOf(rows)}`),
    stillWaiting: async (rows) => rows.filter(({ inputOffset }) => table.has(inputOffset)),
  });
  let published = 0;
  outbox.publish([row(1), row(2)], () => published++);
  // The database that held it went away before it left.
  outbox.publish([row(3), row(4)], () => published++);
  const { signal } = new AbortController();
  await outbox.drained(signal);
  await outbox.publishLeftovers(at, signal);
  expect(said).toEqual(["told 1,2", "left 1,2", "told 3,4", "told 5,6", "left 5"]);
  expect(published).toBe(2);
});
