import { afterAll, beforeAll, expect, test } from "vitest";
import { DAY_MS } from "../protocol/limits.ts";
import type { Postgres } from "../store/postgres.ts";
import { readPrekeyHealth } from "../store/prekey-health.ts";
import { openSampleDatabase, sampleAgentId } from "../tests/messaging.ts";
import { measurePrekeyHealth } from "./prekey-health.ts";

const now = Date.UTC(2026, 5, 1);
const { signal } = new AbortController();

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

async function addAgents(count: number, stock: { signedAgeMs: number | null; oneTime: number; oneTimeAgeMs?: number }) {
  const ids = Array.from({ length: count }, sampleAgentId);
  await postgres.query({
    text: `INSERT INTO messaging_agents (agent_id, identity_key, custody, created_at)
           SELECT id, '\\x00', 'agent', $2 FROM unnest($1::text[]) AS i (id)`,
    values: [ids, now],
  });
  const add = (type: string, createdAt: number, each: number) =>
    postgres.query({
      text: `INSERT INTO messaging_prekeys (agent_id, prekey_id, key_type, public_key, status, created_at)
             SELECT id, gen_random_uuid(), $2, '\\x00', 'ACTIVE', $3
             FROM unnest($1::text[]) AS i (id), generate_series(1, $4::int)`,
      values: [ids, type, createdAt, each],
    });
  if (stock.signedAgeMs !== null) await add("signed", now - stock.signedAgeMs, 1);
  await add("one-time", now - (stock.oneTimeAgeMs ?? 1), stock.oneTime);
  return ids;
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
    values: [suspended],
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
