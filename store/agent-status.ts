/**
 * Who answers for agents, and what they or operators decide about them: which are theirs, suspended, resumed, revoked.
 *
 * Promise: a status and the fact that tells the world are one transaction; revoked is final; an agent has one owner, for good; what an operator has
 * suspended no owner resumes.
 */
import { Refusal } from "../protocol/refusal.ts";
import type { AgentChanged, Custody } from "../schemas/values.ts";
import { type AgentStatus, lockAgent } from "./agents.ts";
import { addFact, type Fact } from "./facts.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";

export interface Owner {
  readonly issuer: string;
  readonly subject: string;
}

export interface AgentSummary {
  readonly agentId: string;
  readonly custody: Custody;
  readonly status: AgentStatus;
  /** ms since the epoch. */
  readonly createdAt: number;
  /** Null: nobody was asked for. */
  readonly owner: Owner | null;
}

/** Encodes `agent.changed.v1`. */
export type MakeAgentFact = (changed: Omit<AgentChanged, "eventId">) => Fact;

export interface StatusChange {
  readonly agentId: string;
  /** Only if it is this owner's; null: whoever's it is. */
  readonly owner: Owner | null;
  readonly to: AgentStatus;
  readonly actor: string;
  readonly reason: string | null;
}

const CHANGES = { active: "resumed", suspended: "suspended", revoked: "revoked" } as const;

/**
 * The same again changes nothing.
 *
 * @returns null when there is no such agent of this owner
 * @throws Refusal `agent-revoked`, `suspended-by-operator`; `Unavailable`
 */
export function changeStatus(
  postgres: Postgres,
  makeFact: MakeAgentFact,
  { agentId, owner, to, actor, reason }: StatusChange,
  now: number,
): Promise<AgentSummary | null> {
  return inTransaction(postgres, async (client) => {
    if ((await lockAgent(client, agentId)) === null) return null;
    const agent = await findSummary(client, agentId);
    if (agent === null || (owner !== null && !isSameOwner(agent.owner, owner))) return null;
    const byOperator = owner === null && to === "suspended";
    if (agent.status === to && (!byOperator || agent.isOperators)) return agent;
    if (agent.status === "revoked") throw new Refusal("agent-revoked");
    if (owner !== null && to === "active" && agent.isOperators) throw new Refusal("suspended-by-operator");
    await client.query({
      name: "change-agent-status",
      text: "UPDATE messaging_agents SET status = $2, suspended_by_operator = $3 WHERE agent_id = $1",
      values: [agentId, to, byOperator || (agent.isOperators && to !== "active")],
    });
    const { custody } = agent;
    await addFact(client, makeFact({ agentId, change: CHANGES[to], custody, changedAt: now, actor, reason }), now);
    return { ...agent, status: to };
  });
}

/**
 * An owner shows that an agent that exists is its own. One that has no owner yet gets this one.
 *
 * @throws Refusal `owner-mismatch`, `agent-unknown`; `Unavailable`
 */
export function claimAgent(
  postgres: Postgres,
  makeFact: MakeAgentFact,
  { agentId, owner, actor }: { readonly agentId: string; readonly owner: Owner; readonly actor: string },
  now: number,
): Promise<void> {
  return inTransaction(postgres, async (client) => {
    if ((await lockAgent(client, agentId)) === null) throw new Refusal("agent-unknown");
    const agent = await findSummary(client, agentId);
    if (agent === null) throw new Refusal("agent-unknown");
    if (agent.owner !== null && !isSameOwner(agent.owner, owner)) throw new Refusal("owner-mismatch");
    if (agent.owner !== null) return;
    await client.query({
      name: "claim-agent",
      text: "UPDATE messaging_agents SET owner_issuer = $2, owner_subject = $3 WHERE agent_id = $1",
      values: [agentId, owner.issuer, owner.subject],
    });
    const { custody } = agent;
    await addFact(client, makeFact({ agentId, change: "owner-set", custody, changedAt: now, actor }), now);
  });
}

export interface AgentFilter {
  readonly owner: Owner | null;
  readonly status: AgentStatus | null;
}

/** In the order of their ids, from after that of the page before. @throws Unavailable */
export async function listAgents(
  db: Queryable,
  { owner, status }: AgentFilter,
  after: string | null,
  limit: number,
): Promise<{ readonly agents: readonly AgentSummary[]; readonly next: string | null }> {
  // A statement each: with one for all, PostgreSQL would read the table in the order of ids for an owner of ten agents.
  const conditions = [
    "agent_id > $1",
    ...(owner === null ? [] : ["owner_issuer = $3 AND owner_subject = $4"]),
    // As the partial index says it.
    ...(status === null
      ? []
      : status === "active"
        ? ["status = 'active'"]
        : [`status <> 'active' AND status = '${status}'`]),
  ];
  const { rows } = await db.query<SummaryRow>({
    name: `list-agents-${owner === null ? "all" : "owned"}-${status ?? "any"}`,
    text: `SELECT ${COLUMNS} FROM messaging_agents WHERE ${conditions.join(" AND ")} ORDER BY agent_id LIMIT $2`,
    values: [after ?? "", limit + 1, ...(owner === null ? [] : [owner.issuer, owner.subject])],
  });
  const agents = rows.slice(0, limit).map(summaryOf);
  return { agents, next: rows.length > limit ? (agents.at(-1)?.agentId ?? null) : null };
}

function isSameOwner(one: Owner | null, other: Owner): boolean {
  return one?.issuer === other.issuer && one.subject === other.subject;
}

const COLUMNS = "agent_id, custody, status, created_at, owner_issuer, owner_subject";

/** With whether an operator has suspended it. */
async function findSummary(
  db: Queryable,
  agentId: string,
): Promise<(AgentSummary & { readonly isOperators: boolean }) | null> {
  const { rows } = await db.query<SummaryRow & { readonly suspended_by_operator: boolean }>({
    name: "find-agent-summary",
    text: `SELECT ${COLUMNS}, suspended_by_operator FROM messaging_agents WHERE agent_id = $1`,
    values: [agentId],
  });
  const [row] = rows;
  return row === undefined ? null : { ...summaryOf(row), isOperators: row.suspended_by_operator };
}

interface SummaryRow {
  readonly agent_id: string;
  readonly custody: Custody;
  readonly status: AgentStatus;
  readonly created_at: number;
  readonly owner_issuer: string | null;
  readonly owner_subject: string | null;
}

function summaryOf(row: SummaryRow): AgentSummary {
  const { owner_issuer: issuer, owner_subject: subject } = row;
  return {
    agentId: row.agent_id,
    custody: row.custody,
    status: row.status,
    createdAt: row.created_at,
    owner: issuer === null || subject === null ? null : { issuer, subject },
  };
}
