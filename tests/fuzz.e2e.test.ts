/**
 * Ten seconds of malformed frames, polls and records, over the whole service. The same as `npm run fuzz -- --seconds 10 --seed S --part frames --part records`; the seed is
 * printed. HTTP is left to the full run, which needs Python.
 */
import { randomInt } from "node:crypto";
import { expect, test } from "vitest";
import { run } from "./fuzz/run.ts";

test("malformed frames and records: nothing answers 5xx, ends, grows or stops a partition, and agents still talk", async () => {
  const seed = randomInt(1, 2 ** 31);
  const lines: string[] = [];
  const report = await run({ seed, seconds: 10, parts: ["frames", "records"], say: (line) => void lines.push(line) });
  console.log(`fuzz: seed ${seed}, ${report.inputs} inputs, ${JSON.stringify({ ...report, parts: undefined })}`);
  expect(report.findings, `seed ${seed}\n${lines.join("\n")}`).toEqual([]);
  expect(report.inputs).toBeGreaterThan(25_000);
  // At the start, and after each of two parts in three rounds.
  expect(report.controlMs).toHaveLength(7);
}, 600_000);
