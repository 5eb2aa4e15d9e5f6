import { expect, test } from "vitest";
import { spansOf } from "./time-spans.ts";

const log = [
  { partition: 1, low: 0, high: 50 },
  { partition: 0, low: 10, high: 100 },
  { partition: 2, low: 0, high: 0 },
];
const at = (...offsets: [number, number][]) => new Map(offsets);

test("what is read of a partition begins with the first offset of the time and ends before the first behind it", () => {
  const { spans, trimmed } = spansOf(log, at([0, 20], [1, 5]), at([0, 60], [1, 6]));
  expect([...spans]).toEqual([
    [0, { start: 20, end: 60 }],
    [1, { start: 5, end: 6 }],
  ]);
  expect(trimmed).toEqual([]);
});

test("a partition that has nothing so late is not read, and one that has nothing behind the time to its end", () => {
  expect([...spansOf(log, at([1, 5]), at()).spans]).toEqual([[1, { start: 5, end: 50 }]]);
});

test("a partition whose first record is in the time, and which had earlier ones, is told", () => {
  expect(spansOf(log, at([0, 10], [1, 0]), at()).trimmed).toEqual([0]);
});
