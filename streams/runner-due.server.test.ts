import pino from "pino";
import { expect, test } from "vitest";
import { event, noted, openScene, swift, until, untilTestEnds, useStage } from "../tests/runner-stage.ts";
import { partitionOf } from "./partition.ts";
import { runConsumer } from "./runner.ts";

const stage = useStage();

/** Two keys that lie on two partitions. */
function keysApart(): readonly [string, string] {
  const other = Array.from({ length: 20 }, (_, n) => `key-${n}`).find(
    (key) => partitionOf(key, 2) !== partitionOf("k", 2),
  );
  if (other === undefined) throw new Error("all keys lie on one partition");
  return ["k", other];
}

test("a record is not applied before it is due, nor what is behind it; other partitions go on, and nobody takes it for a stall", async () => {
  const { input, codec, consumer, store, options, fatal } = await openScene(stage(), 2);
  const [late, soon] = keysApart();
  // Longer than a session without heartbeats, and than a stall.
  const waitMs = 12_000;
  const lines: string[] = [];
  const log = pino({ level: "warn" }, { write: (line: string) => void lines.push(line) });
  const appliedAt = new Map<number, { readonly at: number; readonly dueAt: number }>();
  const waiting = {
    ...consumer,
    dueAt: ({ value, timestamp }: { value: { seq: number }; timestamp: number }) =>
      value.seq === 1_002 ? timestamp + waitMs : timestamp,
    step: (async (batch, tx) => {
      for (const { value, timestamp } of batch) {
        appliedAt.set(value.seq, { at: Date.now(), dueAt: timestamp + (value.seq === 1_002 ? waitMs : 0) });
      }
      return consumer.step(batch, tx);
    }) as typeof consumer.step,
  };
  const timing = { ...swift, stallMs: 8_000, idleCheckMs: 500 };
  const runner = untilTestEnds(runConsumer(waiting, { ...options, timing, store, log }));
  await stage().producer.append([1_001, 1_002, 1_003].map((seq) => event(codec, input, seq, late)));
  await until(async () => (await noted(stage(), input)).some(({ seq }) => seq === 1_001));
  await stage().producer.append([2_001, 2_002].map((seq) => event(codec, input, seq, soon)));
  await until(async () => (await noted(stage(), input)).length === 3);
  expect([...appliedAt.keys()].toSorted()).toEqual([1_001, 2_001, 2_002]);
  await until(() => runner.ready());
  await until(async () => (await noted(stage(), input)).length === 5, 40_000);
  const rows = await noted(stage(), input);
  expect(rows.filter(({ key }) => key === late).map(({ seq }) => seq)).toEqual([1_001, 1_002, 1_003]);
  expect(rows.every(({ n }) => n === 1)).toBe(true);
  for (const { at, dueAt } of appliedAt.values()) expect(at).toBeGreaterThanOrEqual(dueAt);
  expect(lines.join("")).not.toContain("built anew");
  expect(fatal).toEqual([]);
});

test("a consumer that ends while a record waits leaves it to the next one", async () => {
  const { input, codec, consumer, store, options, fatal } = await openScene(stage(), 1);
  const waiting = { ...consumer, dueAt: ({ timestamp }: { timestamp: number }) => timestamp + 4_000 };
  const first = runConsumer(waiting, { ...options, store });
  await stage().producer.append([event(codec, input, 1_001)]);
  await until(() => first.ready());
  await until(() => first.lag().some(({ records }) => records === 1));
  await first.stop();
  expect(await noted(stage(), input)).toEqual([]);
  untilTestEnds(runConsumer(waiting, { ...options, store }));
  await until(async () => (await noted(stage(), input)).length === 1);
  expect((await noted(stage(), input))[0]?.n).toBe(1);
  expect(fatal).toEqual([]);
});
