/**
 * The checker against a history that was recorded: `npm run faults -- --seconds 10 --seed 38 --sessions 11 --rate 8 --fault kill:acks --fault flush-redis
 * --fault poison:message.encrypted.v1`. It holds, and whatever is changed of it on purpose is found.
 */
import path from "node:path";
import { expect, test } from "vitest";
import { readHistory } from "../recorder.ts";
import { judged } from "../run.ts";
import { broken, check, type Invariant } from "./check.ts";
import type { AuditEntry, GroupOffset, History, LogRecord, Operation, Snapshot } from "./history.ts";
import { mutantsOf } from "./mutants.ts";

const recorded: History = await readHistory(path.join(import.meta.dirname, "recorded.jsonl.gz"));

test("a history of a service that keeps its promises has no findings", () => {
  const verdict = check(recorded);
  expect(broken(verdict)).toEqual([]);
  expect(verdict.counts.send.ok).toBeGreaterThan(60);
  expect(verdict.counts.acknowledge.ok).toBeGreaterThan(60);
  expect(verdict.envelopes).toBeGreaterThan(60);
  expect(verdict.faults).toMatchObject({ kill: 1, poison: 1, "flush-redis": 1 });
  expect(judged(recorded).holds).toBe(true);
});

test.each(mutantsOf(recorded))("$name: found", ({ caught }) => {
  expect(caught).toBe(true);
});

test("there are mutants for a dropped row, a second event, swapped numbers, a late report, an audit, a count, a row, an early commit, concurrent sends and a used key", () => {
  const names = mutantsOf(recorded).map(({ name }) => name);
  for (const word of [
    "dropped",
    "published twice",
    "swapped",
    "overtaken",
    "audit",
    "counted",
    "a row is written",
    "committed",
    "idempotent",
    "ratchet",
  ]) {
    expect(names.some((name) => name.includes(word))).toBe(true);
  }
});

test("a mutant that cannot be made is not found: a history without messages proves nothing of the checker", () => {
  const nothing = { ...recorded.snapshot, tables: [] };
  const empty = { ...recorded, operations: [], log: [], snapshot: nothing };
  expect(mutantsOf(empty).every(({ caught }) => !caught)).toBe(true);
  expect(judged(empty).holds).toBe(false);
});

const operations = (change: (all: readonly Operation[]) => readonly Operation[]): History => ({
  ...recorded,
  operations: change(recorded.operations),
});
const log = (change: (all: readonly LogRecord[]) => readonly LogRecord[]): History => ({
  ...recorded,
  log: change(recorded.log),
});
const databases = (change: Partial<Snapshot>): History => ({
  ...recorded,
  snapshot: { ...recorded.snapshot, ...change },
});
const firstIn = (topic: string): LogRecord => recorded.log.find((record) => record.topic === topic) as LogRecord;
const firstOf = (kind: Operation["kind"], by: Operation["by"]): Operation =>
  recorded.operations.find((one) => one.kind === kind && one.by === by && one.n !== null) as Operation;
const replaced = <Item>(all: readonly Item[], one: Item, by: Item): readonly Item[] =>
  all.map((item) => (item === one ? by : item));

const received = firstOf("receive", "sdk");
const acknowledged = firstOf("acknowledge", "sdk");
const sent = firstOf("send", "sdk");
const messageOf =
  ({ senderId, messageId }: Operation) =>
  (one: { senderId: string; messageId: string | null }) =>
    one.senderId === senderId && one.messageId === messageId;
const [row] = recorded.snapshot.messages;
const [end] = recorded.snapshot.ends.filter(({ topic, offset }) => topic === "message.receipt.v1" && offset > 0);
const [position] = recorded.snapshot.positions;

const defects: readonly (readonly [string, Invariant, () => History])[] = [
  [
    "a message is read that nobody said",
    "invented",
    () => operations((all) => replaced(all, received, { ...received, n: 99_999 })),
  ],
  [
    "a message is read in other words",
    "invented",
    () => operations((all) => replaced(all, received, { ...received, digest: "other" })),
  ],
  [
    "a message is given to somebody else",
    "invented",
    () => operations((all) => replaced(all, received, { ...received, recipientId: "somebody else" })),
  ],
  [
    "a message whose sender was refused is in the log",
    "invented",
    () => operations((all) => all.map((one) => (messageOf(sent)(one) ? { ...one, outcome: "fail" } : one))),
  ],
  [
    "a message is told of that was never accepted",
    "invented",
    () =>
      log((all) =>
        all.filter(({ topic, item }) => topic !== "message.encrypted.v1" || !item || !messageOf(sent)(item)),
      ),
  ],
  [
    "a reader is given what it has acknowledged",
    "duplicated",
    () =>
      operations((all) => [...all, { ...received, startMs: acknowledged.endMs + 1, endMs: acknowledged.endMs + 1 }]),
  ],
  [
    "a reader is given the second message before the first",
    "reordered",
    () =>
      operations((all) => {
        const isOfPair = (one: Operation) =>
          one.kind === "receive" && one.senderId === received.senderId && one.recipientId === received.recipientId;
        const [first, second] = [1, 2].map((n) => all.find((one) => isOfPair(one) && one.n === n));
        return all.map((one) => {
          if (first === undefined || second === undefined) return one;
          if (one === first) return { ...second, startMs: one.startMs, endMs: one.endMs };
          return one === second ? { ...first, startMs: one.startMs, endMs: one.endMs } : one;
        });
      }),
  ],
  [
    "an answer that was taken is told to nobody",
    "regressed",
    () =>
      log((all) =>
        all.filter(({ topic, item }) => topic !== "message.acknowledged.v1" || !item || !messageOf(acknowledged)(item)),
      ),
  ],
  [
    "a message that was acknowledged waits again in the database",
    "regressed",
    () =>
      databases({
        messages: recorded.snapshot.messages.map((one) => (one === row ? { ...one, outcome: null } : one)),
      }),
  ],
  [
    "a position lies behind the end of the log",
    "misplaced",
    () =>
      databases({
        positions: recorded.snapshot.positions.map((one) => (one === position ? { ...one, offset: 1e6 } : one)),
      }),
  ],
  ["a consumer has not read to the end", "misplaced", () => databases({ positions: [] })],
  [
    "the broker has more records than were read",
    "misplaced",
    () =>
      databases({
        ends: recorded.snapshot.ends.map((one) => (one === end ? { ...one, offset: one.offset + 1 } : one)),
      }),
  ],
  ["rows of the outbox are left", "stuck", () => databases({ outboxRows: 1 })],
  ["facts are left", "stuck", () => databases({ unpublishedFacts: 1 })],
  ["items wait whose reader is there", "stuck", () => databases({ waiting: [recorded.readers[0] ?? ""] })],
  ["it never becomes quiet", "stuck", () => ({ ...recorded, quietMs: null })],
  ["it becomes quiet too late", "stuck", () => ({ ...recorded, quietMs: recorded.healedMs + 60_001 })],
  [
    "a record that nobody poisoned is a dead letter",
    "strayDeadLetters",
    () => ({ ...recorded, injected: recorded.injected.map((one) => ({ ...one, poison: one.poison.slice(1) })) }),
  ],
  [
    "poison is no dead letter",
    "strayDeadLetters",
    () => log((all) => all.filter((one) => one.topic !== "message.encrypted.v1.dlq" || one !== firstIn(one.topic))),
  ],
  [
    "the audit names another place of a fact",
    "unaudited",
    () =>
      log((all) => {
        const chosen = all.find(({ audit }) => audit !== null) as LogRecord & { readonly audit: AuditEntry };
        const { audit } = chosen;
        return replaced(all, chosen, { ...chosen, audit: { ...audit, sourceOffset: audit.sourceOffset + 1 } });
      }),
  ],
  [
    "the audit's log has a gap",
    "unaudited",
    () =>
      log((all) =>
        all.map((one) =>
          one.audit === null ? one : { ...one, audit: { ...one.audit, logIndex: one.audit.logIndex + 1 } },
        ),
      ),
  ],
  [
    "the audit has a fact that is nowhere",
    "unaudited",
    () => log((all) => all.filter((one) => one !== firstIn("message.delivered.v1"))),
  ],
  ["what an agent used is not counted", "miscounted", () => databases({ usage: recorded.snapshot.usage.slice(1) })],
  [
    "what waits is counted wrong",
    "miscounted",
    () =>
      databases({
        meters: recorded.snapshot.meters.map((one, place) =>
          place > 0 ? one : { ...one, waitingBytes: one.waitingBytes + 1 },
        ),
      }),
  ],
  [
    "a row is not what the log says",
    "diverged",
    () =>
      databases({
        tables: recorded.snapshot.tables.map((one) => ({ ...one, differences: ["a row is missing"] })),
      }),
  ],
  ["the tables could not be compared", "unseen", () => databases({ tables: [], uncompared: "acks has 3 to read" })],
  [
    "no row of a table was compared",
    "unseen",
    () => databases({ tables: recorded.snapshot.tables.map((one) => ({ ...one, rows: 0 })) }),
  ],
  ["the usage was not read", "unseen", () => databases({ usage: [] })],
  ["no fault was injected", "unseen", () => ({ ...recorded, injected: [] })],
  ["no fault was planned", "unseen", () => ({ ...recorded, injected: [], planned: 0 })],
  [
    "a fault could not be carried out",
    "unseen",
    () => ({ ...recorded, injected: recorded.injected.map((one) => ({ ...one, failure: "it is not there" })) }),
  ],
  ["no client did anything", "unseen", () => operations(() => [])],
  ["no send was accepted", "unseen", () => operations((all) => all.filter(({ kind }) => kind !== "send"))],
  ["the log was not read", "unseen", () => log(() => [])],
  ["the database was not read", "unseen", () => databases({ messages: [] })],
  ["the broker was not asked", "unseen", () => databases({ ends: [] })],
  ["no group was looked at", "unseen", () => ({ ...recorded, groups: [] })],
];

test.each(defects)("%s: %s", (_, invariant, defect) => {
  expect(broken(check(defect()))).toContain(invariant);
});

test.each([
  ["agent", 1],
  ["server", 0],
])(
  "a delivery that was told with its answer, behind the report of a later one, to a recipient of custody %s: findings %i",
  (custody, findings) => {
    const delivered = recorded.log.filter(({ topic }) => topic === "message.delivered.v1");
    const answerOf = ({ item }: LogRecord) =>
      recorded.log.find((one) => one.topic === "message.acknowledged.v1" && one.item?.messageId === item?.messageId)
        ?.item;
    const isSaidBy = (agentId: string | undefined) => (one: LogRecord) =>
      one.topic === "message.queued.v1" && one.item?.senderId === agentId;
    const isReported = (record: LogRecord) => answerOf(record)?.acknowledgedAt !== record.item?.deliveredAt;
    const pairs = delivered.filter(isReported).flatMap((first) => {
      const next = delivered.find(({ partition, offset, item }) => {
        const isNext = partition === first.partition && offset > first.offset;
        return isNext && item?.senderId === first.item?.senderId && item?.sessionId === first.item?.sessionId;
      });
      const isSender = recorded.log.some(isSaidBy(first.item?.recipientId));
      return next !== undefined && isReported(next) && isSender ? [[first, next] as const] : [];
    });
    const [first, next] = pairs[0] ?? [];
    if (first?.item == null || next === undefined) throw new Error("the history has no two reports of such a session");
    const { recipientId, senderId } = first.item;
    const own = isSaidBy(recipientId);
    const other = isSaidBy(senderId);
    const late = {
      ...first,
      offset: next.offset,
      item: { ...first.item, deliveredAt: answerOf(first)?.acknowledgedAt ?? null },
    };
    const history = log((all) =>
      all.map((one) => {
        if (one === first) return late;
        if (one === next) return { ...next, offset: first.offset };
        // What the sender's custody is says nothing of the recipient.
        if (one.item !== null && other(one)) return { ...one, item: { ...one.item, custody: "server" } };
        return one.item !== null && own(one) ? { ...one, item: { ...one.item, custody } } : one;
      }),
    );
    expect(check(history).findings.reordered).toHaveLength(findings);
  },
);

test("what waits for an agent that only sends is not stuck", () => {
  expect(broken(check(databases({ waiting: ["an agent that only sends"] })))).toEqual([]);
});

test("a repeat of an event, byte by byte, is counted and no finding", () => {
  const delivered = recorded.log.filter(({ topic }) => topic === "message.delivered.v1");
  const last = delivered.reduce((a, b) => (b.partition === a.partition && b.offset > a.offset ? b : a));
  const place = recorded.snapshot.ends.find(
    ({ topic, partition }) => topic === last.topic && partition === last.partition,
  );
  const read = (one: GroupOffset): GroupOffset =>
    one.topic === last.topic && one.partition === last.partition ? { ...one, offset: one.offset + 1 } : one;
  const repeated = log((all) => [...all, { ...last, offset: last.offset + 1 }]);
  const verdict = check({
    ...repeated,
    snapshot: {
      ...repeated.snapshot,
      ends: repeated.snapshot.ends.map((one) => (one === place ? { ...one, offset: one.offset + 1 } : one)),
      // Everybody who reads it has read it.
      committed: repeated.snapshot.committed.map(read),
      positions: repeated.snapshot.positions.map(read),
    },
  });
  expect(broken(verdict)).toEqual([]);
  expect(verdict.repeats).toBe(check(recorded).repeats + 1);
});

test.each([
  ["usage.v1", "which the clock writes, and nobody reads, is no finding", []],
  ["prekey.low.v1", "which a group reads, is one", ["misplaced", "unaudited"]],
])("a record of %s that comes while it is looked, %s", (topic, _, found) => {
  const end = recorded.snapshot.ends.find((one) => one.topic === topic);
  const [some] = recorded.log;
  if (end === undefined || some === undefined) throw new Error("the history has no such topic");
  const late = {
    ...some,
    topic,
    partition: end.partition,
    offset: end.offset,
    eventId: "late",
    item: null,
    audit: null,
  };
  expect(broken(check(log((all) => [...all, late])))).toEqual(found);
});
