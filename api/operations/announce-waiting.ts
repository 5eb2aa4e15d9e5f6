/**
 * Asks for a wake of agents that went and left mail behind: when it was stored they were connected, and nobody asked.
 *
 * Promise: one request for each agent for whom something waits, about the newest of it; none for the others. Whether a wake is outstanding, and how
 * often a device may be woken, is for push to know.
 */
import { type Appender, pushRequest } from "./events.ts";

export interface AnnounceWaitingDeps {
  /** `store/mailbox.ts`. Throws `Unavailable`. */
  readonly newestWaiting: (agentIds: readonly string[]) => Promise<ReadonlyMap<string, number>>;
  /** A few milliseconds of lingering are fine. */
  readonly requests: Appender;
  /** ms since the epoch. */
  readonly now: () => number;
}

/** @throws Unavailable: asked again for the same agents, it is still one wake */
export async function announceWaiting(deps: AnnounceWaitingDeps, agentIds: readonly string[]): Promise<void> {
  const newest = await deps.newestWaiting(agentIds);
  const at = deps.now();
  await deps.requests.append([...newest].map(([agentId, seq]) => pushRequest(agentId, seq, at)));
}
