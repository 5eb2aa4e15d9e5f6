import { getEventListeners } from "node:events";
import pino from "pino";
import { expect, test } from "vitest";
import type { OutboxRow } from "./consumer.ts";
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
    appender: { append: () => new Promise<void>((resolve) => appends.push(resolve)) },
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
