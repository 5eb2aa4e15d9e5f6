import { expect, test } from "vitest";
import { cells, type Result } from "./each.ts";

const run = { fault: "kill", seed: 7, seconds: 600, tookS: 700, keptIn: "" };
const figures = {
  operations: { send: { ok: 29_000, fail: 2 }, receive: { ok: 29_001 }, acknowledge: { ok: 28_999 } },
  faults: 55,
  findings: { lost: 1, duplicated: 0, reordered: 0, stuck: 2, unseen: 0 },
  records: 300_000,
  repeats: 12,
  worstRecoveryMs: 4_321,
  quietAfterMs: null,
  mutants: 17,
  mutantsCaught: 16,
};

test("a row says what was done, what was found, and what was never reached", () => {
  const result: Result = { ...run, holds: false, figures, error: null };
  expect(cells(result)).toEqual([
    "kill",
    "29,000, 29,001, 28,999",
    "55",
    ...["1", "0", "0"],
    "stuck 2",
    "12 of 300,000",
    "4.3 s",
    "never",
    "16 of 17",
  ]);
});

test("a run that came to no verdict has a row that says so, and no figures", () => {
  const row = cells({ ...run, holds: false, figures: null, error: "it ended with 134" });
  expect(row.slice(0, 3)).toEqual(["kill", "it ended with 134", ""]);
  expect(row).toHaveLength(11);
});
