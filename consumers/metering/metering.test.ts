import fc from "fast-check";
import { expect, test } from "vitest";
import type { Meter } from "../../store/meters.ts";
import type { Inbound } from "../../streams/consumer.ts";
import { sampleAgentId } from "../../tests/messaging.ts";
import { acknowledgedRecord, discardedRecord, loggedOf, type Placed, queuedRecord } from "../../tests/metering.ts";
import { usageByFold } from "../../tests/usage-fold.ts";
import { agentsOf, checkMetered, type Fact, type Metered, toFacts } from "./facts.ts";
import { foldFacts } from "./fold.ts";
import { addSeqs } from "./seqs.ts";

const hourMs = 3_600_000;
const noon = Date.UTC(2026, 5, 1, 12);
const [alice, bob, carol] = [sampleAgentId(), sampleAgentId(), sampleAgentId()] as const;

/** Meters and hours in memory, with the promises of the store's. */
function counted(steps: readonly (readonly Inbound<Metered>[])[], fold: typeof foldFacts = foldFacts) {
  const meters = new Map<string, Meter>();
  const hours = new Map<string, Record<string, number>>();
  for (const batch of steps) {
    const facts = toFacts(batch);
    const folded = fold(
      agentsOf(facts).map((agentId) => meters.get(agentId) ?? emptyMeter(agentId)),
      facts,
    );
    for (const meter of folded.meters) meters.set(meter.agentId, meter);
    for (const { agentId, hour, ...counts } of folded.hours) {
      const row = hours.get(`${agentId} ${hour}`) ?? {};
      for (const [name, count] of Object.entries(counts)) row[name] = (row[name] ?? 0) + count;
      hours.set(`${agentId} ${hour}`, row);
    }
  }
  return { meters, hours };
}

function emptyMeter(agentId: string): Meter {
  return { agentId, storedSeqs: [], endedSeqs: [], waitingMessages: 0, waitingBytes: 0 };
}

/** What the log says, without what is stored at the ends of hours: that is counted when it is asked for. */
function foldOf(records: readonly Inbound<Metered>[]) {
  const rows = [...usageByFold(loggedOf(records))].map(([name, { messagesStored, bytesStored, ...counts }]) => {
    expect([Number.isInteger(messagesStored), Number.isInteger(bytesStored)]).toEqual([true, true]);
    return [name, counts] as const;
  });
  return new Map(rows);
}

function placed(seq: number, fields: Partial<Placed> = {}): Placed {
  return { senderId: alice, recipientId: bob, seq, size: 100, queuedAt: noon, ...fields };
}

test("a message counts for who sent it and for who got it, in the hour in which it was stored", () => {
  const { hours, meters } = counted([[queuedRecord(placed(1, { queuedAt: noon + hourMs - 1 }))]]);
  const zero = { messagesAcknowledged: 0, bytesAcknowledged: 0, messagesDiscarded: 0, bytesDiscarded: 0 };
  expect([...hours]).toEqual([
    [`${alice} ${noon}`, { messagesSent: 1, bytesSent: 100, messagesReceived: 0, bytesReceived: 0, ...zero }],
    [`${bob} ${noon}`, { messagesSent: 0, bytesSent: 0, messagesReceived: 1, bytesReceived: 100, ...zero }],
  ]);
  expect(meters.get(bob)).toMatchObject({ storedSeqs: [[1, 1]], waitingMessages: 1, waitingBytes: 100 });
});

test("what an agent says to itself counts on both sides of one hour", () => {
  const { hours } = counted([[queuedRecord(placed(1, { senderId: bob }))]]);
  expect([...hours.values()]).toMatchObject([
    { messagesSent: 1, bytesSent: 100, messagesReceived: 1, bytesReceived: 100 },
  ]);
});

const [one, two, three] = [placed(1), placed(2, { size: 7 }), placed(3, { senderId: carol, kind: "retry" })] as const;
const ends = {
  acknowledged: acknowledgedRecord(one, noon + hourMs),
  evicted: discardedRecord(two, noon + 2 * hourMs),
};
const log = [queuedRecord(one), queuedRecord(two), queuedRecord(three), ends.acknowledged, ends.evicted];

const cases: [law: string, steps: Inbound<Metered>[][]][] = [
  ["in one step", [log]],
  ["a record a step", log.map((record) => [record])],
  ["ends before beginnings", [log.toReversed()]],
  ["each record twice in its step", [log.flatMap((record) => [record, record])]],
  ["everything once more", [log, log]],
  ["what was first once more behind the rest", [log, log.slice(0, 2), log.slice(3, 4)]],
];

test.each(cases)("the same records count the same: %s", (_, steps) => {
  const { hours, meters } = counted(steps);
  expect(hours).toEqual(foldOf(log));
  expect(meters.get(bob)).toEqual({
    ...{ agentId: bob, storedSeqs: [[1, 3]], endedSeqs: [[1, 3]], waitingMessages: 0, waitingBytes: 0 },
  });
});

test("a retry request takes its place, is no message, and leaves no hole in what was counted", () => {
  const { hours, meters } = counted([[queuedRecord(three)]]);
  expect([...hours]).toEqual([]);
  expect(meters.get(bob)).toMatchObject({ storedSeqs: [[3, 3]], endedSeqs: [[3, 3]], waitingMessages: 0 });
});

test("what was never seen to come does not wait, and takes nothing away from what does, when it ends", () => {
  const old = Array.from({ length: 40 }, (_, n) => acknowledgedRecord(placed(n + 1), noon));
  const { meters } = counted([old, [queuedRecord(placed(41)), queuedRecord(placed(42))], [old[0] as Inbound<Metered>]]);
  expect(meters.get(bob)).toMatchObject({ waitingMessages: 2, waitingBytes: 200 });
});

test("what was never stored is nobody's use", () => {
  const { hours, meters } = counted([[discardedRecord(one, noon, false)]]);
  expect([hours.size, meters.size]).toEqual([0, 0]);
});

const unusable: [law: string, record: Inbound<Metered>, code: string][] = [
  ["a record under another key", { ...queuedRecord(one), key: carol }, "item-mismatch"],
  ["a place that is none", queuedRecord(placed(0)), "malformed"],
  ["a size below nothing", queuedRecord(placed(1, { size: -1 })), "malformed"],
  ["a time before all times", acknowledgedRecord(one, -1), "malformed"],
];

test.each(unusable)("%s is refused", (_, record, code) => {
  expect(() => checkMetered(record)).toThrow(expect.objectContaining({ code }));
  for (const usable of [...log, discardedRecord(one, noon, false)]) expect(() => checkMetered(usable)).not.toThrow();
});

/** A history of some mailboxes: most of what was stored ends, somewhere, some time. */
const history = fc
  .array(
    fc.record({
      sender: fc.constantFrom(alice, bob, carol),
      recipient: fc.constantFrom(alice, bob),
      size: fc.nat(1_000),
      atMs: fc.nat(5 * hourMs),
      waitsMs: fc.nat(3 * hourMs),
      fate: fc.constantFrom("acknowledged", "discarded", "waits", "retry", "refused"),
    }),
    { maxLength: 40 },
  )
  .map((messages) => {
    const seqs = new Map<string, number>();
    return messages.flatMap(({ sender, recipient, size, atMs, waitsMs, fate }): Inbound<Metered>[] => {
      const at = { senderId: sender, recipientId: recipient, size, queuedAt: noon + atMs };
      if (fate === "refused") return [discardedRecord({ ...at, seq: 0 }, noon + atMs, false)];
      const seq = (seqs.get(recipient) ?? 0) + 1;
      seqs.set(recipient, seq);
      const message: Placed = { ...at, seq, ...(fate === "retry" ? { kind: "retry" as const } : {}) };
      const stored = queuedRecord(message);
      if (fate === "acknowledged") return [stored, acknowledgedRecord(message, noon + atMs + waitsMs)];
      if (fate === "discarded") return [stored, discardedRecord(message, noon + atMs + waitsMs)];
      return [stored];
    });
  });

/** The history as it may be read: cut into steps anywhere, repeated anywhere, the topics past each other. */
const readings = history.chain((records) =>
  fc
    .record({
      order: fc.shuffledSubarray(
        records.flatMap((_, n) => [n, n]).map((n, place) => [n, place] as const),
        { minLength: 0 },
      ),
      all: fc.shuffledSubarray(
        records.map((_, n) => n),
        { minLength: records.length },
      ),
      cuts: fc.infiniteStream(fc.integer({ min: 1, max: 9 })),
    })
    .map(({ order, all, cuts }) => {
      const numbers = [...all, ...order.map(([n]) => n)];
      const steps: Inbound<Metered>[][] = [];
      for (let at = 0; at < numbers.length; ) {
        const size = cuts.next().value as number;
        steps.push(numbers.slice(at, at + size).flatMap((n) => records[n] ?? []));
        at += size;
      }
      return { records, steps };
    }),
);

test("however the log is cut into steps, repeated and mixed, the totals are the fold of its records", () => {
  fc.assert(
    fc.property(readings, ({ records, steps }) => {
      const { hours, meters } = counted(steps);
      expect(hours).toEqual(foldOf(records));
      for (const [agentId, { waitingMessages }] of meters) {
        const sum = (name: string) =>
          [...hours].reduce((total, [key, row]) => (key.startsWith(agentId) ? total + (row[name] ?? 0) : total), 0);
        expect(waitingMessages).toBe(sum("messagesReceived") - sum("messagesAcknowledged") - sum("messagesDiscarded"));
      }
    }),
    { numRuns: 300 },
  );
});

test("a consumer without a memory, or with one of its step alone, would be found out", () => {
  const forgetful: typeof foldFacts = (meters, facts) =>
    foldFacts(
      meters.map(({ agentId }) => emptyMeter(agentId)),
      facts,
    );
  const trusting: typeof foldFacts = (meters, facts) => {
    const folds = facts.map((fact: Fact) =>
      foldFacts(
        meters.map(({ agentId }) => emptyMeter(agentId)),
        [fact],
      ),
    );
    return { meters: folds.flatMap((fold) => fold.meters), hours: folds.flatMap((fold) => fold.hours) };
  };
  for (const mutant of [forgetful, trusting]) {
    const differs = fc.check(
      fc.property(readings, ({ records, steps }) => {
        expect(counted(steps, mutant).hours).toEqual(foldOf(records));
      }),
    );
    expect(differs.failed).toBe(true);
  }
});

test("ranges hold what was added, in order and never touching, and say once what was new", () => {
  fc.assert(
    fc.property(fc.array(fc.array(fc.integer({ min: 1, max: 40 }))), (adds) => {
      const all = new Set<number>();
      let ranges: readonly (readonly [number, number])[] = [];
      for (const seqs of adds) {
        const added = addSeqs(ranges, seqs);
        expect(added.fresh).toEqual([...new Set(seqs)].filter((seq) => !all.has(seq)).sort((a, b) => a - b));
        for (const seq of seqs) all.add(seq);
        ranges = added.ranges;
      }
      const held = ranges.flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, n) => first + n));
      expect(held).toEqual([...all].sort((a, b) => a - b));
      for (const [n, [first]] of ranges.entries()) expect(first).toBeGreaterThan((ranges[n - 1]?.[1] ?? -1) + 1);
    }),
  );
});

test("what is of nobody, or of a time that is none, is refused: no index and no hour takes it", () => {
  const at = 8_640_000_000_000_001;
  const long = sampleAgentId().repeat(70);
  expect(() => checkMetered(queuedRecord(placed(1)))).not.toThrow();
  const wrong = [
    queuedRecord(placed(1, { senderId: long })),
    queuedRecord(placed(1, { recipientId: long })),
    queuedRecord(placed(1, { queuedAt: noon })),
    acknowledgedRecord(placed(1), at),
    discardedRecord(placed(1), at),
  ].map((record, n) => (n === 2 ? { ...record, value: { ...record.value, queuedAt: at } as Metered } : record));
  for (const record of wrong) expect(() => checkMetered(record)).toThrow("malformed");
  // Of what was never stored nothing is counted.
  expect(() => checkMetered(discardedRecord(placed(1), at, false))).not.toThrow();
});
