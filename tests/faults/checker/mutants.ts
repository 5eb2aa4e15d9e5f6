/**
 * The checker, checked: histories in which the service has one known defect. Each is made of a history that holds, and must be found out.
 *
 * A mutant changes everything that the defect would have changed, and nothing besides: what the log, the tables and the readers would show.
 */
import { decodeEnvelope, encodeEnvelope } from "../../../protocol/envelope.ts";
import { effects, middle, onceOnly, renumbered, repeated, withoutEffects } from "./changes.ts";
import { findingsOf, type Invariant } from "./check.ts";
import type { AuditEntry, History, LogRecord } from "./history.ts";
import { firsts, grouped, type Indexed, type ItemRecord, indexed, nameOf, pairName, placeOf } from "./indexed.ts";
import { isImplied } from "./reordered.ts";

interface Mutant {
  readonly name: string;
  /** The invariant that must find it. */
  readonly breaks: Invariant;
  /** Null: this history has nothing that it could happen to. */
  mutate(history: History): History | null;
}

export interface Caught {
  readonly name: string;
  readonly caught: boolean;
}

/** Each mutant of this history. A mutant that cannot be made counts as not caught: nothing was shown. */
export function mutantsOf(history: History): readonly Caught[] {
  return mutants.map(({ name, breaks, mutate }) => {
    const mutated = mutate(history);
    return { name, caught: mutated !== null && findingsOf(mutated, breaks).length > 0 };
  });
}

const mutants: readonly Mutant[] = [
  ...effects.map(
    (topic): Mutant => ({
      name: `an outbox row is dropped: nothing in ${topic}`,
      breaks: "lost",
      mutate: (history) => changedRecord(history, topic, () => []),
    }),
  ),
  ...effects.map(
    (topic): Mutant => ({
      name: `published twice, under another id, in ${topic}`,
      breaks: "duplicated",
      mutate: (history) =>
        changedRecord(history, topic, (record) => [record, { ...repeated(history, record), eventId: "another" }]),
    }),
  ),
  {
    name: "published twice, with other bytes",
    breaks: "duplicated",
    mutate: (history) =>
      changedRecord(history, "message.delivered.v1", (record) => [
        record,
        { ...repeated(history, record), digest: "other" },
      ]),
  },
  { name: "two numbers of a mailbox are swapped", breaks: "reordered", mutate: swappedNumbers },
  { name: "two messages of a pair are swapped", breaks: "reordered", mutate: swappedMessages },
  { name: "a report of delivery is overtaken by a later one", breaks: "reordered", mutate: overtaken },
  {
    name: "a fact is left out of the audit",
    breaks: "unaudited",
    mutate: (history) => changedAudit(history, () => []),
  },
  {
    name: "a fact has two places in the audit",
    breaks: "unaudited",
    mutate: (history) =>
      changedAudit(history, (record, places) => [
        record,
        { ...repeated(history, record), eventId: "another", audit: { ...record.audit, logIndex: places } },
      ]),
  },
  { name: "a message is counted twice", breaks: "miscounted", mutate: countedTwice },
  { name: "a row is written that the log does not tell of", breaks: "diverged", mutate: madeUp },
  { name: "the position is committed before the message is processed", breaks: "lost", mutate: committedTooEarly },
  { name: "two idempotent sends at once: the first is written twice", breaks: "lost", mutate: writtenOver },
  { name: "a ratchet state is used again", breaks: "keysReused", mutate: usedAgain },
];

/** Replaces one record, from the middle of the topic, of a message that a client sent. */
function changedRecord(
  history: History,
  topic: string,
  change: (record: ItemRecord) => readonly LogRecord[],
): History | null {
  const index = indexed(history);
  const chosen = middle(onceOnly(index, topic).filter(({ item }) => index.sends.has(nameOf(item))));
  if (chosen === null) return null;
  return { ...history, log: history.log.flatMap((record) => (record === chosen ? change(chosen) : [record])) };
}

/** Replaces one record of the audit, from its middle. */
function changedAudit(
  history: History,
  change: (record: AuditRecord, places: number) => readonly LogRecord[],
): History | null {
  const records = history.log.filter((record): record is AuditRecord => record.audit !== null);
  const byEvent = grouped(records, ({ eventId }) => eventId ?? "");
  const chosen = middle(records.filter(({ eventId }) => byEvent.get(eventId ?? "")?.length === 1));
  if (chosen === null) return null;
  const places = new Set(records.map(({ audit }) => audit.logIndex)).size;
  return { ...history, log: history.log.flatMap((record) => (record === chosen ? change(chosen, places) : [record])) };
}

type AuditRecord = LogRecord & { readonly audit: AuditEntry };

function countedTwice(history: History): History | null {
  const { usage } = history.snapshot;
  const told = new Set(
    indexed(history)
      .inTopic("message.queued.v1")
      .map(({ item }) => item.recipientId),
  );
  const chosen = middle(usage.filter(({ agentId, messagesReceived }) => messagesReceived > 0 && told.has(agentId)));
  if (chosen === null) return null;
  const twice = { ...chosen, messagesReceived: chosen.messagesReceived + 1 };
  return {
    ...history,
    snapshot: { ...history.snapshot, usage: usage.map((row) => (row === chosen ? twice : row)) },
  };
}

/** What the comparison would have said of it. */
function madeUp(history: History): History | null {
  const { tables } = history.snapshot;
  const chosen = middle(tables.filter(({ rows }) => rows > 0));
  if (chosen === null) return null;
  const more = { ...chosen, rows: chosen.rows + 1, differences: [...chosen.differences, "a row is unexpected"] };
  return {
    ...history,
    snapshot: { ...history.snapshot, tables: tables.map((one) => (one === chosen ? more : one)) },
  };
}

/** Kafka did not take the one when it was due, and it was tried again: the next one of its session came before it. */
function overtaken(history: History): History | null {
  const index = indexed(history);
  const reported = onceOnly(index, "message.delivered.v1").filter((record) => !isImplied(index, record));
  const sessions = grouped(reported, ({ item }) => `${item.senderId} ${item.sessionId}`);
  const pairs = [...sessions.values()].flatMap((records) =>
    records.flatMap((record, place) => {
      const next = records[place + 1];
      return next === undefined ? [] : [[record, next] as const];
    }),
  );
  const chosen = middle(pairs);
  if (chosen === null) return null;
  const [first, second] = chosen;
  const moved = (record: LogRecord): LogRecord => {
    if (record === first) return { ...first, offset: second.offset };
    return record === second ? { ...second, offset: first.offset } : record;
  };
  return { ...history, log: history.log.map(moved) };
}

/** Two neighbours of one pair that were accepted one after the other. */
function neighbours(index: Indexed): readonly [ItemRecord, ItemRecord] | null {
  const queued = onceOnly(index, "message.queued.v1");
  const byPair = grouped(queued, ({ item }) => pairOf(item));
  const found = queued.flatMap((a): (readonly [ItemRecord, ItemRecord])[] => {
    const b = byPair.get(pairOf(a.item))?.find(({ item }) => (item.seq ?? 0) > (a.item.seq ?? 0));
    const before = index.sends.get(nameOf(a.item));
    const after = b && index.sends.get(nameOf(b.item));
    const answered = before?.find(({ outcome }) => outcome === "ok")?.endMs ?? Infinity;
    const isInTurn = after?.some(({ outcome }) => outcome === "ok") && answered < (after[0]?.startMs ?? 0);
    return b !== undefined && isInTurn ? [[a, b]] : [];
  });
  return middle(found);
}

function pairOf({ senderId, recipientId }: { readonly senderId: string; readonly recipientId: string }): string {
  return pairName({ senderId, recipientId });
}

/** Each keeps its place in the log, and says the other's number everywhere. */
function swappedNumbers(history: History): History | null {
  const pair = neighbours(indexed(history));
  if (pair === null) return null;
  const [a, b] = pair;
  const numbers = new Map([
    [nameOf(a.item), b.item.seq],
    [nameOf(b.item), a.item.seq],
  ]);
  return renumbered(history, numbers, (record) => record);
}

/** Each stands, with the other's number, where the other stood: only who knows when they were sent can tell. */
function swappedMessages(history: History): History | null {
  const index = indexed(history);
  const pair = neighbours(index);
  if (pair === null) return null;
  const [a, b] = pair.map(({ item }) => nameOf(item)) as [string, string];
  const seqs = pair.map(({ item }) => item.seq) as [number | null, number | null];
  const numbers = new Map([
    [a, seqs[1]],
    [b, seqs[0]],
  ]);
  return renumbered(history, numbers, (record) => {
    if (record.item === null || !effects.some((topic) => topic === record.topic)) return record;
    const name = nameOf(record.item);
    const other = name === a ? b : name === b ? a : null;
    const [place] = other === null ? [] : index.of(record.topic, other);
    return place === undefined ? record : { ...record, partition: place.partition, offset: place.offset };
  });
}

/** Everything that came of a message behind its record in message.encrypted.v1 is not there. */
function committedTooEarly(history: History): History | null {
  const index = indexed(history);
  const chosen = middle(acceptedItems(index));
  return chosen === null ? null : withoutEffects(history, nameOf(chosen.item), (record) => record);
}

/** kafkajs, if it were allowed two sends at once and an answer were lost: both are acknowledged, and the log holds the first of them twice. */
function writtenOver(history: History): History | null {
  const index = indexed(history);
  const accepted = acceptedItems(index);
  const byPlace = new Map(accepted.map((record) => [placeOf(record), record]));
  const pairs = accepted.flatMap((first): (readonly [ItemRecord, ItemRecord])[] => {
    const second = byPlace.get(placeOf({ ...first, offset: first.offset + 1 }));
    return second === undefined ? [] : [[first, second]];
  });
  const chosen = middle(pairs);
  if (chosen === null) return null;
  const [first, second] = chosen;
  return withoutEffects(history, nameOf(second.item), (record) =>
    record === second ? { ...first, offset: second.offset } : record,
  );
}

/** Items of clients that were told that they are accepted. */
function acceptedItems(index: Indexed): readonly ItemRecord[] {
  return onceOnly(index, "message.encrypted.v1").filter(({ item }) =>
    index.sends.get(nameOf(item))?.some(({ outcome }) => outcome === "ok"),
  );
}

/** A message is encrypted with the key that another was encrypted with. */
function usedAgain(history: History): History | null {
  const index = indexed(history);
  const chosen = middle(firsts(index.inTopic("message.encrypted.v1")).filter(({ item }) => item.kind === "message"));
  if (chosen?.item.body == null) return null;
  const envelope = decodeEnvelope(Buffer.from(chosen.item.body, "base64"));
  const authTag = envelope.authTag.map((byte) => byte ^ 1);
  const body = Buffer.from(encodeEnvelope({ ...envelope, authTag })).toString("base64");
  const second = { ...repeated(history, chosen), item: { ...chosen.item, body } };
  return { ...history, log: [...history.log, second] };
}
