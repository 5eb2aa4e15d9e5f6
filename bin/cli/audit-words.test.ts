import { expect, test } from "vitest";
import { readReplayWords, readTrusted } from "./audit-words.ts";
import { rateOf } from "./replay-progress.ts";
import { WrongWords } from "./terminal.ts";

const now = Date.UTC(2026, 10, 26, 12);
const range = ["--from", "2026-11-01", "--to", "2026-11-02"];
const id = (letter: string) => letter.repeat(43);

test("the words of a replay are read, whatever their order, to one request", () => {
  const one = readReplayWords(
    [...range, "--out", "d", "--agent", id("b"), "--agent", id("-"), "--action", "message.*", "--late", "2d"],
    now,
  );
  expect(one.request).toEqual({
    ...{ from: Date.UTC(2026, 10, 1), to: Date.UTC(2026, 10, 2), late_ms: 172_800_000 },
    ...{ agents: [id("-"), id("b")], actions: ["message.*"], format: "jsonl", records_per_file: 250_000 },
  });
  const other = [
    "--action",
    "message.*",
    "--agent",
    id("-"),
    "--agent",
    id("b"),
    "--late",
    "48h",
    "--out",
    "d",
    ...range,
  ];
  expect(readReplayWords(other, now)).toEqual(one);
});

test("a time has its zone", () => {
  const words = ["--from", "2026-11-01T08:30+02:00", "--to", "2026-11-01T06:30:00.001Z", "--dry-run"];
  const { from, to } = readReplayWords(words, now).request;
  expect(to - from).toBe(1);
});

test.each([
  [["--to", "2026-11-02", "--out", "d"], "--from and --to"],
  [["--from", "2026-11-02", "--to", "2026-11-02", "--out", "d"], "--to must be later than --from"],
  [["--from", "2026-11-02", "--to", "2026-11-27", "--out", "d"], "--to is in the future"],
  [["--from", "2026-02-31", "--to", "2026-11-02", "--out", "d"], "--from takes a day"],
  [["--from", "2026-02-31T08:30:00Z", "--to", "2026-11-02", "--out", "d"], "--from takes a day"],
  [["--from", "2026-11-01T08:30", "--to", "2026-11-02", "--out", "d"], "a time with its zone"],
  [range, "--out, or --dry-run"],
  [[...range, "--out", "d", "--late", "soon"], "--late takes a time"],
  [[...range, "--out", "d", "--agent", "bob"], "--agent takes an agent id"],
  [[...range, "--out", "d", "--action", "ALL"], "--action takes an action"],
  [[...range, "--out", "d", "--format", "xml"], "--format takes jsonl, csv, parquet"],
  [[...range, "--out", "d", "--records-per-file", "0"], "--records-per-file takes a count"],
  [[...range, "--out", "d", "more"], "no words of its own"],
  [[...range, "--out", "d", "--nonsense"], "--nonsense"],
])("wrong words name what is right: %j", (args, message) => {
  const read = () => readReplayWords(args, now);
  expect(read).toThrow(WrongWords);
  expect(read).toThrow(message);
});

test("the rate is by the time that has passed, and the time left by the rate", () => {
  expect(rateOf(500, 2_000, 1_000)).toEqual({ rate: 500, leftS: 3 });
  expect(rateOf(0, 2_000, 0)).toEqual({ rate: 0, leftS: 0 });
});

const root = Buffer.alloc(32, 200);

test("a head is trusted with its root in base64 or hex, or none, and a manifest by its hash", () => {
  for (const text of [root.toString("base64"), root.toString("hex")]) {
    expect(readTrusted({ size: "900", root: text }).head).toEqual({ size: 900, root: new Uint8Array(root) });
  }
  const manifest = root.toString("hex");
  expect(readTrusted({ manifest })).toEqual({ head: null, manifestSha256: manifest });
  expect(readTrusted({})).toEqual({ head: null, manifestSha256: null });
});

test.each([
  [{ size: "900" }, "--size and --root belong together"],
  [{ root: root.toString("hex") }, "--size and --root belong together"],
  [{ size: "0", root: root.toString("hex") }, "--size takes a count"],
  [{ size: "900", root: "AAAA" }, "--root takes the root of a checkpoint"],
  [{ manifest: "sha256:abc" }, "--manifest takes a SHA-256"],
])("of %j is said what is wrong", (words, says) => {
  expect(() => readTrusted(words)).toThrow(says);
});
