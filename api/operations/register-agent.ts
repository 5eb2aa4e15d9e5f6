/**
 * Makes an agent of a public key of which the request's signature has proven that the caller holds the private one.
 *
 * Promise: an id exists once, and has the owner that was proven when it was registered; registering it again changes nothing and answers what is there, unless another
 * owner does. `agent.changed.v1` tells it, through the relay, once.
 */
import type { AgentChanged, Custody } from "../../schemas/values.ts";
import { agentEvent } from "../../streams/agent-events.ts";
import type { NewEvent } from "../../streams/headers.ts";
import type { Agent, FindAgents } from "../agents.ts";
import { actorOf, type Owner, type Ownership } from "../owners/ownership.ts";
import { API_SOURCE } from "./events.ts";

export interface RegisterAgentDeps {
  /** Writes the agent and the fact in one transaction, unless the agent exists. Throws `Unavailable`. */
  readonly storeAgent: (agent: {
    readonly agentId: string;
    readonly identityKey: Uint8Array;
    readonly custody: Custody;
    /** Of server custody. */
    readonly held?: { readonly accessKey: Uint8Array; readonly identitySealed: Uint8Array };
    readonly owner: Owner | null;
    readonly now: number;
    readonly fact: NewEvent<AgentChanged>;
  }) => Promise<{ readonly created: boolean }>;
  /** An agent that exists is this owner's, or has none yet and gets this one. Throws `Refusal` `owner-mismatch`; `Unavailable`. */
  readonly claimAgent: (
    claim: { readonly agentId: string; readonly owner: Owner; readonly actor: string },
    now: number,
  ) => Promise<void>;
  readonly ownership: Ownership;
  readonly findAgents: FindAgents;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface Registered {
  readonly agent: Agent;
  readonly created: boolean;
  /** As this registration proved it. */
  readonly owner: Owner | null;
}

/** @throws ApiRefusal of the owner's statement; `Refusal` `owner-mismatch`; `Unavailable` */
export async function registerAgent(
  deps: RegisterAgentDeps,
  caller: { readonly agentId: string; readonly identityKey: Uint8Array },
  input: { readonly custody: Custody; readonly ownerStatement: string | null },
): Promise<Registered> {
  const now = deps.now();
  const { agentId, identityKey } = caller;
  const { custody } = input;
  const owner = await deps.ownership.ownerOfNew(input.ownerStatement, agentId, now);
  const { created } = await deps.storeAgent({
    agentId,
    identityKey,
    custody,
    owner,
    now,
    fact: registered(agentId, custody, owner, now),
  });
  if (created) {
    const agent: Agent = { agentId, identityKey, custody, accessKey: null, status: "active", createdAt: now };
    return { agent, created, owner };
  }
  if (owner !== null) await deps.claimAgent({ agentId, owner, actor: actorOf(owner) }, now);
  const agent = (await deps.findAgents([agentId])).get(agentId);
  if (agent === undefined) throw new Error("an agent that exists was not found");
  return { agent, created, owner };
}

/** `agent.changed.v1` of a new agent. */
export function registered(
  agentId: string,
  custody: Custody,
  owner: Owner | null,
  now: number,
): NewEvent<AgentChanged> {
  const actor = owner === null ? {} : { actor: actorOf(owner) };
  return agentEvent(API_SOURCE, { agentId, change: "registered", custody, changedAt: now, ...actor });
}
