/**
 * Takes a delegation back.
 *
 * Promise: an agent revokes its own only, wherever they stand in a chain, whether the service has seen them or not. When this is answered it is
 * durable, and within 5 s no chain with that link is taken any more. `agent.changed.v1` tells it once.
 */
import { Unavailable } from "../../protocol/refusal.ts";
import type { AgentChanged } from "../../schemas/values.ts";
import type { Revocation } from "../../store/delegations.ts";
import type { Limit, LimitsDoor } from "../../store/limits.ts";
import { agentEvent } from "../../streams/agent-events.ts";
import type { NewEvent } from "../../streams/headers.ts";
import type { Authenticated } from "../auth.ts";
import { ApiRefusal } from "../problem.ts";
import { API_SOURCE } from "./events.ts";

export interface RevokeDelegationDeps {
  /** In one transaction with its fact. When it was revoked first. Throws `Unavailable`. */
  readonly storeRevocation: (revocation: Revocation, fact: NewEvent<AgentChanged>) => Promise<number>;
  readonly limits: LimitsDoor;
  /** ms since the epoch. */
  readonly now: () => number;
}

/** Who delegates has tens of tokens; each revocation is a row for good and a fact for the world. */
const REVOCATIONS_PER_HOUR: Limit = { name: "revocations", points: 600, seconds: 3_600 };

/** When it was revoked, ms. @throws ApiRefusal `rate-limited`; `Unavailable` */
export async function revokeDelegation(
  deps: RevokeDelegationDeps,
  { agentId, custody }: Authenticated,
  tokenId: string,
): Promise<number> {
  await checkLimit(deps, agentId);
  const now = deps.now();
  const revocation = { issuerId: agentId, tokenId, revokedAt: now };
  const change = { agentId, change: "delegation-revoked", custody, changedAt: now, tokenId } as const;
  return deps.storeRevocation(revocation, agentEvent(API_SOURCE, change));
}

/** Nobody waits for Redis to take something back. */
async function checkLimit({ limits }: RevokeDelegationDeps, agentId: string): Promise<void> {
  try {
    const { allowed, retryAfterMs } = await limits.consume(REVOCATIONS_PER_HOUR, agentId);
    if (!allowed) throw new ApiRefusal("rate-limited", { retryAfterMs });
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
  }
}
