import { expect, test } from "vitest";
import { agentChanged, messageEncrypted, messageQueued } from "../streams/catalogue.ts";
import { compare, knownSince, type TableRow } from "./compare.ts";
import { haveSameEnds, lagOf } from "./cut.ts";
import type { FoldedRow, FoldedTable } from "./folding.ts";

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const now = Date.UTC(2026, 5, 1);

function saying(rows: Readonly<Record<string, FoldedRow>>, says: FoldedTable["says"] = "rows"): FoldedTable {
  return { table: "t", reads: [], rows: new Map(Object.entries(rows)), says };
}

const row = (key: string, since: number | null, a: number): TableRow => ({ key, since, columns: { a } });

test("a table is known for as long as the shortest of its trimmed topics keeps records, and for ever where none is", () => {
  const reads = [messageQueued, messageEncrypted, agentChanged];
  const since = (...names: readonly string[]) => knownSince({ table: "messaging_queue", reads }, new Set(names), now);
  expect(since()).toBe(0);
  expect(since("message.receipt.v1")).toBe(0);
  expect(since(agentChanged.name)).toBe(now - 30 * dayMs + hourMs);
  expect(since(agentChanged.name, messageQueued.name)).toBe(now - 3 * dayMs + hourMs);
  // Rows of messages are dropped, whatever the log has.
  expect(knownSince({ table: "messaging_messages", reads }, new Set(), now)).toBe(now - 30 * dayMs + hourMs);
});

test("what differs is named, with both sides", () => {
  const folded = saying({
    same: { since: 5, columns: { a: 1 } },
    other: { since: 5, columns: { a: 1 } },
    gone: { since: 5, columns: { a: 1 } },
  });
  const { rows, outside, differences } = compare(folded, [row("same", 5, 1), row("other", 5, 2), row("new", 5, 3)], 0);
  expect([rows, outside]).toEqual([4, 0]);
  expect(differences).toEqual([
    { table: "t", key: "other", what: "different", columns: { a: { log: 1, table: 2 } } },
    { table: "t", key: "new", what: "unexpected", columns: { a: { log: null, table: 3 } } },
    { table: "t", key: "gone", what: "missing", columns: { a: { log: 1, table: null } } },
  ]);
});

test("a column that the fold forgot differs", () => {
  const rows = [{ key: "k", since: 5, columns: { a: 1, b: 2 } }];
  expect(compare(saying({ k: { since: 5, columns: { a: 1 } } }), rows, 0).differences).toMatchObject([
    { what: "different", columns: { b: { log: null, table: 2 } } },
  ]);
});

test("what may have lost a fact is outside, and counted, on either side", () => {
  const folded = saying({
    old: { since: 4, columns: { a: 1 } },
    cut: { since: 6, columns: { a: 1 } },
    total: { since: 6, columns: { a: 1 } },
    oldTotal: { since: 0, columns: { a: 1 } },
    gone: { since: 5, columns: { a: 1 } },
    oldGone: { since: 4, columns: { a: 1 } },
  });
  const rows = [
    row("old", 4, 2),
    // The log holds only its later facts.
    row("cut", 3, 2),
    row("total", null, 2),
    row("oldTotal", null, 2),
    row("unknown", null, 2),
    row("new", 5, 2),
    row("oldNew", 4, 2),
  ];
  const compared = compare(folded, rows, 5);
  expect(compared.differences.map(({ key, what }) => [key, what])).toEqual([
    ["total", "different"],
    ["new", "unexpected"],
    ["gone", "missing"],
  ]);
  expect([compared.rows, compared.outside]).toEqual([3, 6]);
});

test("where the log only says what must not be, rows that it does not name are no news", () => {
  const folded = saying({ used: { since: 5, columns: { a: 1 } }, deleted: { since: 5, columns: { a: 1 } } }, "claims");
  const { differences } = compare(folded, [row("used", null, 2), row("another", null, 2)], 0);
  expect(differences.map(({ key, what }) => [key, what])).toEqual([["used", "different"]]);
});

test("a writer lags as long as it has not read to the end of each of its partitions; others do not count", () => {
  const range = (topic: string, partition: number, low: number, high: number) => ({ topic, partition, low, high });
  const ranges = [range(messageQueued.name, 0, 2, 5), range(messageEncrypted.name, 0, 0, 4)];
  const at = (group: string, topic: string, nextOffset: number) => ({ group, topic, partition: 0, nextOffset });
  const queuing = at("queuing", messageEncrypted.name, 4);
  const sessions = at("sessions", messageEncrypted.name, 3);
  expect(lagOf([queuing, sessions], ranges)).toEqual(
    new Map([
      ["sessions", 1],
      ["metering", 3],
    ]),
  );
  const metering = at("metering", messageQueued.name, 5);
  expect(lagOf([queuing, { ...sessions, nextOffset: 4 }, metering], ranges)).toEqual(new Map());
  // A position that the log does not reach back to is one that reads no further by itself.
  expect(lagOf([queuing, { ...sessions, nextOffset: 4 }, { ...metering, nextOffset: 1 }], ranges).get("metering")).toBe(
    4,
  );
});

test("two looks are of one moment when nothing came in between", () => {
  const range = { topic: "t", partition: 0, low: 0, high: 4 };
  expect(haveSameEnds([range], [{ ...range, low: 1 }])).toBe(true);
  expect(haveSameEnds([range], [{ ...range, high: 5 }])).toBe(false);
  expect(haveSameEnds([range], [])).toBe(false);
});
