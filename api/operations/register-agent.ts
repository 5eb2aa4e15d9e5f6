/**
 * Makes an agent of a public key whose owner has proven, by the request's signature, to hold the private one.
 *
 * Promise: an id exists once; registering it again changes nothing and answers what is there. `agent.changed.v1` tells it, through the
 * relay, once.
 */
import { randomUUID } from "node:crypto";
import type { AgentChanged, Custody } from "../../schemas/values.ts";
import { agentChanged } from "../../streams/catalogue.ts";
import type { NewEvent } from "../../streams/headers.ts";
import type { Agent, FindAgents } from "../agents.ts";
import { API_SOURCE } from "./events.ts";

export interface RegisterAgentDeps {
  /** Writes the agent and the fact in one transaction, unless the agent exists. Throws `Unavailable`. */
  readonly storeAgent: (agent: {
    readonly agentId: string;
    readonly identityKey: Uint8Array;
    readonly custody: Custody;
    /** Of server custody. */
    readonly held?: { readonly accessKey: Uint8Array; readonly identitySealed: Uint8Array };
    readonly now: number;
    readonly fact: NewEvent<AgentChanged>;
  }) => Promise<{ readonly created: boolean }>;
  readonly findAgents: FindAgents;
  /** ms since the epoch. */
  readonly now: () => number;
}

/** @throws Unavailable */
export async function registerAgent(
  deps: RegisterAgentDeps,
  caller: { readonly agentId: string; readonly identityKey: Uint8Array },
  input: { readonly custody: Custody },
): Promise<{ readonly agent: Agent; readonly created: boolean }> {
  const now = deps.now();
  const { agentId, identityKey } = caller;
  const { custody } = input;
  const { created } = await deps.storeAgent({
    agentId,
    identityKey,
    custody,
    now,
    fact: registered(agentId, custody, now),
  });
  if (created)
    return { agent: { agentId, identityKey, custody, accessKey: null, status: "active", createdAt: now }, created };
  const agent = (await deps.findAgents([agentId])).get(agentId);
  if (agent === undefined) throw new Error("an agent that exists was not found");
  return { agent, created };
}

/** `agent.changed.v1` of a new agent. */
export function registered(agentId: string, custody: Custody, now: number): NewEvent<AgentChanged> {
  const eventId = randomUUID();
  return {
    topic: agentChanged,
    key: agentId,
    id: eventId,
    source: API_SOURCE,
    subject: agentId,
    time: now,
    value: { eventId, agentId, change: "registered", custody, changedAt: now },
  };
}
