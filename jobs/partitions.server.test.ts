import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { writeCommands } from "../store/custody/commands.ts";
import { dayOf, dropOldMessageDays, ensureMessageDays, openMessageDays } from "../store/message-days.ts";
import { findMessages } from "../store/messages.ts";
import type { Postgres } from "../store/postgres.ts";
import { openSampleDatabase, placeAll, sampleAgentId, sampleArrival, sampleItemId } from "../tests/messaging.ts";
import { keepPartitions } from "./partitions.ts";

const dayMs = 24 * 60 * 60 * 1000;

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

async function partitionNames(table = "messaging_messages"): Promise<string[]> {
  const { rows } = await postgres.query<{ name: string }>({
    text: "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::regclass ORDER BY 1",
    values: [table],
  });
  return rows.map(({ name }) => name);
}

test("the job makes the days that ids may have, and three ahead; running it again changes nothing", async () => {
  const now = Date.UTC(2026, 2, 1, 0, 0, 0);
  await keepPartitions(postgres, now);
  const names = await partitionNames();
  expect(names).toHaveLength(12);
  expect(names[0]).toBe("messaging_messages_20260221");
  expect(names.at(-1)).toBe("messaging_messages_20260304");
  await keepPartitions(postgres, now);
  expect(await partitionNames()).toEqual(names);
  await keepPartitions(postgres, now + 60 * dayMs);
  expect(await partitionNames()).toHaveLength(12);
});

test("several makers at once make each day once", async () => {
  const days = [30_000, 30_001, 30_002];
  await Promise.all([1, 2, 3, 4].map(() => ensureMessageDays(postgres, days)));
  expect((await partitionNames()).filter((name) => name.startsWith("messaging_messages_2052"))).toHaveLength(3);
});

test("a day is dropped 40 days after it is over", async () => {
  const now = Date.now();
  const message = sampleArrival({ itemId: sampleItemId(now) });
  await ensureMessageDays(postgres, [dayOf(now) - 41, dayOf(now) - 40]);
  await placeAll(postgres, [message]);
  const names = await partitionNames();
  expect(await dropOldMessageDays(postgres, now)).toBeGreaterThanOrEqual(1);
  const left = await partitionNames();
  expect(names.filter((name) => !left.includes(name)).every((name) => name < (left[0] ?? ""))).toBe(true);
  const kept = new Date(now - 40 * dayMs).toISOString().slice(0, 10).replaceAll("-", "");
  expect(left).toContain(`messaging_messages_${kept}`);
  expect(await findMessages(postgres, [{ senderId: message.senderId, messageId: message.itemId }])).toHaveLength(1);
  const ofDiscarded = (await partitionNames("messaging_discarded")).map((name) => name.slice(-8));
  expect(ofDiscarded).toEqual(left.map((name) => name.slice(-8)));
});

test("what agents of server custody said is forgotten after 31 days, and what became of it is not", async () => {
  const now = Date.now();
  const [old, kept] = [sampleItemId(now - 31 * dayMs - 1), sampleItemId(now - 31 * dayMs + 60_000)];
  const senderId = sampleAgentId();
  const said = {
    delegation: [],
    hmac: randomBytes(32),
    envelope: randomBytes(90),
    content: randomBytes(40),
    firstId: null,
    repairs: 0,
  };
  await writeCommands(
    postgres,
    openMessageDays(postgres),
    [old, kept].map((messageId) => ({ senderId, messageId, ...said })),
  );
  await keepPartitions(postgres, now);
  const { rows } = await postgres.query({
    text: "SELECT message_id, content IS NOT NULL AS kept FROM messaging_commands WHERE sender_id = $1 ORDER BY message_id",
    values: [senderId],
  });
  expect(rows).toEqual([
    { message_id: old, kept: false },
    { message_id: kept, kept: true },
  ]);
});
