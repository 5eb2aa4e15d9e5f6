import { appendFile, mkdtemp, readdir, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { BUCKET_PLACES, openSpool, type SpooledRecord } from "./spool.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(path.join(os.tmpdir(), "sealpost-spool-"));
});
afterAll(() => rm(root, { recursive: true, force: true }));

const record = (logIndex: number, value = `value ${logIndex}`, offset = logIndex): SpooledRecord => {
  return { logIndex, partition: 3, offset, value: Buffer.from(value) };
};

test("records come back by bucket in the log's order, each once, as the first that was written of it", async () => {
  const spool = await openSpool(path.join(root, "order"));
  await spool.add([record(BUCKET_PLACES + 1), record(7), record(2, "value 2", 90)]);
  await spool.add([record(7), record(5), record(2)]);
  const { records, repeats, conflicts } = await spool.read(0);
  expect(records).toEqual([record(2), record(5), record(7)]);
  expect([repeats, conflicts]).toEqual([2, []]);
  expect((await spool.read(1)).records).toEqual([record(BUCKET_PLACES + 1)]);
  expect(await spool.read(9)).toEqual({ records: [], repeats: 0, conflicts: [] });
});

test("another record at the same place is a conflict", async () => {
  const spool = await openSpool(path.join(root, "conflict"));
  await spool.add([record(1), record(1, "another")]);
  expect(await spool.read(0)).toEqual({ records: [record(1)], repeats: 0, conflicts: [record(1, "another")] });
});

test("opened with the sizes of a moment, it is as it was then", async () => {
  const folder = path.join(root, "again");
  const spool = await openSpool(folder);
  await spool.add([record(1), record(2)]);
  const sizes = new Map(spool.sizes);
  await spool.add([record(3), record(BUCKET_PLACES)]);
  await appendFile(path.join(folder, "0"), "half a rec");
  const again = await openSpool(folder, sizes);
  expect((await again.read(0)).records).toEqual([record(1), record(2)]);
  expect(await readdir(folder)).toEqual(["0"]);
  await appendFile(path.join(folder, "0"), "half a rec");
  await expect(again.read(0)).rejects.toThrow("in the middle of a record");
});

test("records larger than what is read at once come back whole", async () => {
  const spool = await openSpool(path.join(root, "large"));
  const large = Array.from({ length: 5 }, (_, n) => record(n, `${n}`.repeat(700_000)));
  await spool.add(large);
  expect((await spool.read(0)).records.map(({ value }) => value.toString())).toEqual(
    large.map(({ value }) => value.toString()),
  );
});
