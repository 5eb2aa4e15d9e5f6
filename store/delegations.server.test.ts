import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openSampleDatabase, sampleAgentId } from "../tests/messaging.ts";
import { insertAgents } from "../tests/stocked-agents.ts";
import { isRevoked, revokeDelegation } from "./delegations.ts";
import type { Postgres } from "./postgres.ts";

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase(2);
});
afterAll(() => postgres.close());

async function someAgent(): Promise<string> {
  const agentId = sampleAgentId();
  await insertAgents(postgres, [{ agentId }], "agent", 1);
  return agentId;
}

function revoke(issuerId: string, tokenId: string, revokedAt: number): Promise<number> {
  const fact = { id: randomUUID(), topic: "agent.changed.v1", key: issuerId, value: Buffer.of(1), headers: {} };
  return revokeDelegation(postgres, { issuerId, tokenId, revokedAt }, fact);
}

async function factsOf(key: string): Promise<number> {
  const { rows } = await postgres.query<{ n: number }>({
    text: "SELECT count(*)::int AS n FROM facts WHERE key = $1",
    values: [key],
  });
  return rows[0]?.n ?? 0;
}

test("a delegation is revoked once, told once, and only its issuer's", async () => {
  const [issuerId, otherId] = [await someAgent(), await someAgent()];
  const tokenId = randomUUID();
  expect(await isRevoked(postgres, [{ issuerId, tokenId }])).toBe(false);
  expect(await revoke(issuerId, tokenId, 1_000)).toBe(1_000);
  expect(await revoke(issuerId, tokenId, 2_000)).toBe(1_000);
  expect(await factsOf(issuerId)).toBe(1);
  const unheard = { issuerId, tokenId: randomUUID() };
  expect(await isRevoked(postgres, [unheard, { issuerId, tokenId }])).toBe(true);
  expect(await isRevoked(postgres, [unheard, { issuerId: otherId, tokenId }])).toBe(false);
});

test("a revocation is not forgotten, however many years and revocations come after it", async () => {
  const issuerId = await someAgent();
  const tokenId = randomUUID();
  await revoke(issuerId, tokenId, 1_000);
  await revoke(issuerId, randomUUID(), 1_000_000_000_000);
  expect(await isRevoked(postgres, [{ issuerId, tokenId }])).toBe(true);
});

test("an agent that is not there revokes nothing", async () => {
  await expect(revoke(sampleAgentId(), randomUUID(), 1)).rejects.toMatchObject({ code: "agent-unknown" });
});
