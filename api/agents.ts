/**
 * Who is registered, as the API asks it: for every call at least the caller, for every send the recipients.
 *
 * Promise: an agent that exists is found at once; a change of its status is seen within `FRESH_MS`. An agent that was not found
 * is asked for again every time, so that one that has just registered is never unknown.
 */
import type { Custody } from "../schemas/values.ts";

export interface Agent {
  readonly agentId: string;
  /** Ed25519, 32 bytes; checked when it was registered. */
  readonly identityKey: Uint8Array;
  readonly custody: Custody;
  /** Of server custody: the Ed25519 key that signs its calls, 32 bytes, checked as well; else null. */
  readonly accessKey: Uint8Array | null;
  readonly status: "active" | "suspended" | "revoked";
  /** ms since the epoch. */
  readonly createdAt: number;
}

/** Agents that are not registered are missing from the answer. Throws `Unavailable`. */
export type FindAgents = (agentIds: readonly string[]) => Promise<ReadonlyMap<string, Agent>>;

/** Those of these agents that are suspended or revoked, as of now. Throws `Unavailable`. */
export type FindInactive = (agentIds: readonly string[]) => Promise<ReadonlySet<string>>;

/** Shorter, and every call asks PostgreSQL; longer, and a suspended agent goes on for as long. */
const FRESH_MS = 5_000;

/** Some 300 bytes each: 6 MB. More than are active within `FRESH_MS` at one API process. */
const AGENTS_MAX = 20_000;

/** `find`, remembered for a short time. By a clock that is never set: back by an hour, the wall's would keep what was taken away for as long. */
export function cachedAgents(find: FindAgents, now: () => number = () => performance.now()): FindAgents {
  const known = new Map<string, { readonly agent: Agent; readonly until: number }>();
  return async (agentIds) => {
    const nowMs = now();
    const found = new Map<string, Agent>();
    const missing = new Set<string>();
    for (const agentId of agentIds) {
      const entry = known.get(agentId);
      if (entry !== undefined && entry.until > nowMs) found.set(agentId, entry.agent);
      else missing.add(agentId);
    }
    if (missing.size === 0) return found;
    for (const [agentId, agent] of await find([...missing])) {
      found.set(agentId, agent);
      // Deleted first, so that a Map's insertion order is the order of age.
      known.delete(agentId);
      known.set(agentId, { agent, until: nowMs + FRESH_MS });
    }
    for (const oldest of known.keys()) {
      if (known.size <= AGENTS_MAX) break;
      known.delete(oldest);
    }
    return found;
  };
}
