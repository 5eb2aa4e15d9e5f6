import { afterAll, beforeAll, expect, test } from "vitest";
import { announceUsage, forgetOldUsage } from "../../jobs/usage.ts";
import type { Usage } from "../../schemas/values.ts";
import type { Postgres } from "../../store/postgres.ts";
import { type UsagePeriod, usageOf, usageOfHour } from "../../store/usage.ts";
import type { Inbound } from "../../streams/consumer.ts";
import type { NewEvent } from "../../streams/headers.ts";
import { inStep, openSampleDatabase, sampleAgentId } from "../../tests/messaging.ts";
import { acknowledgedRecord, discardedRecord, loggedOf, type Placed, queuedRecord } from "../../tests/metering.ts";
import { type UsageByHour, usageByFold } from "../../tests/usage-fold.ts";
import type { Metered } from "./facts.ts";
import { metering } from "./metering.ts";

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const noon = Date.UTC(2026, 5, 1, 12);

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase(12);
});
afterAll(() => postgres.close());

const step = (batch: readonly Inbound<Metered>[]) => inStep(postgres, (tx) => metering.step(batch, tx));

const always = { from: 0, to: Number.MAX_SAFE_INTEGER, periodMs: hourMs };

/** What the tables say of these agents, in the form of the fold. */
async function tabled(agentIds: readonly string[], periodMs = hourMs): Promise<UsageByHour> {
  const pages = await Promise.all(agentIds.map((id) => usageOf(postgres, id, { ...always, periodMs }, 1_000)));
  return byName(pages.flat());
}

function byName(periods: readonly UsagePeriod[]): UsageByHour {
  return new Map(periods.map(({ agentId, at, ...counts }) => [`${agentId} ${at}`, counts]));
}

/** Some agents that write to each other over some hours; of three messages one waits, one is read, one is discarded. */
function sampleHistory(agentCount: number, messageCount: number) {
  const agents = Array.from({ length: agentCount }, sampleAgentId);
  const seqs = new Map<string, number>();
  const records = Array.from({ length: messageCount }, (_, n): Inbound<Metered>[] => {
    const [senderId = "", recipientId = ""] = [agents[n % agentCount], agents[(n * 7 + 1) % agentCount]];
    const seq = (seqs.get(recipientId) ?? 0) + 1;
    seqs.set(recipientId, seq);
    const message: Placed = { senderId, recipientId, seq, size: 10 + n, queuedAt: noon + ((n * 977) % 300) * 60_000 };
    const endsAt = message.queuedAt + (n % 5) * hourMs;
    if (n % 3 === 0) return [queuedRecord(message)];
    return [
      queuedRecord(message),
      n % 3 === 1 ? acknowledgedRecord(message, endsAt) : discardedRecord(message, endsAt),
    ];
  }).flat();
  return { agents, records };
}

function cut<Item>(items: readonly Item[], size: number): Item[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, n) => items.slice(n * size, (n + 1) * size));
}

test("the tables hold the fold of the log, whatever is read again, and when steps of the same agents run at once", async () => {
  const { agents, records } = sampleHistory(9, 400);
  const expected = usageByFold(loggedOf(records));
  const topics = Map.groupBy(records, ({ topic }) => topic.name);
  // Ends beside beginnings, as two owners of partitions would: in opposite orders of agents.
  await Promise.all(
    [...topics.values()].map(async (own, n) => {
      for (const batch of cut(n % 2 === 0 ? own : own.toReversed(), 23)) await step(batch);
    }),
  );
  expect(await tabled(agents)).toEqual(expected);
  await Promise.all(cut(records, 31).map((batch) => step(batch.toReversed())));
  expect(await tabled(agents)).toEqual(expected);
});

test("a step that was rolled back has counted nothing, and counts when it is made again", async () => {
  const { agents, records } = sampleHistory(3, 12);
  const crash = new Error("before the commit");
  const crashed = inStep(postgres, async (tx) => {
    await metering.step(records, tx);
    throw crash;
  });
  await expect(crashed).rejects.toBe(crash);
  expect((await tabled(agents)).size).toBe(0);
  await step(records);
  expect(await tabled(agents)).toEqual(usageByFold(loggedOf(records)));
});

test("a mailbox of which every second message waits is remembered place by place", async () => {
  const [senderId, recipientId] = [sampleAgentId(), sampleAgentId()];
  const messages = Array.from({ length: 3_000 }, (_, n) => {
    return { senderId, recipientId, seq: n + 1, size: 1, queuedAt: noon };
  });
  const read = messages.filter(({ seq }) => seq % 2 === 0).map((message) => acknowledgedRecord(message, noon));
  const records = [...messages.map(queuedRecord), ...read];
  for (const batch of cut(records, 500)) await step(batch);
  for (const batch of cut(read.toReversed(), 500)) await step(batch);
  const [hour] = await usageOf(postgres, recipientId, always, 10);
  expect(hour).toMatchObject({ messagesReceived: 3_000, messagesAcknowledged: 1_500, messagesStored: 1_500 });
  const rest = messages.filter(({ seq }) => seq % 2 === 1).map((message) => discardedRecord(message, noon + hourMs));
  for (const batch of cut(rest, 500)) await step(batch);
  const { rows } = await postgres.query<{ ended: string }>({
    text: "SELECT ended_seqs::text AS ended FROM messaging_meters WHERE agent_id = $1",
    values: [recipientId],
  });
  expect(rows).toEqual([{ ended: "{[1,3001)}" }]);
});

test("days are the sums of their hours, with what was stored at their ends; a page begins where it is told to", async () => {
  const [senderId, recipientId] = [sampleAgentId(), sampleAgentId()];
  const days = [0, 1, 3].map((day) => Date.UTC(2026, 5, 1 + day));
  const messages = days.flatMap((day, n) =>
    [1, 23].map((hour, m) => ({ senderId, recipientId, seq: n * 2 + m + 1, size: 10, queuedAt: day + hour * hourMs })),
  );
  await step([...messages.map(queuedRecord), acknowledgedRecord(messages[0] as Placed, (days[1] ?? 0) + 5)]);
  const daily = await usageOf(postgres, recipientId, { ...always, periodMs: dayMs }, 10);
  expect(
    daily.map(({ at, messagesReceived, messagesStored, bytesStored }) => [
      at,
      messagesReceived,
      messagesStored,
      bytesStored,
    ]),
  ).toEqual([
    [days[0], 2, 2, 20],
    [days[1], 2, 3, 30],
    [days[2], 2, 5, 50],
  ]);
  const [from = 0, to = 0] = [days[1], days[2]];
  expect(await usageOf(postgres, recipientId, { from, to, periodMs: dayMs }, 10)).toEqual(daily.slice(1, 2));
  const hours = await usageOf(postgres, recipientId, always, 100);
  expect(hours).toHaveLength(7);
  expect(await usageOf(postgres, recipientId, { ...always, from: hours[2]?.at ?? 0 }, 3)).toEqual(hours.slice(2, 5));
});

test("an hour of everybody comes in pages by agent", async () => {
  const hour = Date.UTC(2026, 8, 1, 3);
  const [senderId, ...others] = Array.from({ length: 6 }, sampleAgentId);
  await step(
    others.map((recipientId) =>
      queuedRecord({ senderId: senderId as string, recipientId, seq: 1, size: 5, queuedAt: hour }),
    ),
  );
  const read: UsagePeriod[] = [];
  for (let after = ""; ; after = read.at(-1)?.agentId ?? "") {
    const page = await usageOfHour(postgres, hour, after, 4);
    read.push(...page);
    if (page.length < 4) break;
  }
  expect(read.map(({ agentId }) => agentId)).toEqual([senderId, ...others].toSorted());
  for (const { agentId, messagesStored } of read) expect(messagesStored).toBe(agentId === senderId ? 0 : 1);
});

/** Announces, and answers what was announced. */
async function announced(lose = false): Promise<readonly NewEvent<Usage>[]> {
  const events: NewEvent<Usage>[] = [];
  const append = async (some: readonly NewEvent<Usage>[]) => {
    events.push(...some);
    if (lose) throw new Error("the answer was lost");
  };
  await announceUsage({ postgres, append }, new AbortController().signal).catch((error) => {
    if (!lose) throw error;
  });
  return events;
}

/** As billing would keep it: the highest revision of each hour, whatever comes in whatever order. */
function billed(events: readonly NewEvent<Usage>[]): UsageByHour {
  const newest = new Map<string, Usage>();
  for (const { value } of events.toReversed()) {
    const name = `${value.agentId} ${value.hour}`;
    if (value.revision >= (newest.get(name)?.revision ?? 0)) newest.set(name, value);
  }
  const rows = [...newest].map(
    ([name, { eventId: _, agentId: __, hour: ___, revision: ____, ...counts }]) => [name, counts] as const,
  );
  return new Map(rows);
}

test("what was announced is the tables: after every change, late ones included, and once when nothing changed", async () => {
  await announced();
  const { agents, records } = sampleHistory(5, 700);
  const events: NewEvent<Usage>[] = [];
  for (const batch of cut(records, 300)) {
    await step(batch);
    events.push(...(await announced()));
  }
  expect(await announced()).toEqual([]);
  const late = {
    senderId: agents[0] as string,
    recipientId: agents[1] as string,
    seq: 9_000,
    size: 3,
    queuedAt: noon - dayMs,
  };
  await step([queuedRecord(late)]);
  const corrections = await announced();
  events.push(...corrections);
  // Its own hour of both, and what was stored at the end of every hour since of the recipient.
  const hoursOf = async (id: string) => (await usageOf(postgres, id, always, 100)).map(({ at }) => at);
  expect(corrections.map(({ value }) => `${value.agentId} ${value.hour}`).toSorted()).toEqual(
    [
      `${late.senderId} ${noon - dayMs}`,
      ...(await hoursOf(late.recipientId)).map((at) => `${late.recipientId} ${at}`),
    ].toSorted(),
  );
  expect(billed(events)).toEqual(await tabled(agents));
  expect(new Set(events.map(({ id }) => id)).size).toBe(events.length);
});

test("an announcement whose answer was lost is made again, byte for byte under the same id", async () => {
  const { records } = sampleHistory(3, 12);
  await step(records);
  const first = await announced(true);
  expect(first.length).toBeGreaterThan(0);
  expect(await announced()).toEqual(first);
  expect(await announced()).toEqual([]);
});

test("an hour is not announced while an end is counted and its beginning is not; then it is what it would have been", async () => {
  const [senderId, recipientId] = [sampleAgentId(), sampleAgentId()];
  const message = (seq: number, queuedAt: number): Placed => ({ senderId, recipientId, seq, size: 5, queuedAt });
  const own = (events: readonly NewEvent<Usage>[]) => events.filter(({ value }) => value.agentId === recipientId);
  await step([queuedRecord(message(1, noon))]);
  const first = own(await announced(true));
  expect(first.map(({ value }) => value.messagesStored)).toEqual([1]);
  const second = message(2, noon + hourMs);
  await step([acknowledgedRecord(second, second.queuedAt)]);
  expect(own(await announced())).toEqual([]);
  await step([queuedRecord(second)]);
  const later = own(await announced());
  expect(later.map(({ value }) => value.messagesStored)).toEqual([1, 1]);
  expect(later[0]).toEqual(first[0]);
  // The record of a beginning may be gone, with the log's.
  await step([acknowledgedRecord(message(7, noon), noon + hourMs)]);
  expect(own(await announced())).toEqual([]);
  await postgres.query({
    text: "UPDATE messaging_usage SET revision = revision - 3600000 WHERE agent_id = $1",
    values: [recipientId],
  });
  expect(own(await announced()).map(({ value }) => value.messagesAcknowledged)).toEqual([2]);
});

test("what changes while it is announced is announced again, and a row that a step holds keeps nobody waiting", async () => {
  const [senderId, recipientId] = [sampleAgentId(), sampleAgentId()];
  const message = (seq: number) => queuedRecord({ senderId, recipientId, seq, size: 1, queuedAt: noon });
  await step([message(1)]);
  const events: NewEvent<Usage>[] = [];
  let changed = false;
  const append = async (some: readonly NewEvent<Usage>[]) => {
    events.push(...some);
    if (!changed) await step([message(2)]);
    changed = true;
  };
  await announceUsage({ postgres, append }, new AbortController().signal);
  await inStep(postgres, async (tx) => {
    await metering.step([message(3)], tx);
    events.push(...(await announced()));
  });
  events.push(...(await announced()));
  const received = events
    .filter(({ value }) => value.agentId === recipientId)
    .map(({ value }) => value.messagesReceived);
  expect(received).toEqual([1, 2, 3]);
});

test("hours are forgotten after 400 days, and what is stored is not", async () => {
  const [senderId, recipientId] = [sampleAgentId(), sampleAgentId()];
  const old = Date.UTC(2026, 0, 1);
  const messages = Array.from({ length: 1_200 }, (_, n) => {
    return queuedRecord({ senderId, recipientId, seq: n + 1, size: 2, queuedAt: old + n * hourMs });
  });
  for (const batch of cut(messages, 500)) await step(batch);
  await forgetOldUsage(postgres, old + 1_190 * hourMs + 400 * dayMs);
  const hours = await usageOf(postgres, recipientId, always, 100);
  expect(hours.map(({ at, messagesStored }) => [at, messagesStored])).toEqual(
    Array.from({ length: 10 }, (_, n) => [old + (1_190 + n) * hourMs, 1_191 + n]),
  );
});
