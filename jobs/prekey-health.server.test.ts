import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { DAY_MS } from "../protocol/limits.ts";
import type { Postgres } from "../store/postgres.ts";
import { readPrekeyHealth } from "../store/prekey-health.ts";
import { openSampleDatabase, sampleAgentId } from "../tests/messaging.ts";
import { insertAgents, insertPrekeys } from "../tests/stocked-agents.ts";
import { measurePrekeyHealth } from "./prekey-health.ts";

const now = Date.UTC(2026, 5, 1);
const { signal } = new AbortController();

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

async function addAgents(count: number, stock: { signedAgeMs: number | null; oneTime: number; oneTimeAgeMs?: number }) {
  const agents = Array.from({ length: count }, () => ({ agentId: sampleAgentId() }));
  await insertAgents(postgres, agents, "agent", now);
  const each = (many: number) =>
    agents.flatMap((agent) => Array.from({ length: many }, () => ({ ...agent, id: randomUUID() })));
  if (stock.signedAgeMs !== null) await insertPrekeys(postgres, "signed", now - stock.signedAgeMs, each(1));
  await insertPrekeys(postgres, "one-time", now - (stock.oneTimeAgeMs ?? 1), each(stock.oneTime));
  return agents;
}

test("agents with few one-time prekeys and with old signed prekeys are counted over all pages, and the last count is kept", async () => {
  expect(await readPrekeyHealth(postgres)).toBeNull();
  await addAgents(1_100, { signedAgeMs: DAY_MS, oneTime: 10 });
  await addAgents(3, { signedAgeMs: DAY_MS, oneTime: 9 });
  await addAgents(2, { signedAgeMs: 8 * DAY_MS, oneTime: 0 });
  await addAgents(1, { signedAgeMs: 31 * DAY_MS, oneTime: 50, oneTimeAgeMs: 31 * DAY_MS });
  await addAgents(5, { signedAgeMs: null, oneTime: 0 });
  const [suspended] = await addAgents(1, { signedAgeMs: 31 * DAY_MS, oneTime: 0 });
  await postgres.query({
    text: "UPDATE messaging_agents SET status = 'suspended' WHERE agent_id = $1",
    values: [suspended?.agentId],
  });
  await measurePrekeyHealth(postgres, now, signal);
  expect(await readPrekeyHealth(postgres)).toEqual({ low: 6, older7Days: 3, older30Days: 1 });
  await measurePrekeyHealth(postgres, now + 30 * DAY_MS, signal);
  expect(await readPrekeyHealth(postgres)).toEqual({ low: 1_106, older7Days: 1_106, older30Days: 1_106 });
});

test("a count that was ended leaves the last one", async () => {
  const before = await readPrekeyHealth(postgres);
  await measurePrekeyHealth(postgres, now, AbortSignal.abort());
  expect(await readPrekeyHealth(postgres)).toEqual(before);
});
