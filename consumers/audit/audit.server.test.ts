import { beforeEach, expect, test } from "vitest";
import { leafBytes } from "../../protocol/audit/leaf.ts";
import { hashLeaf, rootOf } from "../../protocol/audit/merkle.ts";
import { consistencySpans, inclusionSpans, provesConsistency, provesInclusion } from "../../protocol/audit/proofs.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import type { AuditRecord } from "../../schemas/values.ts";
import { findHead, hashesOfSpans } from "../../store/audit-log.ts";
import { dropOldAuditWeeks } from "../../store/audit-weeks.ts";
import { inTransaction, type Postgres } from "../../store/postgres.ts";
import { stepTx } from "../../store/tx.ts";
import type { Inbound } from "../../streams/consumer.ts";
import { stepEventId } from "../../streams/headers.ts";
import { auditFact } from "../../tests/audit-facts.ts";
import { inStep, openSampleDatabase } from "../../tests/messaging.ts";
import { audit } from "./audit.ts";

let postgres: Postgres;
beforeEach(async () => {
  postgres = await openSampleDatabase();
  return () => postgres.close();
});

async function step(facts: readonly Inbound<unknown>[]): Promise<readonly AuditRecord[]> {
  const emits = await inStep(postgres, (tx) => audit.step(facts, tx));
  return emits.map(({ value, cause: { topic, partition, offset } }) => {
    return value(stepEventId(audit.name, { topic: topic.name, partition, offset }, 0)) as AuditRecord;
  });
}

function hashesOf(records: readonly AuditRecord[]): readonly Uint8Array[] {
  const inOrder = records.toSorted((a, b) => a.logIndex - b.logIndex);
  expect(inOrder.map(({ logIndex }) => logIndex)).toEqual(inOrder.map((_, index) => index));
  return inOrder.map((record) => hashLeaf(nodePrimitives, leafBytes(record)));
}

test("steps of several processes at once, with facts that come again: each fact has one record, each place one fact, and the root is theirs", async () => {
  const facts = Array.from({ length: 1_400 }, (_, n) => auditFact(n));
  const again = facts.filter((_, n) => n % 3 === 0).map((fact) => ({ ...fact, offset: fact.offset + 10_000 }));
  const all = [...facts, ...again].toSorted((a, b) => ((a.offset * 7_919) % 1_009) - ((b.offset * 7_919) % 1_009));
  const steps = Array.from({ length: Math.ceil(all.length / 90) }, (_, n) => all.slice(n * 90, (n + 1) * 90));
  const records: AuditRecord[] = [];
  while (steps.length > 0) {
    const some = await Promise.all(steps.splice(0, 3).map(step));
    records.push(...some.flat());
  }
  expect(new Set(records.map(({ sourceEventId }) => sourceEventId)).size).toBe(facts.length);
  expect(records).toHaveLength(facts.length);
  expect(new Set(records.map(({ eventId }) => eventId)).size).toBe(facts.length);
  const hashes = hashesOf(records);
  const { size, root } = await findHead(postgres);
  expect(size).toBe(facts.length);
  expect(root).toEqual(rootOf(nodePrimitives, hashes));
});

test("whatever is proved from the stored hashes holds, over the edges of rows and levels", async () => {
  const facts = Array.from({ length: 1_100 }, (_, n) => auditFact(n));
  const records: AuditRecord[] = [];
  for (let start = 0; start < facts.length; start += 77) records.push(...(await step(facts.slice(start, start + 77))));
  const hashes = hashesOf(records);
  const rootAt = (size: number) => rootOf(nodePrimitives, hashes.slice(0, size));
  for (const size of [1, 2, 255, 256, 257, 511, 513, 768, 1_024, 1_099, 1_100]) {
    for (const index of [0, 1, 200, 255, 256, 767, 1_023, 1_099].filter((each) => each < size)) {
      const proof = await hashesOfSpans(postgres, inclusionSpans(index, size));
      const leafHash = hashes[index] as Uint8Array;
      expect(provesInclusion(nodePrimitives, { index, size, leafHash, proof, root: rootAt(size) })).toBe(true);
    }
    const proof = await hashesOfSpans(postgres, consistencySpans(size, 1_100));
    const claim = { from: size, to: 1_100, fromRoot: rootAt(size), toRoot: rootAt(1_100), proof };
    expect(provesConsistency(nodePrimitives, claim)).toBe(true);
  }
});

test("a step that is rolled back leaves no record, no hash and no memory", async () => {
  const facts = Array.from({ length: 300 }, (_, n) => auditFact(n));
  const crash = new Error("before the commit");
  const crashed = inStep(postgres, async (tx) => {
    expect(await audit.step(facts, tx)).toHaveLength(300);
    throw crash;
  });
  await expect(crashed).rejects.toBe(crash);
  expect((await findHead(postgres)).size).toBe(0);
  const records = await step(facts);
  expect(records).toHaveLength(300);
  expect((await findHead(postgres)).root).toEqual(rootOf(nodePrimitives, hashesOf(records)));
});

test("where the stored hashes are not those of the head, nothing is appended", async () => {
  await step(Array.from({ length: 10 }, (_, n) => auditFact(n)));
  await postgres.query({ text: "UPDATE audit_tiles SET hashes = substr(hashes, 1, 32 * 9) WHERE level = 0" });
  await expect(step([auditFact(10)])).rejects.toThrow("not those of its head");
  expect((await findHead(postgres)).size).toBe(10);
});

test("a fact is known again in another week, and the weeks are made as they come", async () => {
  const weekMs = 7 * 24 * 60 * 60 * 1_000;
  const [first] = await step([auditFact(1)]);
  expect(first?.logIndex).toBe(0);
  for (const weeks of [1, 4, 9]) {
    const later = auditFact(1, { offset: 100 + weeks, timestamp: auditFact(1).timestamp + weeks * weekMs });
    expect(await step([later])).toEqual([]);
    expect(await step([auditFact(100 + weeks, { timestamp: later.timestamp })])).toHaveLength(1);
  }
});

test("a fact of a week that was dropped behind a running process has its record", async () => {
  const openTx = stepTx(postgres);
  const inSameProcess = (fact: Inbound<unknown>) =>
    inTransaction(postgres, async (client) => audit.step([fact], openTx(client)));
  expect(await inSameProcess(auditFact(1))).toHaveLength(1);
  expect(await dropOldAuditWeeks(postgres, Date.now())).toBe(1);
  expect(await inSameProcess(auditFact(2))).toHaveLength(1);
  expect((await findHead(postgres)).size).toBe(2);
});
