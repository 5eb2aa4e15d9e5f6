import fc from "fast-check";
import { expect, test } from "vitest";
import { nodePrimitives as hashing } from "../primitives/node.ts";
import { type LeafRecord, leafBytes } from "./leaf.ts";
import { hashLeaf } from "./merkle.ts";

const record: LeafRecord = {
  eventId: "0190f3a1-7c4e-5d2b-9a6f-0123456789ab",
  logIndex: 12,
  agentId: "zmFvBAnnHSc3T6lqIaLDmsMpKGl7bjVJGpD0XiVRKuQ",
  actor: "owner:https://id.example#günther",
  delegation: [{ issuerId: "zmFvBAnnHSc3T6lqIaLDmsMpKGl7bjVJGpD0XiVRKuQ", tokenId: "t-1" }],
  action: "message.accepted",
  senderId: "zmFvBAnnHSc3T6lqIaLDmsMpKGl7bjVJGpD0XiVRKuQ",
  recipientId: null,
  messageId: "01937b7f-1a2b-7c3d-8e4f-5a6b7c8d9e0f",
  size: 512,
  occurredAt: 1_700_000_000_001,
  outcome: "ok",
  subject: "t-2",
  reason: null,
  sourceTopic: "message.queued.v1",
  sourcePartition: 3,
  sourceOffset: 9_007_199_254_740_000,
  sourceEventId: "0190f3a1-7c4e-5d2b-9a6f-ba9876543210",
};

test("a leaf is what it was when the format was fixed", () => {
  expect(Buffer.from(leafBytes(record)).toString("hex")).toMatchInlineSnapshot(
    `"7365616c706f73742f76312f61756469742d7265636f7264000190f3a17c4e5d2b9a6f0123456789ab000000000000000c0000002b7a6d467642416e6e4853633354366c7149614c446d734d704b476c37626a564a47704430586956524b7551000000216f776e65723a68747470733a2f2f69642e6578616d706c652367c3bc6e74686572000000010000002b7a6d467642416e6e4853633354366c7149614c446d734d704b476c37626a564a47704430586956524b755100000003742d31000000106d6573736167652e6163636570746564010000002b7a6d467642416e6e4853633354366c7149614c446d734d704b476c37626a564a47704430586956524b7551000101937b7f1a2b7c3d8e4f5a6b7c8d9e0f0100000000000002000000018bcfe56801000000026f6b0100000003742d3200000000116d6573736167652e7175657565642e763100000003001ffffffffffc200190f3a17c4e5d2b9a6fba9876543210"`,
  );
  expect(Buffer.from(hashLeaf(hashing, leafBytes(record))).toString("hex")).toMatchInlineSnapshot(
    `"e37ca698f9f8f0d346d82ebe3cbeebb789c0c3039711156a7f07c324b0651b90"`,
  );
});

test("fields that a later schema adds do not change a leaf", () => {
  expect(leafBytes({ ...record, region: "eu" } as LeafRecord)).toEqual(leafBytes(record));
});

const text = fc.string({ unit: "grapheme", maxLength: 6 });
const uuid = fc.uuid();
const whole = fc.maxSafeNat();
const anyRecord: fc.Arbitrary<LeafRecord> = fc.record({
  eventId: uuid,
  logIndex: whole,
  agentId: text,
  actor: text,
  delegation: fc.array(fc.record({ issuerId: text, tokenId: text }), { maxLength: 3 }),
  action: text,
  senderId: fc.option(text),
  recipientId: fc.option(text),
  messageId: fc.option(uuid),
  size: fc.option(whole),
  occurredAt: whole,
  outcome: text,
  subject: fc.option(text),
  reason: fc.option(text),
  sourceTopic: text,
  sourcePartition: fc.nat(),
  sourceOffset: whole,
  sourceEventId: uuid,
});

test("two records have the same leaf only when every field is the same", () => {
  fc.assert(
    fc.property(anyRecord, anyRecord, fc.constantFrom(...Object.keys(record)), (a, b, field) => {
      // One field of the other record in the place of its own: the closest that two records can be.
      const changed = { ...a, [field]: b[field as keyof LeafRecord] } as LeafRecord;
      const same = JSON.stringify(changed) === JSON.stringify(a);
      expect(Buffer.compare(leafBytes(changed), leafBytes(a)) === 0).toBe(same);
      expect(leafBytes({ ...a })).toEqual(leafBytes(a));
    }),
  );
});

test("what moves from one field to its neighbour makes another leaf", () => {
  const [a, b] = [
    { ...record, agentId: "ab", actor: "c" },
    { ...record, agentId: "a", actor: "bc" },
  ];
  expect(leafBytes(a)).not.toEqual(leafBytes(b));
  const [c, d] = [
    { ...record, senderId: "x", recipientId: null },
    { ...record, senderId: null, recipientId: "x" },
  ];
  expect(leafBytes(c)).not.toEqual(leafBytes(d));
});

test.each([
  ["event_id", { eventId: "0190F3A1-7C4E-5D2B-9A6F-0123456789AB" }],
  ["log_index", { logIndex: -1 }],
  ["size", { size: 0.5 }],
  ["source_partition", { sourcePartition: 2 ** 32 }],
  ["actor", { actor: "\ud800" }],
] as const)("a %s that has no bytes is refused by name", (field, change) => {
  expect(() => leafBytes({ ...record, ...change })).toThrow(expect.objectContaining({ code: "malformed", field }));
});
