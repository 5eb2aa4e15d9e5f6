import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { type Table, tableFromIPC } from "apache-arrow";
import { readParquet } from "parquet-wasm/node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { auditRecordAt } from "../../tests/audit-records.ts";
import { FORMATS, type Format } from "../request.ts";
import { recordOf, rowOf } from "../rows.ts";
import { rowFormats } from "./format.ts";
import { parquetOf } from "./parquet.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "sealpost-formats-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const odd = {
  ...auditRecordAt(6),
  actor: 'owner:https://issuer.example#a "quoted", one\r\nover two lines – ünd 🎉',
  action: "=1+1",
  outcome: "",
  reason: "one\u2028line\u2029of JSON",
  delegation: [
    { issuerId: "a", tokenId: "," },
    { issuerId: "b", tokenId: '"' },
  ],
};
const records = [...Array.from({ length: 6 }, (_, n) => auditRecordAt(n)), odd, ...many(7, 1_500)];

function many(start: number, end: number) {
  return Array.from({ length: end - start }, (_, n) => auditRecordAt(start + n));
}

async function write(format: Format, name: string, all = records): Promise<string> {
  const file = path.join(folder, `${name}.${format}`);
  const writer = await rowFormats[format].create(file);
  // In pieces: how rows come is nobody's business.
  for (let start = 0; start < all.length; start += 400) await writer.write(all.slice(start, start + 400).map(rowOf));
  await writer.close();
  return file;
}

async function read(format: Format, file: string) {
  const rows: unknown[] = [];
  for await (const value of rowFormats[format].read(file)) rows.push(recordOf(value));
  return rows;
}

describe.each(FORMATS)("%s", (format) => {
  test("every record comes back as it was, whatever characters it has", async () => {
    expect(await read(format, await write(format, "back"))).toEqual(records);
  });

  test("the same records are the same bytes", async () => {
    const digest = async (file: string) =>
      createHash("sha256")
        .update(await readFile(file))
        .digest("hex");
    expect(await digest(await write(format, "one"))).toBe(await digest(await write(format, "two")));
    expect(await digest(await write(format, "three", records.slice(1)))).not.toBe(
      await digest(await write(format, "four")),
    );
  });

  test("a file without a record can be read", async () => {
    expect(await read(format, await write(format, "empty", []))).toEqual([]);
  });
});

test("CSV is as RFC 4180 has it", async () => {
  const text = await readFile(await write("csv", "rfc", [odd]), "utf8");
  expect(text).toContain('"owner:https://issuer.example#a ""quoted"", one\r\nover two lines – ünd 🎉"');
  expect(text.split("\r\n")[0]).toBe(
    "log_index,event_id,agent_id,actor,delegation,action,sender_id,recipient_id,message_id,size,occurred_at,outcome,subject,reason,source_topic,source_partition,source_offset,source_event_id",
  );
  expect(text.endsWith("\r\n")).toBe(true);
});

test("Parquet is read by the reader of another implementation, with the same rows and types", async () => {
  const all = many(0, 1_050);
  const file = path.join(folder, "independent.parquet");
  const writer = await parquetOf(400).create(file);
  await writer.write(all.map(rowOf));
  await writer.close();
  const bytes = await readFile(file);
  const table: Table = tableFromIPC(readParquet(bytes).intoIPCStream());
  expect(table.numRows).toBe(all.length);
  const column = (name: string) => Array.from(table.getChild(name) ?? [], String).join("\n");
  const own = (values: readonly unknown[]) => values.map(String).join("\n");
  expect(table.schema.fields.map(({ name, type }) => `${name} ${type}`)).toEqual([
    "log_index Int64",
    "event_id Utf8",
    "agent_id Utf8",
    "actor Utf8",
    "delegation Utf8",
    "action Utf8",
    "sender_id Utf8",
    "recipient_id Utf8",
    "message_id Utf8",
    "size Int64",
    "occurred_at Timestamp<MILLISECOND, UTC>",
    "outcome Utf8",
    "subject Utf8",
    "reason Utf8",
    "source_topic Utf8",
    "source_partition Int64",
    "source_offset Int64",
    "source_event_id Utf8",
  ]);
  expect(column("log_index")).toBe(own(all.map(({ logIndex }) => logIndex)));
  expect(column("message_id")).toBe(own(all.map(({ messageId }) => messageId)));
  expect(column("size")).toBe(own(all.map(({ size }) => size)));
  expect(column("occurred_at")).toBe(own(all.map(({ occurredAt }) => occurredAt)));
  expect(column("actor")).toBe(own(all.map(({ actor }) => actor)));
});
