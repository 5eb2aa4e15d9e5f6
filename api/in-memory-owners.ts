/**
 * The ports of owners and signing keys in memory, for tests.
 */
import { Refusal } from "../protocol/refusal.ts";
import type { AgentSummary } from "../store/agent-status.ts";
import { type SigningKey, signingKeysMax } from "../store/signing-keys.ts";
import type { Agent } from "./agents.ts";
import type { ManageAgentsDeps } from "./operations/manage-agents.ts";
import type { RegisterAgentDeps } from "./operations/register-agent.ts";
import type { SigningKeysDeps } from "./operations/signing-keys.ts";
import type { Owner } from "./owners/ownership.ts";
import type { FindSigningKey } from "./signing-keys.ts";
import type { StandingDeps } from "./standing.ts";

export interface InMemoryOwners {
  /** By agent. */
  readonly owners: Map<string, Owner>;
  /** What was decided, and by whom. */
  readonly decisions: {
    readonly agentId: string;
    readonly to: string;
    readonly actor: string;
    readonly reason: string | null;
  }[];
  /** By key id; removed ones stay. */
  readonly signingKeys: Map<string, SigningKey & { readonly removed: boolean }>;
}

type Ports = Omit<SigningKeysDeps & ManageAgentsDeps, "limits" | "now" | "findAgents"> &
  Pick<RegisterAgentDeps, "claimAgent"> & { readonly findSigningKey: FindSigningKey } & Pick<
    StandingDeps,
    "findEndedKeys"
  >;

export function inMemoryOwners(
  { owners, decisions, signingKeys }: InMemoryOwners,
  agents: Map<string, Agent>,
  need: (door: "postgres") => void,
): Ports {
  const summaryOf = ({ agentId, custody, status, createdAt }: Agent): AgentSummary => ({
    ...{ agentId, custody, status, createdAt },
    owner: owners.get(agentId) ?? null,
  });
  const suspendedByOperator = new Set<string>();
  const isOf = (agentId: string, owner: Owner) => {
    const own = owners.get(agentId);
    return own?.issuer === owner.issuer && own.subject === owner.subject;
  };
  const inForce = (key: SigningKey & { readonly removed: boolean }, now: number) => !key.removed && key.notAfter > now;
  return {
    claimAgent: async ({ agentId, owner }) => {
      need("postgres");
      if (owners.has(agentId) && !isOf(agentId, owner)) throw new Refusal("owner-mismatch");
      owners.set(agentId, owner);
    },
    changeStatus: async ({ agentId, owner, to, actor, reason }) => {
      need("postgres");
      const agent = agents.get(agentId);
      if (agent === undefined || (owner !== null && !isOf(agentId, owner))) return null;
      const byOperator = owner === null && to === "suspended";
      if (agent.status === to && (!byOperator || suspendedByOperator.has(agentId))) return summaryOf(agent);
      if (agent.status === "revoked") throw new Refusal("agent-revoked");
      if (owner !== null && to === "active" && suspendedByOperator.has(agentId)) {
        throw new Refusal("suspended-by-operator");
      }
      if (byOperator) suspendedByOperator.add(agentId);
      else if (to === "active") suspendedByOperator.delete(agentId);
      agents.set(agentId, { ...agent, status: to });
      decisions.push({ agentId, to, actor, reason });
      return summaryOf({ ...agent, status: to });
    },
    listAgents: async ({ owner, status }, after, limit) => {
      need("postgres");
      const all = [...agents.values()]
        .filter((agent) => owner === null || isOf(agent.agentId, owner))
        .filter((agent) => (status ?? agent.status) === agent.status && agent.agentId > (after ?? ""))
        .sort((one, other) => (one.agentId < other.agentId ? -1 : 1));
      const page = all.slice(0, limit).map(summaryOf);
      return { agents: page, next: all.length > limit ? (page.at(-1)?.agentId ?? null) : null };
    },
    findSigningKey: async (keyId) => {
      need("postgres");
      const key = signingKeys.get(keyId);
      if (key === undefined) return null;
      return inForce(key, Date.now()) ? key : "ended";
    },
    findEndedKeys: async (keyIds) => {
      need("postgres");
      const live = [...signingKeys.values()].filter((key) => inForce(key, Date.now())).map(({ keyId }) => keyId);
      return new Set(keyIds.filter((keyId) => !live.includes(keyId)));
    },
    putSigningKey: async ({ certificate: _, ...key }, now) => {
      need("postgres");
      const before = signingKeys.get(key.keyId);
      if (before?.removed === true) throw new Refusal("signing-key-removed");
      if (before !== undefined && key.notAfter < before.notAfter) throw new Refusal("signing-key-shorter");
      if (agents.has(key.keyId) || (before ?? key).agentId !== key.agentId) throw new Refusal("signing-key-taken");
      const count = [...signingKeys.values()].filter((one) => one.agentId === key.agentId && inForce(one, now)).length;
      if (before === undefined && count >= signingKeysMax) throw new Refusal("signing-keys-full");
      const stored = { ...key, createdAt: before?.createdAt ?? now, removed: false };
      signingKeys.set(key.keyId, stored);
      return { key: stored, created: before === undefined };
    },
    removeSigningKey: async ({ agentId, keyId }, now) => {
      need("postgres");
      const key = signingKeys.get(keyId);
      if (key?.agentId !== agentId || key.removed) return false;
      signingKeys.set(keyId, { ...key, removed: true });
      return inForce(key, now);
    },
    listSigningKeys: async (agentId, now) => {
      need("postgres");
      return [...signingKeys.values()].filter((key) => key.agentId === agentId && inForce(key, now));
    },
  };
}
