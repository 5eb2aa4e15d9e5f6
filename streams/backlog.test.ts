import fc from "fast-check";
import { expect, test } from "vitest";
import { batchBytesMax, batchRecordsMax, createBacklog } from "./backlog.ts";

const topic = "t";
const item = (partition: number, id: number, bytes = 100) => ({ topic, partition, id, bytes });
type Item = ReturnType<typeof item>;

test("whatever is taken, put back and added in between, each partition's records leave in the order they came, within the limits", () => {
  const added = fc.record({ partition: fc.nat(3), bytes: fc.oneof(fc.nat(2_000), fc.constant(700_000)) });
  const command = fc.oneof(fc.record({ add: fc.array(added, { maxLength: 40 }) }), fc.record({ failed: fc.boolean() }));
  fc.assert(
    fc.property(fc.array(command), (commands) => {
      const backlog = createBacklog<Item>();
      const left: Item[] = [];
      let ids = 0;
      for (const step of [...commands, ...Array.from({ length: 2_000 }, () => ({ failed: false }))]) {
        if ("add" in step) for (const { partition, bytes } of step.add) backlog.add(item(partition, ids++, bytes));
        else {
          const batch = backlog.take();
          for (const [, records] of Map.groupBy(batch, ({ partition }) => partition)) {
            const bytes = records.reduce((sum, record) => sum + record.bytes, 0);
            if (records.length > batchRecordsMax || bytes > batchBytesMax) return false;
          }
          if (step.failed) backlog.putBack(batch);
          else left.push(...batch);
        }
        if (backlog.records === 0 && "failed" in step) continue;
      }
      const inOrder = [...Map.groupBy(left, ({ partition }) => partition).values()].every((records) =>
        records.every(({ id }, index) => index === 0 || id > (records[index - 1] as Item).id),
      );
      return left.length === ids && backlog.records === 0 && backlog.bytes === 0 && inOrder;
    }),
    { numRuns: 50 },
  );
});

test("a record larger than a batch goes alone in its partition", () => {
  const backlog = createBacklog<Item>();
  for (const one of [item(0, 1), item(1, 2, batchBytesMax + 1), item(1, 3)]) backlog.add(one);
  const batches = [backlog.take(), backlog.take(), backlog.take()];
  expect(batches.map((batch) => batch.map(({ id }) => id))).toEqual([[1], [2], [3]]);
});

test("no partition waits for ever behind a busy one", () => {
  const backlog = createBacklog<Item>();
  for (let i = 0; i < 3 * batchRecordsMax; i++) backlog.add(item(0, i));
  backlog.add(item(1, -1));
  expect(backlog.take().at(-1)?.id).toBe(-1);
});

test("what nobody waits for is removed and no longer counts", () => {
  const backlog = createBacklog<Item>();
  for (let i = 0; i < 10; i++) backlog.add(item(i % 2, i));
  backlog.discard(({ id, partition }) => partition === 0 || id === 3);
  expect({ records: backlog.records, bytes: backlog.bytes }).toEqual({ records: 4, bytes: 400 });
  expect(backlog.take().map(({ id }) => id)).toEqual([1, 5, 7, 9]);
});
