import { afterEach, beforeEach, expect, test } from "vitest";
import type { UsagePeriod } from "../../store/usage.ts";
import { addAgent, type InMemoryService, inMemoryService, read } from "../../tests/in-memory-service.ts";
import { newIdentity } from "../../tests/signing.ts";

const hourMs = 3_600_000;
/** The clock stands still within an hour. */
const now = Date.UTC(2026, 7, 19, 9, 30);
const thisHour = Date.UTC(2026, 7, 19, 9);
const opsToken = "a-token-of-the-operators-0123456789";

let service: InMemoryService;
beforeEach(async () => {
  service = await inMemoryService({ opsToken });
});
afterEach(async () => {
  expect(service.ports.bugs).toEqual([]);
  await service.http.close();
});

function period(agentId: string, at: number, messagesStored = 0): UsagePeriod {
  return {
    ...{ agentId, at, messagesSent: 1, bytesSent: 2, messagesReceived: 3, bytesReceived: 4 },
    ...{ messagesAcknowledged: 5, bytesAcknowledged: 6, messagesDiscarded: 7, bytesDiscarded: 8 },
    ...{ messagesStored, bytesStored: 9 },
  };
}

const iso = (ms: number) => new Date(ms).toISOString();

function used(hours: readonly number[], agentId = service.alice.agentId): void {
  service.ports.usage.push(...hours.map((at, n) => period(agentId, at, n)));
}

const asOperator = async (path: string, headers: Record<string, string> = { authorization: `Bearer ${opsToken}` }) =>
  read(await fetch(service.ops.url + path, { headers }));

test("an agent sees every count of its own hours, and nobody else's", async () => {
  const { alice, bob, get } = service;
  used([thisHour - hourMs, thisHour]);
  used([thisHour], bob.agentId);
  const { status, json } = await get(alice, `/messaging/usage?from=${iso(thisHour - hourMs)}&to=${iso(thisHour)}`);
  expect([status, json]).toEqual([
    200,
    {
      ...{ agent_id: alice.agentId, granularity: "hour", from: iso(thisHour - hourMs), to: iso(thisHour) },
      usage: [
        {
          ...{
            start: iso(thisHour - hourMs),
            messages_sent: 1,
            bytes_sent: 2,
            messages_received: 3,
            bytes_received: 4,
          },
          ...{ messages_acknowledged: 5, bytes_acknowledged: 6, messages_discarded: 7, bytes_discarded: 8 },
          ...{ messages_stored: 0, bytes_stored: 9 },
        },
      ],
    },
  ]);
  const carol = newIdentity();
  addAgent(service.ports, carol);
  expect((await get(carol, `/messaging/usage?from=${iso(0)}`)).json.usage).toEqual([]);
});

test("where nothing is said the answer is of the last day, or of the last thirty days, this hour and this day included", async () => {
  const { alice, get } = service;
  const begun = (ms: number) => Math.floor(Date.now() / ms) * ms;
  const hours = (await get(alice, "/messaging/usage")).json;
  expect([hours.from, hours.to]).toEqual([iso(begun(hourMs) - 23 * hourMs), iso(begun(hourMs) + hourMs)]);
  const days = (await get(alice, "/messaging/usage?granularity=day")).json;
  const dayMs = 24 * hourMs;
  expect([days.from, days.to]).toEqual([iso(begun(dayMs) - 29 * dayMs), iso(begun(dayMs) + dayMs)]);
});

test("pages follow each other without a gap or a repeat, and a page that is just full is the last", async () => {
  const { alice, get } = service;
  const hours = Array.from({ length: 30 }, (_, n) => now - (now % hourMs) - (30 - n) * hourMs);
  used(hours);
  const asked = `/messaging/usage?from=${iso(hours[0] ?? 0)}&to=${iso(thisHour)}&limit=10`;
  const read: string[] = [];
  let [path, pages] = [asked, 0];
  for (; path !== "" && pages < 9; pages++) {
    const { json } = await get(alice, path);
    read.push(...json.usage.map(({ start }: { start: string }) => start));
    path = json.cursor === undefined ? "" : `${asked}&after=${json.cursor}`;
  }
  expect(pages).toBe(3);
  expect(read).toEqual(hours.map(iso));
});

test.each([
  ["from=2026-08-19T09:30:00.000Z", "/from", "not the beginning of an hour in UTC"],
  ["from=yesterday", "/from", "not the beginning of an hour in UTC"],
  ["to=2026-08-19", "/to", "not the beginning of an hour in UTC"],
  ["granularity=minute", "/granularity", "Invalid option"],
  ["limit=501", "/limit", "more than 500"],
  ["limit=0", "/limit", "not a count"],
  ["after=1", "/after", "not the beginning of an hour in UTC"],
  ["agent_id=x", "/agent_id", "there is no such member"],
  ["from=2026-08-19T09:00:00.000Z&to=2026-08-19T09:00:00.000Z", "/from", "not before to"],
  ["granularity=day&from=2026-08-19T09:00:00.000Z", "/from", "not the beginning of a day in UTC"],
  ["granularity=day&to=2026-08-19T09:00:00.000Z", "/to", "not the beginning of a day in UTC"],
])("%s is refused at %s", async (query, field, detail) => {
  const { status, problem } = await service.get(service.alice, `/messaging/usage?${query}`);
  expect([status, problem.code, problem.field]).toEqual([400, "malformed", field]);
  expect(problem.detail).toContain(detail);
  expect(problem.fix).toBeTruthy();
});

test("operators see any agent's use, and an hour of all agents in pages; nobody else does", async () => {
  const { alice, bob } = service;
  used([thisHour]);
  used([thisHour, thisHour + hourMs], bob.agentId);
  const path = `/ops/agents/${bob.agentId}/usage?from=${iso(thisHour)}&to=${iso(thisHour + 2 * hourMs)}`;
  const of = (await asOperator(path)).json;
  expect(of.usage.map(({ start }: { start: string }) => start)).toEqual([iso(thisHour), iso(thisHour + hourMs)]);
  service.ports.usage.sort((a, b) => (a.agentId < b.agentId ? -1 : 1));
  const first = (await asOperator(`/ops/usage?hour=${iso(thisHour)}&limit=1`)).json;
  const second = (await asOperator(`/ops/usage?hour=${iso(thisHour)}&limit=1&after=${first.cursor}`)).json;
  const agents = [...first.usage, ...second.usage].map(({ agent_id }) => agent_id);
  expect(agents).toEqual([alice.agentId, bob.agentId].toSorted());
  expect(second).not.toHaveProperty("cursor");
  expect((await asOperator("/ops/usage")).problem).toMatchObject({ status: 400, field: "/hour" });
  for (const hidden of [path, `/ops/usage?hour=${iso(thisHour)}`]) {
    expect((await asOperator(hidden, {})).problem.code).toBe("operator-unknown");
    expect((await service.get(alice, hidden)).status).toBe(404);
  }
});

test("while PostgreSQL is away the answer says so", async () => {
  service.ports.away.add("postgres");
  expect((await service.get(service.alice, "/messaging/usage")).problem).toMatchObject({
    status: 503,
    code: "unavailable",
  });
});
