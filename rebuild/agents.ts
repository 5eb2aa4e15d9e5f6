/**
 * Who is registered, and in which state: the public part of `messaging_agents`, folded from what is told of agents; and of `messaging_prekeys` what was
 * handed out and must not be handed out again. Pure.
 *
 * The log holds no key. An agent's id is the thumbprint of its identity key, so the key that a row holds is checked all the same.
 */
import type { AgentChanged } from "../schemas/values.ts";
import { agentChanged, prekeyClaimed } from "../streams/catalogue.ts";
import { type Fold, type FoldedRow, on, onlyOnce } from "./folding.ts";

interface Agent {
  readonly custody: string;
  readonly createdAt: number;
  readonly status: string;
  readonly owner: string | null;
}

const statuses: Partial<Record<AgentChanged["change"], string>> = {
  resumed: "active",
  suspended: "suspended",
  revoked: "revoked",
};

export function foldAgents(): Fold {
  const agents = new Map<string, Agent>();
  const isNew = onlyOnce();
  return {
    handlers: [
      on(agentChanged, (record) => {
        if (!isNew(record)) return;
        const { agentId } = record.value;
        const changed = agentAfter(agents.get(agentId), record.value);
        if (changed !== undefined) agents.set(agentId, changed);
      }),
    ],
    tables: () => {
      const rows = new Map(Array.from(agents, ([agentId, agent]) => [agentId, rowOf(agentId, agent)]));
      return [{ table: "messaging_agents", reads: [agentChanged], rows, says: "rows" }];
    },
  };
}

/** Of one whose registration is not in the log any more nothing is known. */
function agentAfter(agent: Agent | undefined, changed: AgentChanged): Agent | undefined {
  const { change, custody, changedAt: createdAt, actor } = changed;
  const owner = actor?.startsWith("owner:") ? actor : null;
  if (change === "registered") return { custody, createdAt, status: "active", owner };
  if (agent === undefined) return undefined;
  if (change === "owner-set") return { ...agent, owner };
  return { ...agent, status: statuses[change] ?? agent.status };
}

function rowOf(agentId: string, { custody, createdAt, status, owner }: Agent): FoldedRow {
  const columns = { custody, status, created_at: createdAt, owner, thumbprint: agentId };
  return { since: createdAt, columns };
}

export function foldPrekeyClaims(): Fold {
  const claimed = new Map<string, FoldedRow>();
  return {
    handlers: [
      on(prekeyClaimed, ({ value: { agentId, oneTimePrekeyId, kemPrekeyId, claimedAt: since } }) => {
        for (const prekeyId of [oneTimePrekeyId, kemPrekeyId]) {
          if (prekeyId !== null) claimed.set(`${agentId}/${prekeyId}`, { since, columns: { status: "USED" } });
        }
      }),
    ],
    tables: () => [{ table: "messaging_prekeys", reads: [prekeyClaimed], rows: claimed, says: "claims" }],
  };
}
