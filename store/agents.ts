/**
 * Agents: who exists, by which identity key, in which state.
 *
 * Promise: an agent is registered once; its registration and the fact that tells the world are one transaction.
 */
import type { Custody } from "../schemas/values.ts";
import { addFact, type Fact } from "./facts.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";

export type AgentStatus = "active" | "suspended" | "revoked";

export interface Agent {
  readonly agentId: string;
  /** Ed25519, 32 bytes. */
  readonly identityKey: Uint8Array;
  readonly custody: Custody;
  readonly status: AgentStatus;
  /** ms since the epoch. */
  readonly createdAt: number;
}

export interface Registration {
  readonly agentId: string;
  readonly identityKey: Uint8Array;
  readonly custody: Custody;
  /** ms since the epoch. */
  readonly now: number;
  /** `agent.changed.v1`, encoded. */
  readonly fact: Fact;
}

/**
 * Registers an agent; a repetition changes nothing, whatever it says.
 *
 * @returns whether the agent is new. The caller has checked that the id is the thumbprint of the key.
 */
export function registerAgent(postgres: Postgres, registration: Registration): Promise<{ created: boolean }> {
  return inTransaction(postgres, async (client) => {
    const { rowCount } = await client.query({
      name: "register-agent",
      text: `INSERT INTO messaging_agents (agent_id, identity_key, custody, created_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (agent_id) DO NOTHING`,
      values: [registration.agentId, registration.identityKey, registration.custody, registration.now],
    });
    if (rowCount === 0) return { created: false };
    await addFact(client, registration.fact);
    return { created: true };
  });
}

/**
 * Locks an agent until the transaction ends; null when there is none. Whoever changes what belongs to an agent, or adds a fact about it,
 * holds this lock: changes happen one after the other, and the order of facts is the order of commits.
 *
 * After waiting, only the next statement sees what the one waited for has done.
 */
export async function lockAgent(client: Queryable, agentId: string): Promise<{ readonly custody: Custody } | null> {
  const { rows } = await client.query<{ custody: Custody }>({
    name: "lock-agent",
    text: "SELECT custody FROM messaging_agents WHERE agent_id = $1 FOR NO KEY UPDATE",
    values: [agentId],
  });
  return rows[0] ?? null;
}

/** The agents of these ids that exist. */
export async function findAgents(db: Queryable, agentIds: readonly string[]): Promise<ReadonlyMap<string, Agent>> {
  const { rows } = await db.query<AgentRow>({
    name: "find-agents",
    text: `SELECT agent_id, identity_key, custody, status, created_at FROM messaging_agents WHERE agent_id = ANY($1)`,
    values: [agentIds],
  });
  return new Map(rows.map((row) => [row.agent_id, agentOf(row)]));
}

interface AgentRow {
  readonly agent_id: string;
  readonly identity_key: Uint8Array;
  readonly custody: Custody;
  readonly status: AgentStatus;
  readonly created_at: number;
}

function agentOf(row: AgentRow): Agent {
  return {
    agentId: row.agent_id,
    identityKey: row.identity_key,
    custody: row.custody,
    status: row.status,
    createdAt: row.created_at,
  };
}
