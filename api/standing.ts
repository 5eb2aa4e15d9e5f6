/**
 * Whether who was let in may still act: a signature is checked once, at the beginning of a stream or of a call that waits.
 */
import type { FindInactive } from "./agents.ts";
import type { Caller } from "./auth.ts";
import { ApiRefusal } from "./problem.ts";

export interface StandingDeps {
  readonly findInactive: FindInactive;
  /** Those of these signing keys that were removed or have ended, as of now. Throws `Unavailable`. */
  readonly findEndedKeys: (keyIds: readonly string[]) => Promise<ReadonlySet<string>>;
}

/** Why somebody may not act any more. */
export type Fall = "agent-suspended" | "signing-key-ended";

/** Those of these that may not act any more: their agent is suspended or revoked, or the key they came by is no more. Throws `Unavailable`. */
export async function findFallen<One extends Caller>(
  { findInactive, findEndedKeys }: StandingDeps,
  callers: readonly One[],
): Promise<ReadonlyMap<One, Fall>> {
  const keyIds = callers.flatMap(({ signingKeyId }) => signingKeyId ?? []);
  const [inactive, ended] = await Promise.all([
    findInactive(callers.map(({ agentId }) => agentId)),
    keyIds.length === 0 ? new Set<string>() : findEndedKeys(keyIds),
  ]);
  const fallen = new Map<One, Fall>();
  for (const caller of callers) {
    const { agentId, signingKeyId } = caller;
    if (inactive.has(agentId)) fallen.set(caller, "agent-suspended");
    else if (signingKeyId !== undefined && ended.has(signingKeyId)) fallen.set(caller, "signing-key-ended");
  }
  return fallen;
}

/** Of a call that has waited. @throws ApiRefusal `agent-suspended`, `signing-key-ended`; `Unavailable` */
export async function requireStanding(deps: StandingDeps, caller: Caller): Promise<void> {
  const why = (await findFallen(deps, [caller])).get(caller);
  if (why !== undefined) throw new ApiRefusal(why);
}
