import { randomBytes, randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openSampleDatabase, sampleAgentId } from "../tests/messaging.ts";
import { findAgents, findInactive, registerAgent } from "./agents.ts";
import type { Postgres } from "./postgres.ts";

const now = 1_800_000_000_000;

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

function register(agentId: string) {
  const fact = { id: randomUUID(), topic: "agent.changed.v1", key: agentId, value: Uint8Array.of(1), headers: {} };
  return registerAgent(postgres, { agentId, identityKey: randomBytes(32), custody: "agent", now, fact });
}

describe("agents", () => {
  test("an agent is registered once; later registrations change nothing and tell nobody", async () => {
    const agentId = sampleAgentId();
    expect(await register(agentId)).toEqual({ created: true });
    const first = await findAgents(postgres, [agentId]);
    expect(first.get(agentId)).toMatchObject({ agentId, custody: "agent", status: "active", createdAt: now });
    expect(await register(agentId)).toEqual({ created: false });
    expect(await findAgents(postgres, [agentId])).toEqual(first);
    const { rowCount } = await postgres.query({ text: "SELECT FROM facts WHERE key = $1", values: [agentId] });
    expect(rowCount).toBe(1);
  });

  test("registrations of one agent at the same moment create it once", async () => {
    const agentId = sampleAgentId();
    const answers = await Promise.all([1, 2, 3, 4, 5].map(() => register(agentId)));
    expect(answers.filter(({ created }) => created)).toHaveLength(1);
  });

  test("only those that exist are found", async () => {
    const agentId = sampleAgentId();
    await register(agentId);
    expect([...(await findAgents(postgres, [sampleAgentId(), agentId, sampleAgentId()])).keys()]).toEqual([agentId]);
    expect(await findAgents(postgres, [])).toEqual(new Map());
  });

  test("those that are suspended or revoked are found among others, active and unknown ones are not", async () => {
    const [active, suspended, revoked, unknown] = [sampleAgentId(), sampleAgentId(), sampleAgentId(), sampleAgentId()];
    for (const agentId of [active, suspended, revoked]) await register(agentId);
    await postgres.query({
      text: "UPDATE messaging_agents SET status = 'suspended' WHERE agent_id = $1",
      values: [suspended],
    });
    await postgres.query({
      text: "UPDATE messaging_agents SET status = 'revoked' WHERE agent_id = $1",
      values: [revoked],
    });
    const found = await findInactive(postgres, [active, suspended, revoked, unknown]);
    expect(found).toEqual(new Set([suspended, revoked]));
  });
});
