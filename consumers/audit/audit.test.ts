import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { leafBytes } from "../../protocol/audit/leaf.ts";
import { hashLeaf, rootOf } from "../../protocol/audit/merkle.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import type { AuditRecord, MessageDiscarded } from "../../schemas/values.ts";
import {
  auditRecord,
  catalogue,
  messageDiscarded,
  messageQueued,
  sessionInitialized,
  usage,
} from "../../streams/catalogue.ts";
import type { Inbound } from "../../streams/consumer.ts";
import { stepEventId } from "../../streams/headers.ts";
import { samples } from "../../streams/samples.ts";
import { auditFact, auditFactId, factSamples } from "../../tests/audit-facts.ts";
import { audit } from "./audit.ts";
import { checkFact, toEvent, toRecords } from "./records.ts";

const audited = new Set(audit.reads.map(({ name }) => name));
const none: ReadonlySet<string> = new Set();
const recordsOf = (facts: readonly Inbound<unknown>[], seen = none, from = 0) =>
  toRecords(facts, seen, from).map(({ record }) => record);

describe("what is audited", () => {
  // Commands and hops are trimmed when everybody has passed them; facts are kept. What is queued is the record of what was accepted.
  // What is computed from facts is none itself.
  const computed = [auditRecord.name, usage.name];
  const facts = catalogue.filter(
    ({ name, retention }) => name === messageQueued.name || ("keptMs" in retention && !computed.includes(name)),
  );

  test("is every topic of facts in the catalogue, and nothing else", () => {
    expect(facts.length).toBeGreaterThan(10);
    expect([...audited].sort()).toEqual(facts.map(({ name }) => name).sort());
    expect(factSamples).toHaveLength(audited.size);
  });
});

test("each kind of fact has its record", () => {
  const facts = Array.from({ length: audited.size }, (_, n) => auditFact(n));
  const words = recordsOf(facts).map(({ action, actor, outcome, size, delegation }) => {
    const who = actor.length === 43 ? "agent" : actor;
    return `${action} by ${who}: ${outcome}, ${size} bytes, ${delegation.length} links`;
  });
  expect(words).toMatchInlineSnapshot(`
    [
      "retry-request.accepted by agent: ok, null bytes, 1 links",
      "message.delivered by agent: ok, 512 bytes, 0 links",
      "message.acknowledged by agent: ok, 512 bytes, 0 links",
      "message.discarded by service: id-reused, null bytes, 0 links",
      "message.undeliverable by service: not-woken, null bytes, 0 links",
      "message.set-aside by service: connections-broke, null bytes, 0 links",
      "message.retried by operator: ok, null bytes, 0 links",
      "agent.device-gone by owner:https://example.org#7: ok, null bytes, 0 links",
      "prekey.published by agent: ok, null bytes, 0 links",
      "prekey.claimed by agent: ok, null bytes, 0 links",
      "prekey.low by service: low, null bytes, 0 links",
      "prekey.rotated by agent: ok, null bytes, 0 links",
      "prekey.rotation-failed by service: keys-unavailable, null bytes, 0 links",
      "session.initialized by agent: ok, null bytes, 0 links",
    ]
  `);
});

test("no byte of a body, a session or a digest is in a record, and of reasons only why an agent was changed", () => {
  const facts = Array.from({ length: audited.size }, (_, n) => auditFact(n));
  const allowed = new Set(Object.keys(samples.find(({ topic }) => topic === auditRecord)?.value as object));
  for (const record of recordsOf(facts)) {
    expect(new Set(Object.keys(record))).toEqual(allowed);
    expect(Object.values(record).some((value) => value instanceof Uint8Array)).toBe(false);
    const { reason, ...rest } = record;
    expect(reason).toBe(record.action.startsWith("agent.") ? "lost" : null);
    expect(JSON.stringify(rest)).not.toContain("lost");
  }
});

test("a retry request is no message: its size is not told", () => {
  const queued = samples.find(({ topic }) => topic === messageQueued)?.value as object;
  const [message, retry] = ["message", "retry"].map((kind) => {
    const fact = { ...auditFact(0), topic: messageQueued, value: { ...queued, kind } };
    return recordsOf([fact])[0];
  });
  expect(message).toMatchObject({ action: "message.accepted", size: 4 });
  expect(retry).toMatchObject({ action: "retry-request.accepted", size: null });
});

test.each([
  ["refused", "agent"],
  ["deleted", "operator"],
  ["expired", "service"],
  ["id-reused", "service"],
])("who discards a message: %s, %s", (code, actor) => {
  const sample = samples.find(({ topic }) => topic.name === messageDiscarded.name)?.value as MessageDiscarded;
  const { recipientId } = sample;
  const fact = { ...auditFact(0), topic: messageDiscarded, value: { ...sample, code } };
  const expected = actor === "agent" ? recipientId : actor;
  expect(recordsOf([fact])[0]).toMatchObject({ action: "message.discarded", actor: expected, outcome: code });
});

test("a fact has one record, whether it comes again in a step or was there before", () => {
  const facts = Array.from({ length: 30 }, (_, n) => auditFact(n));
  const again = facts.map((fact) => ({ ...fact, offset: fact.offset + 100, timestamp: fact.timestamp + 100 }));
  const seen = new Set([auditFactId(3), auditFactId(4)]);
  const records = recordsOf([...facts, ...again], seen, 7);
  expect(records.map(({ logIndex }) => logIndex)).toEqual(Array.from({ length: 28 }, (_, n) => 7 + n));
  expect(new Set(records.map(({ sourceEventId }) => sourceEventId)).size).toBe(28);
  expect(records.every(({ sourceOffset }) => sourceOffset < 100)).toBe(true);
});

test("the same facts take the same places, however they were fetched", () => {
  const facts = Array.from({ length: 40 }, (_, n) => auditFact(n, { timestamp: 1_000 + Math.floor(n / 8) }));
  const expected = recordsOf(facts);
  fc.assert(
    fc.property(fc.shuffledSubarray(facts, { minLength: facts.length }), (shuffled) => {
      expect(recordsOf(shuffled)).toEqual(expected);
    }),
  );
});

test("what is told is what was hashed, under the id that the runner gives it", () => {
  const fact = auditFact(5);
  const [recorded] = toRecords([fact], none, 9);
  if (recorded === undefined) throw new Error("a fact without a record");
  const { topic, partition, offset } = fact;
  const told = toEvent(recorded).value(stepEventId("audit", { topic: topic.name, partition, offset }, 0));
  expect(leafBytes(told)).toEqual(leafBytes(recorded.record));
});

test.each([
  ["ce_id", { headers: {} }],
  ["ce_id", { headers: { ce_id: auditFactId(1).replace("0", "A") } }],
  ["occurred_at", { value: { ...(samples.at(-2)?.value as object), initializedAt: 9e15 } }],
  ["occurred_at", { value: { ...(samples.at(-2)?.value as object), initializedAt: -1 } }],
])("a fact whose %s can have no record is refused by name", (field, change) => {
  const fact: Inbound<unknown> = {
    ...auditFact(1),
    topic: sessionInitialized,
    value: samples.at(-2)?.value,
    ...change,
  };
  expect(() => checkFact(fact)).toThrow(expect.objectContaining({ code: "malformed", field }));
});

describe("a log of which the root is known", () => {
  const records = recordsOf(Array.from({ length: 40 }, (_, n) => auditFact(n)));
  const rootOver = (list: readonly AuditRecord[]) =>
    rootOf(
      nodePrimitives,
      list.map((record) => hashLeaf(nodePrimitives, leafBytes(record))),
    );
  const known = rootOver(records);
  const place = fc.nat(records.length - 1);

  test("shows that a record was removed, wherever it was", () => {
    for (let n = 0; n < records.length; n++) expect(rootOver(records.toSpliced(n, 1))).not.toEqual(known);
  });

  test("shows that a record was forged, wherever it was put, and that one was given twice", () => {
    const forged = { ...(records[0] as AuditRecord), sourceEventId: auditFactId(999) };
    for (let n = 0; n <= records.length; n++) expect(rootOver(records.toSpliced(n, 0, forged))).not.toEqual(known);
    for (let n = 0; n < records.length; n++)
      expect(rootOver(records.toSpliced(n, 0, records[n] as AuditRecord))).not.toEqual(known);
  });

  test("shows that any field of a record was changed", () => {
    const changes: Record<keyof AuditRecord, unknown> = {
      eventId: auditFactId(998),
      logIndex: 999,
      agentId: "x",
      actor: "x",
      delegation: [{ issuerId: "x", tokenId: "y" }],
      action: "x",
      senderId: "x",
      recipientId: "x",
      messageId: auditFactId(997),
      size: 999,
      occurredAt: 1,
      outcome: "x",
      subject: "x",
      reason: "x",
      sourceTopic: "x",
      sourcePartition: 99,
      sourceOffset: 999,
      sourceEventId: auditFactId(996),
    };
    for (const [field, value] of Object.entries(changes)) {
      const changed = { ...(records[17] as AuditRecord), [field]: value };
      expect(rootOver(records.with(17, changed)), field).not.toEqual(known);
    }
  });

  test("shows that records were put in another order, also when they were numbered anew", () => {
    fc.assert(
      fc.property(place, place, (a, b) => {
        fc.pre(a !== b);
        const [one, other] = [records[a] as AuditRecord, records[b] as AuditRecord];
        expect(rootOver(records.with(a, other).with(b, one))).not.toEqual(known);
        const renumbered = records
          .with(a, { ...other, logIndex: one.logIndex })
          .with(b, { ...one, logIndex: other.logIndex });
        expect(rootOver(renumbered)).not.toEqual(known);
      }),
    );
  });
});
