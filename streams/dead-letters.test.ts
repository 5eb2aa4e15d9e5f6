import fc from "fast-check";
import { expect, test } from "vitest";
import { messageEncrypted, messageReceipt } from "./catalogue.ts";
import { type LetterPlace, letterOf, pageOf } from "./dead-letters.ts";
import { deadLetterRows } from "./emission.ts";
import type { ReadRecord } from "./read-topic.ts";

const base = { timestamp: "1700000000000", attributes: 0, size: 0 };

/** The record that the step runner writes for a refused one, as it is read. */
function letterFor(message: { key: Buffer | null; value: Buffer | null; headers: Record<string, Buffer> }): ReadRecord {
  const refused = { topic: messageEncrypted, partition: 5, offset: 77, message: { ...base, offset: "77", ...message } };
  const [row] = deadLetterRows(undefined as never, "queuing", refused as never, "undecodable");
  if (row === undefined) throw new Error("there is no letter");
  const headers = Object.fromEntries(Object.entries(row.headers).map(([name, text]) => [name, Buffer.from(text)]));
  return {
    ...{ ...base, timestamp: "1700000000500", offset: "3", partition: 1, headers },
    key: Buffer.from(row.key),
    value: Buffer.from(row.value),
  } as ReadRecord;
}

test("a dead letter is the record that it was, to the last byte and header", () => {
  const headers = { ce_id: Buffer.from("an-id"), ce_subject: Buffer.from("a/b"), traceparent: Buffer.from("00-1") };
  const [key, value] = [Buffer.from("bob"), Buffer.from([0, 1, 255])];
  const letter = letterOf(messageEncrypted, letterFor({ key, value, headers }));
  expect(letter).toEqual({
    ...{ partition: 1, offset: 3, at: 1_700_000_000_500, code: "undecodable", group: "queuing" },
    origin: { partition: 5, offset: 77, at: 1_700_000_000_000 },
    ...{ id: "an-id", subject: "a/b", valueBytes: 3 },
    record: {
      ...{ topic: messageEncrypted.name, key, value },
      headers: { ce_id: "an-id", ce_subject: "a/b", traceparent: "00-1" },
    },
  });
});

test("a record that says nothing of its origin, or names another topic, goes nowhere", () => {
  const letter = letterFor({ key: Buffer.from("bob"), value: Buffer.from("x"), headers: {} });
  expect(letterOf(messageReceipt, letter).record).toBeNull();
  const bare = letterOf(messageEncrypted, {
    ...letter,
    headers: { "x-orig-offset": Buffer.from("-1e9") },
  } as unknown as ReadRecord);
  expect(bare).toMatchObject({ code: null, group: null, id: null, record: null, origin: { offset: null, at: null } });
});

const partition = fc.record({ start: fc.nat({ max: 9 }), length: fc.nat({ max: 9 }) });

test("pages of any size go through a log once, in order, from any place on", () => {
  fc.assert(
    fc.property(fc.array(partition, { maxLength: 5 }), fc.integer({ min: 1, max: 7 }), (shape, limit) => {
      const log = shape.map(({ start, length }, n) => ({ partition: n, start, end: start + length }));
      const all = log.flatMap(({ partition: p, start, end }) => offsets(start, end).map((offset) => `${p}.${offset}`));
      const seen: string[] = [];
      let from: LetterPlace | null = null;
      do {
        const { spans, next }: ReturnType<typeof pageOf> = pageOf(log.toReversed(), from, limit);
        const page = [...spans].flatMap(([p, { start, end }]) => offsets(start, end).map((offset) => `${p}.${offset}`));
        expect(page.length).toBeLessThanOrEqual(limit);
        if (next !== null) expect(page).toHaveLength(limit);
        seen.push(...page);
        from = next;
      } while (from !== null);
      expect(seen).toEqual(all);
    }),
  );
});

function offsets(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, n) => start + n);
}

test("a place whose record is gone, or that is behind the end, leads to what comes next", () => {
  const log = [
    { partition: 0, start: 5, end: 8 },
    { partition: 2, start: 0, end: 2 },
  ];
  expect([...pageOf(log, { partition: 0, offset: 1 }, 1).spans]).toEqual([[0, { start: 5, end: 6 }]]);
  expect([...pageOf(log, { partition: 0, offset: 8 }, 1).spans]).toEqual([[2, { start: 0, end: 1 }]]);
  expect(pageOf(log, { partition: 3, offset: 0 }, 1)).toEqual({ spans: new Map(), next: null });
});
