/**
 * What owners and operators decide about agents.
 *
 * Promise: an owner sees and touches its own agents only, and is not told of others that they exist. A suspended or revoked agent's calls are
 * refused, and its streams closed, within five seconds; revoked is final. Each decision is a fact that names who took it and why.
 */
import type { AgentFilter, AgentSummary, StatusChange } from "../../store/agent-status.ts";
import { actorOf, type Owner } from "../owners/ownership.ts";
import { ApiRefusal } from "../problem.ts";

export interface ManageAgentsDeps {
  /** In one transaction with its fact; null when there is no such agent of this owner. Throws `Refusal` `agent-revoked`; `Unavailable`. */
  readonly changeStatus: (change: StatusChange, now: number) => Promise<AgentSummary | null>;
  /** In the order of their ids. Throws `Unavailable`. */
  readonly listAgents: (
    filter: AgentFilter,
    after: string | null,
    limit: number,
  ) => Promise<{ readonly agents: readonly AgentSummary[]; readonly next: string | null }>;
  /** ms since the epoch. */
  readonly now: () => number;
}

export const AGENTS_PAGE_MAX = 1_000;

/** Who decides: an owner, about its own; null: an operator, about all. */
export type Decider = Owner | null;

export interface Decision extends Pick<StatusChange, "agentId" | "to"> {
  readonly reason: string;
}

/** @throws ApiRefusal `no-such-agent`; `Refusal` `agent-revoked`; `Unavailable` */
export async function decide(deps: ManageAgentsDeps, decider: Decider, decision: Decision): Promise<AgentSummary> {
  const actor = decider === null ? "operator" : actorOf(decider);
  const agent = await deps.changeStatus({ ...decision, owner: decider, actor }, deps.now());
  if (agent === null) throw new ApiRefusal("no-such-agent", { field: "id" });
  return agent;
}
