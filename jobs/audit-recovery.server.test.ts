import { readFile } from "node:fs/promises";
import path from "node:path";
import pino from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { audit } from "../consumers/audit/audit.ts";
import { leafBytes } from "../protocol/audit/leaf.ts";
import { hashLeaf, rootOf } from "../protocol/audit/merkle.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { Unavailable } from "../protocol/refusal.ts";
import type { AuditRecord } from "../schemas/values.ts";
import { findHead } from "../store/audit-log.ts";
import { openAuditWeeks } from "../store/audit-weeks.ts";
import { openMessageDays } from "../store/message-days.ts";
import type { Postgres } from "../store/postgres.ts";
import { openSteps } from "../store/steps.ts";
import { agentChanged, auditRecord, messageEncrypted, messageSend } from "../streams/catalogue.ts";
import { type Codec, openCodec } from "../streams/codec.ts";
import { type NewEvent, stepEventId, toOutgoing } from "../streams/headers.ts";
import { type KafkaDoor, openKafka } from "../streams/kafka.ts";
import { openProducer, type Producer } from "../streams/producer.ts";
import { readTopic } from "../streams/read-topic.ts";
import { applyTopics } from "../streams/topics.ts";
import { auditFact } from "../tests/audit-facts.ts";
import { inStep, openSampleDatabase } from "../tests/messaging.ts";
import { uniqueName, useStack } from "../tests/stack.ts";
import { type AuditRecovered, type AuditRecoveryDeps, relearnAudit } from "./audit-recovery.ts";
import { recover } from "./recovery.ts";

const log = pino({ level: "silent" });
let kafka: KafkaDoor;
let producer: Producer;
let codec: Codec;
const open: Postgres[] = [];

beforeAll(async () => {
  kafka = openKafka({ brokers: useStack().kafkaBrokers, clientId: "audit-recovery-test", log });
  producer = openProducer({ kafka, log });
  codec = await openCodec({ registryUrl: useStack().registryUrl, register: true });
  // Of this test alone: no other writes to it on the shared servers.
  await applyTopics(kafka, { partitions: 3, topics: [auditRecord, agentChanged] });
});
afterAll(async () => {
  await producer.close();
  await kafka.close();
  await Promise.all(open.map((postgres) => postgres.close()));
});

async function database(): Promise<Postgres> {
  const postgres = await openSampleDatabase();
  open.push(postgres);
  return postgres;
}

function append(events: readonly NewEvent<AuditRecord>[]): Promise<void> {
  return producer.append(events.map((event) => toOutgoing(codec, event)));
}

/** Facts from one number to below another, in one step. */
async function step(postgres: Postgres, from: number, below: number): Promise<readonly AuditRecord[]> {
  const facts = Array.from({ length: below - from }, (_, n) => auditFact(from + n));
  const emits = await inStep(postgres, (tx) => audit.step(facts, tx));
  return emits.map(({ value, cause: { topic, partition, offset } }) => {
    return value(stepEventId(audit.name, { topic: topic.name, partition, offset }, 0)) as AuditRecord;
  });
}

function publish(records: readonly AuditRecord[]): Promise<void> {
  return append(
    records.map((value) => {
      const { eventId: id, agentId: key, occurredAt: time } = value;
      return { topic: auditRecord, key, id, source: "/sealpost/audit", time, subject: id, value };
    }),
  );
}

function relearn(postgres: Postgres, changes: Partial<AuditRecoveryDeps> = {}): Promise<AuditRecovered> {
  return relearnAudit({ kafka, codec, postgres, weeks: openAuditWeeks(postgres), append, ...changes });
}

async function published(): Promise<readonly AuditRecord[]> {
  const values = (await readTopic(kafka, auditRecord.name)).map(({ value }) => value);
  await codec.learn(values);
  return values.map((value) => codec.decode(auditRecord, value)).sort((a, b) => a.logIndex - b.logIndex);
}

/** As `DeleteRecords` does it: from the beginning on. */
function emptyTopic(): Promise<void> {
  return kafka.ask(async (admin) => {
    const ends = await admin.fetchTopicOffsets(auditRecord.name);
    const partitions = ends.map(({ partition, high }) => ({ partition, offset: high }));
    await admin.deleteTopicRecords({ topic: auditRecord.name, partitions });
  });
}

function rootOver(records: readonly AuditRecord[]): Uint8Array {
  return rootOf(
    nodePrimitives,
    records.map((record) => hashLeaf(nodePrimitives, leafBytes(record))),
  );
}

test("what left keeps its place, a place whose record did not leave is marked as lost, and a topic that contradicts itself is refused", async () => {
  const live = await database();
  const steps = [];
  for (const [from, below] of [[0, 10] as const, [10, 20] as const, [20, 30] as const, [30, 700] as const])
    steps.push(await step(live, from, below));
  const [first = [], second = [], third = [], fourth = []] = steps;
  // The third was committed and never left; the second left twice.
  await publish([...first, ...fourth, ...second, ...second]);

  // The backup knows the first alone.
  const restored = await database();
  expect(await step(restored, 0, 10)).toEqual(first);
  expect(await relearn(restored)).toEqual({ learned: 690, lost: 10 });
  const records = await published();
  const given = records.filter(({ logIndex }, n) => logIndex !== records[n - 1]?.logIndex);
  expect(given.map(({ logIndex }) => logIndex)).toEqual(Array.from({ length: 700 }, (_, n) => n));
  const lost = given.filter(({ action }) => action === "audit.place-lost");
  expect(lost.map(({ logIndex }) => logIndex)).toEqual(third.map(({ logIndex }) => logIndex));
  expect(await findHead(restored)).toMatchObject({ size: 700, root: rootOver(given) });

  // Again, it changes nothing; and of what is read again only the third is new.
  expect(await relearn(restored)).toEqual({ learned: 0, lost: 0 });
  const again = await step(restored, 0, 700);
  expect(again.map(({ sourceEventId }) => sourceEventId)).toEqual(third.map(({ sourceEventId }) => sourceEventId));
  expect(again.map(({ logIndex }) => logIndex)).toEqual(Array.from({ length: 10 }, (_, n) => 700 + n));

  // Somebody else has written to a place.
  await publish([{ ...(second[0] as AuditRecord), actor: "somebody else" }]);
  const other = await database();
  expect(await relearn(other)).toBe("forked");
  expect((await findHead(other)).size).toBe(0);
});

test("after a fork, what docs/restore.md says begins a new log, in which every fact that is still there has its record", async () => {
  const forked = await database();
  await step(forked, 0, 10);
  expect(await relearn(forked)).toBe("forked");
  const page = await readFile(path.resolve(import.meta.dirname, "../docs/restore.md"), "utf8");
  const [, sql] = /```sql\n([^`]+)```/.exec(page) ?? [];
  await emptyTopic();
  await forked.query({ text: sql ?? "" });
  expect(await relearn(forked)).toEqual({ learned: 0, lost: 0 });
  const records = await step(forked, 0, 12);
  expect(records.map(({ logIndex }) => logIndex)).toEqual(Array.from({ length: 12 }, (_, n) => n));
});

test("a database that went on after it had gone back is found, wherever its head is and whenever it grew", async () => {
  await emptyTopic();
  const live = await database();
  const first = await step(live, 0, 10);
  await publish([...first, ...(await step(live, 10, 20))]);
  const restored = await database();
  await step(restored, 0, 10);
  // From here on it is another log: of facts that the other placed later.
  const others = await step(restored, 40, 42);
  expect(others.map(({ logIndex }) => logIndex)).toEqual([10, 11]);
  await restored.query({ text: "UPDATE audit_log SET grown_at = grown_at + 3600000" });
  expect(await relearn(restored)).toBe("forked");
  expect((await findHead(restored)).size).toBe(12);
  // Also where nothing of it is beyond the head.
  await step(restored, 42, 60);
  expect(await relearn(restored)).toBe("forked");
});

test("a recovery whose records are appended after it gave up is followed by one that appends the same", async () => {
  await emptyTopic();
  const live = await database();
  const first = await step(live, 0, 10);
  await step(live, 10, 20);
  await publish([...first, ...(await step(live, 20, 30))]);
  const restored = await database();
  await step(restored, 0, 10);
  let late: readonly NewEvent<AuditRecord>[] = [];
  const failing = relearn(restored, {
    append: async (events) => {
      late = events;
      throw new Unavailable("kafka");
    },
  });
  await expect(failing).rejects.toThrow(Unavailable);
  expect((await findHead(restored)).size).toBe(10);
  expect(late).toHaveLength(10);
  expect(await relearn(restored)).toEqual({ learned: 20, lost: 10 });
  await append(late);
  expect(await relearn(restored)).toEqual({ learned: 0, lost: 0 });
  const again = await database();
  await step(again, 0, 10);
  expect(await relearn(again)).toEqual({ learned: 20, lost: 0 });
  expect((await findHead(again)).root).toEqual((await findHead(restored)).root);
});

test("a forked audit is held alone: the generation begins for all others, and it goes on when its log is one again", async () => {
  await applyTopics(kafka, { partitions: 3, topics: [messageSend, messageEncrypted] });
  const postgres = await database();
  const store = openSteps(postgres, () => null);
  const recovered = (anyway: boolean) =>
    recover(
      {
        ...{ kafka, codec, postgres, store, append, weeks: openAuditWeeks(postgres), days: openMessageDays(postgres) },
        standing: [{ name: uniqueName("encryption"), topic: messageSend }],
        queuing: { name: uniqueName("queuing"), topic: messageEncrypted },
        ...{ auditGroup: audit.name, say: () => undefined, now: async () => Date.now(), patienceMs: 5_000 },
      },
      { anyway },
    );
  await emptyTopic();
  const [record] = await step(await database(), 0, 1);
  await publish([record as AuditRecord, { ...(record as AuditRecord), actor: "somebody else" }]);
  expect(await recovered(true)).toEqual({ outcome: "audit-forked" });
  expect(await store.loadReached(audit.name)).toMatchObject({ generation: 1, isHeld: true });
  expect(await store.loadReached("encryption")).toMatchObject({ generation: 1, isHeld: false });
  expect(await recovered(false)).toEqual({ outcome: "audit-forked" });
  await emptyTopic();
  expect(await recovered(false)).toEqual({ outcome: "audit-released" });
  expect(await store.loadReached(audit.name)).toMatchObject({ generation: 1, isHeld: false });
  expect(await recovered(false)).toEqual({ outcome: "not-behind" });
});
