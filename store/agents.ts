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
  /** Of server custody: the Ed25519 key that signs the agent's calls, 32 bytes; else null. */
  readonly accessKey: Uint8Array | null;
  readonly status: AgentStatus;
  /** ms since the epoch. */
  readonly createdAt: number;
}

export interface Registration {
  readonly agentId: string;
  readonly identityKey: Uint8Array;
  readonly custody: Custody;
  /** Of server custody only. */
  readonly held?: { readonly accessKey: Uint8Array; readonly identitySealed: Uint8Array };
  /** Who answers for it; absent or null: nobody. */
  readonly owner?: { readonly issuer: string; readonly subject: string } | null;
  /** ms since the epoch. */
  readonly now: number;
  /** `agent.changed.v1`, encoded. */
  readonly fact: Fact;
}

/**
 * Registers an agent; a repetition changes nothing, whatever it says.
 *
 * @returns whether the agent is new: neither its id nor its access key is taken. The caller has checked that the id is the thumbprint of the key.
 */
export function registerAgent(postgres: Postgres, registration: Registration): Promise<{ created: boolean }> {
  return inTransaction(postgres, async (client) => {
    const { rowCount } = await client.query({
      name: "register-agent",
      text: `INSERT INTO messaging_agents
               (agent_id, identity_key, custody, created_at, access_key, identity_sealed, owner_issuer, owner_subject)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`,
      values: [
        registration.agentId,
        registration.identityKey,
        registration.custody,
        registration.now,
        registration.held?.accessKey ?? null,
        registration.held?.identitySealed ?? null,
        registration.owner?.issuer ?? null,
        registration.owner?.subject ?? null,
      ],
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
    text: `SELECT agent_id, identity_key, custody, access_key, status, created_at FROM messaging_agents WHERE agent_id = ANY($1)`,
    values: [agentIds],
  });
  return new Map(rows.map((row) => [row.agent_id, agentOf(row)]));
}

/** Those of these agents that are suspended or revoked. Unknown ones are not among them. */
export async function findInactive(db: Queryable, agentIds: readonly string[]): Promise<ReadonlySet<string>> {
  const { rows } = await db.query<{ agent_id: string }>({
    name: "find-inactive",
    text: `SELECT agent_id FROM messaging_agents WHERE status <> 'active' AND agent_id = ANY($1)`,
    values: [agentIds],
  });
  return new Set(rows.map((row) => row.agent_id));
}

/** The agent of server custody whose calls this key signs, or null. */
export async function findAgentOfAccessKey(db: Queryable, accessKey: Uint8Array): Promise<Agent | null> {
  const { rows } = await db.query<AgentRow>({
    name: "find-agent-of-access-key",
    text: `SELECT agent_id, identity_key, custody, access_key, status, created_at FROM messaging_agents WHERE access_key = $1`,
    values: [accessKey],
  });
  const [row] = rows;
  return row === undefined ? null : agentOf(row);
}

/** The sealed seeds of those of these agents that are of server custody. */
export async function findSealedIdentities(
  db: Queryable,
  agentIds: readonly string[],
): Promise<ReadonlyMap<string, Uint8Array>> {
  if (agentIds.length === 0) return new Map();
  const { rows } = await db.query<{ agent_id: string; identity_sealed: Uint8Array }>({
    name: "find-sealed-identities",
    text: `SELECT agent_id, identity_sealed FROM messaging_agents WHERE agent_id = ANY($1) AND identity_sealed IS NOT NULL`,
    values: [agentIds],
  });
  return new Map(rows.map((row) => [row.agent_id, row.identity_sealed]));
}

interface AgentRow {
  readonly agent_id: string;
  readonly identity_key: Uint8Array;
  readonly custody: Custody;
  readonly access_key: Uint8Array | null;
  readonly status: AgentStatus;
  readonly created_at: number;
}

function agentOf(row: AgentRow): Agent {
  return {
    agentId: row.agent_id,
    identityKey: row.identity_key,
    custody: row.custody,
    accessKey: row.access_key,
    status: row.status,
    createdAt: row.created_at,
  };
}
