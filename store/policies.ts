/**
 * Policies: whom an agent lets in, as it says itself.
 *
 * Promises: each change and the fact that tells the world are one transaction; the same again changes nothing and is no news. A list has at most `LIST_AGENTS_MAX`.
 * What is decided with them stands in store/permissions.ts.
 */
import { Refusal } from "../protocol/refusal.ts";
import type { AgentChanged } from "../schemas/values.ts";
import { lockAgent } from "./agents.ts";
import { addFact, type Fact } from "./facts.ts";
import type { Policy } from "./permissions.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";

export type PolicyList = "allow" | "block";

export interface PolicySummary {
  readonly policy: Policy;
  /** How many are on each list. */
  readonly allowed: number;
  readonly blocked: number;
}

export interface Listing {
  readonly agentId: string;
  readonly list: PolicyList;
  readonly peerId: string;
}

export interface Page<Entry> {
  readonly entries: readonly Entry[];
  /** There may be more behind the last one. */
  readonly more: boolean;
}

/** Encodes `agent.changed.v1`. */
export type MakeAgentFact = (changed: Omit<AgentChanged, "eventId">) => Fact;

/** More peers than an agent talks with; less than what makes a list of it worth an attack. */
export const LIST_AGENTS_MAX = 10_000;

/** @throws Unavailable */
export async function findPolicy(db: Queryable, agentId: string): Promise<PolicySummary> {
  const { rows } = await db.query<{ policy: Policy | null; allowed: number; blocked: number }>({
    name: "find-policy",
    text: `SELECT (SELECT policy FROM messaging_policies WHERE agent_id = $1) AS policy,
                  (SELECT count(*) FROM messaging_policy_lists WHERE agent_id = $1 AND list = 'allow') AS allowed,
                  (SELECT count(*) FROM messaging_policy_lists WHERE agent_id = $1 AND list = 'block') AS blocked`,
    values: [agentId],
  });
  const [row] = rows;
  return { policy: row?.policy ?? "open", allowed: row?.allowed ?? 0, blocked: row?.blocked ?? 0 };
}

/** @throws Refusal `agent-unknown`; `Unavailable` */
export function setPolicy(
  postgres: Postgres,
  makeFact: MakeAgentFact,
  { agentId, policy }: { readonly agentId: string; readonly policy: Policy },
  now: number,
): Promise<PolicySummary> {
  return inTransaction(postgres, async (client) => {
    const agent = await lockAgent(client, agentId);
    if (agent === null) throw new Refusal("agent-unknown");
    const before = await findPolicy(client, agentId);
    if (before.policy === policy) return before;
    await client.query({
      name: "set-policy",
      text: `INSERT INTO messaging_policies (agent_id, policy, changed_at) VALUES ($1, $2, $3)
             ON CONFLICT (agent_id) DO UPDATE SET policy = excluded.policy, changed_at = excluded.changed_at`,
      values: [agentId, policy, now],
    });
    const changed = {
      agentId,
      change: "policy-changed",
      custody: agent.custody,
      changedAt: now,
      reason: policy,
    } as const;
    await addFact(client, makeFact(changed), now);
    return { ...before, policy };
  });
}

/**
 * Answers whether it was not there before.
 *
 * @throws Refusal `agent-unknown`, `list-full`; `Unavailable`
 */
export function addToList(
  postgres: Postgres,
  makeFact: MakeAgentFact,
  { agentId, list, peerId }: Listing,
  now: number,
): Promise<boolean> {
  return inTransaction(postgres, async (client) => {
    const agent = await lockAgent(client, agentId);
    if (agent === null) throw new Refusal("agent-unknown");
    const { rowCount } = await client.query({
      name: "add-to-list",
      text: `INSERT INTO messaging_policy_lists (agent_id, list, peer_id, added_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
      values: [agentId, list, peerId, now],
    });
    if (rowCount === 0) return false;
    const { allowed, blocked } = await findPolicy(client, agentId);
    if ((list === "allow" ? allowed : blocked) > LIST_AGENTS_MAX) throw new Refusal("list-full");
    await addFact(client, makeFact({ agentId, custody: agent.custody, changedAt: now, peerId, ...added[list] }), now);
    return true;
  });
}

/** Answers whether it was there. @throws Refusal `agent-unknown`; `Unavailable` */
export function takeOffList(
  postgres: Postgres,
  makeFact: MakeAgentFact,
  { agentId, list, peerId }: Listing,
  now: number,
): Promise<boolean> {
  return inTransaction(postgres, async (client) => {
    const agent = await lockAgent(client, agentId);
    if (agent === null) throw new Refusal("agent-unknown");
    const { rowCount } = await client.query({
      name: "take-off-list",
      text: `DELETE FROM messaging_policy_lists WHERE agent_id = $1 AND list = $2 AND peer_id = $3`,
      values: [agentId, list, peerId],
    });
    if (rowCount === 0) return false;
    await addFact(client, makeFact({ agentId, custody: agent.custody, changedAt: now, peerId, ...removed[list] }), now);
    return true;
  });
}

/** Those on a list, by id, behind `after`. @throws Unavailable */
export async function readList(
  db: Queryable,
  { agentId, list, after }: Pick<Listing, "agentId" | "list"> & { readonly after: string },
  limit: number,
): Promise<Page<string>> {
  const { rows } = await db.query<{ peer_id: string }>({
    name: "read-list",
    text: `SELECT peer_id FROM messaging_policy_lists WHERE agent_id = $1 AND list = $2 AND peer_id > $3 ORDER BY peer_id LIMIT $4`,
    values: [agentId, list, after, limit + 1],
  });
  return { entries: rows.slice(0, limit).map((row) => row.peer_id), more: rows.length > limit };
}

/** A place on the allow list is a part of the policy. */
const added = {
  allow: { change: "policy-changed", reason: "allowed" },
  block: { change: "blocked" },
} as const satisfies Record<PolicyList, Pick<AgentChanged, "change" | "reason">>;

const removed = {
  allow: { change: "policy-changed", reason: "not-allowed" },
  block: { change: "unblocked" },
} as const satisfies Record<PolicyList, Pick<AgentChanged, "change" | "reason">>;
