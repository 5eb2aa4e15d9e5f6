import fc from "fast-check";
import { expect, test } from "vitest";
import { entriesOf, type HandoverEntry, publicationsOf } from "./handover.ts";

const agentId = fc.string({ unit: fc.constantFrom(..."abcXYZ019-_"), minLength: 43, maxLength: 43 });
const uuid = fc.uuid();
const count = fc.nat({ max: Number.MAX_SAFE_INTEGER });

const entry: fc.Arbitrary<HandoverEntry> = fc.oneof(
  fc.record({
    type: fc.constant("item" as const),
    agentId,
    seq: count,
    kind: fc.constantFrom("message" as const, "retry" as const),
    senderId: agentId,
    itemId: uuid,
    body: fc.uint8Array({ maxLength: 300 }),
  }),
  fc.record({
    type: fc.constant("receipt" as const),
    agentId,
    messageId: uuid,
    recipientId: agentId,
    status: fc.constantFrom("delivered" as const, "acknowledged" as const, "discarded" as const),
    at: count,
    code: fc.constantFrom(null, "expired", "auth-failed"),
  }),
  fc.record({ type: fc.constant("reconnect" as const), agentId }),
  fc.record({ type: fc.constant("superseded" as const), agentId, connectionId: fc.uuid() }),
  fc.record({
    type: fc.constant("notice" as const),
    agentId,
    kind: fc.constantFrom("prekeys-low" as const, "rotation-due" as const, "rotate-now" as const),
  }),
);

/** Buffers and other views of bytes compare as plain arrays. */
function plain(entries: readonly HandoverEntry[] | null) {
  return entries?.map((each) => (each.type === "item" ? { ...each, body: [...each.body] } : each));
}

test("what is published is what is read, in order", () => {
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 20 }), (entries) => {
      const read = publicationsOf(entries).flatMap((bytes) => entriesOf(bytes) ?? []);
      expect(plain(read)).toEqual(plain(entries));
    }),
  );
});

test("nothing to say is no publication, and much to say is several of bounded size", () => {
  expect(publicationsOf([])).toEqual([]);
  const item: HandoverEntry = {
    type: "item",
    agentId: "a".repeat(43),
    seq: 1,
    kind: "message",
    senderId: "b".repeat(43),
    itemId: "01890000-0000-7000-8000-000000000000",
    body: new Uint8Array(60_000),
  };
  const publications = publicationsOf(Array.from({ length: 20 }, () => item));
  expect(publications.length).toBeGreaterThan(1);
  expect(publications.every((bytes) => bytes.length <= 256 * 1024 + 2)).toBe(true);
  expect(publications.flatMap((bytes) => entriesOf(bytes) ?? [])).toHaveLength(20);
});

test("bytes that are no entries are told apart and never throw", () => {
  fc.assert(
    fc.property(fc.array(entry, { minLength: 1, maxLength: 3 }), fc.nat(), (entries, cut) => {
      const [bytes] = publicationsOf(entries);
      if (bytes === undefined) throw new Error("no publication");
      expect(entriesOf(bytes.subarray(0, cut % bytes.length))).toBeNull();
      expect(entriesOf(Buffer.concat([bytes, Buffer.of(0)]))).toBeNull();
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      entriesOf(bytes);
    }),
  );
});
