import { expect, test } from "vitest";
import { WrongWords } from "./terminal.ts";
import { hourText, timeOf, usageTable } from "./usage-text.ts";

test.each([
  ["2026-08-19", "2026-08-19T00:00:00.000Z"],
  ["2026-08-19T09", "2026-08-19T09:00:00.000Z"],
  ["2026-08-19T09:00Z", "2026-08-19T09:00:00.000Z"],
  ["2026-08-19T09:00:00.000Z", "2026-08-19T09:00:00.000Z"],
])("the time %s is %s", (text, time) => {
  expect(hourText("from", text)).toBe(time);
});

test.each(["", "yesterday", "2026-02-31", "2026-08-19T24", "2026-08-19T09:30Z", "1755582462500"])(
  "%s is no beginning of an hour, and what is one is said",
  (text) => {
    expect(() => timeOf("from", text)).toThrow(WrongWords);
    expect(() => timeOf("from", text)).toThrow("--from takes an hour in UTC, like 2026-08-19T09");
  },
);

test("usage is a table with messages and bytes, and says when there is none", () => {
  const row = (start: string, count: number) => ({
    ...{ start, messages_sent: count, bytes_sent: count * 10, messages_received: 2, bytes_received: 20 },
    ...{ messages_acknowledged: 1, bytes_acknowledged: 11, messages_discarded: 0, bytes_discarded: 0 },
    ...{ messages_stored: 1, bytes_stored: 9 },
  });
  expect(usageTable("hour", "start", [row("nine", 1_000), row("ten", 2)])).toBe(
    [
      "hour  sent            received  acknowledged  discarded  stored",
      "nine  1000 (10000 B)  2 (20 B)  1 (11 B)      0 (0 B)    1 (9 B)",
      "ten   2 (20 B)        2 (20 B)  1 (11 B)      0 (0 B)    1 (9 B)",
      "",
    ].join("\n"),
  );
  expect(usageTable("hour", "start", [])).toBe("nothing was counted in this time\n");
});
