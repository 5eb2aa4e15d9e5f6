/**
 * Hands out a bundle for one initiation, with one-time prekeys for as long as there are any.
 *
 * Promise: a one-time prekey is handed out once. The same request (caller and request id) is answered with the same bundle, whatever the
 * limits say, so that a lost answer costs no key. Nobody can block an agent, or drain it faster than it can fill up: one claimer gets few
 * bundles of it, and over the agent's budget bundles come without one-time prekeys, never as a refusal.
 */
import { CommitUnknown, Unavailable } from "../../protocol/refusal.ts";
import type { Limit, LimitsDoor } from "../../store/limits.ts";
import type { Claim, ClaimedBundle } from "../../store/prekey-claims.ts";
import type { FindAgents } from "../agents.ts";
import type { Caller } from "../auth.ts";
import { type PermissionDeps, requireAllowed } from "../authz/permission.ts";
import { mayBeMessaged } from "../may-message.ts";
import { ApiRefusal } from "../problem.ts";
import type { Counted } from "./counters.ts";

export interface ClaimBundleDeps extends PermissionDeps {
  /** What the same request was answered with. Throws `Unavailable`. */
  readonly findClaim: (claim: Claim) => Promise<ClaimedBundle | null>;
  /** Null when the target has no signed prekey; `repeated` when the same request was answered meanwhile. Throws `Unavailable`. */
  readonly takeBundle: (
    claim: Claim,
    options: { readonly oneTime: boolean },
  ) => Promise<(ClaimedBundle & { readonly repeated: boolean }) | null>;
  readonly limits: LimitsDoor;
  /** Bundles with one-time prekeys that are handed out of one agent. */
  readonly prekeyBudget: Limit;
  readonly findAgents: FindAgents;
  readonly counted: Counted;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface ClaimBundleInput {
  readonly targetId: string;
  /** Names the request among the caller's: 1 to 255 characters. */
  readonly requestId: string;
}

/** A bundle is one session's. A peer that needs more of the same agent in an hour has lost its memory ten times. */
const CLAIMS_PER_PAIR: Limit = { name: "claims", points: 10, seconds: 3_600 };

/** @throws ApiRefusal `recipient-unknown`, `not-allowed`, `prekeys-unavailable`, `rate-limited`; `Unavailable` */
export async function claimBundle(
  deps: ClaimBundleDeps,
  caller: Caller,
  { targetId, requestId }: ClaimBundleInput,
): Promise<ClaimedBundle> {
  const target = (await deps.findAgents([targetId])).get(targetId);
  if (!mayBeMessaged(target)) throw new ApiRefusal("recipient-unknown");
  await requireAllowed(deps, caller, targetId, "claim", "/recipient");
  const claim = { claimerId: caller.agentId, requestId, targetId, now: deps.now() };
  const claimed = (await deps.findClaim(claim)) ?? (await claimAnew(deps, claim));
  deps.counted("bundles_claimed", 1);
  return claimed;
}

async function claimAnew(deps: ClaimBundleDeps, claim: Claim): Promise<ClaimedBundle> {
  const { limits, prekeyBudget } = deps;
  const pair = `${claim.claimerId}:${claim.targetId}`;
  const { allowed, retryAfterMs } = await limits.consume(CLAIMS_PER_PAIR, pair);
  if (!allowed) {
    // The same request may have had the last place, on another connection.
    const earlier = await deps.findClaim(claim);
    if (earlier !== null) return earlier;
    throw new ApiRefusal("rate-limited", { retryAfterMs });
  }
  const budget = await limits
    .consume(prekeyBudget, claim.targetId)
    .catch((error) => giveBackAll(deps, pair, null, error));
  if (!budget.allowed) deps.counted("bundles_over_budget", 1);
  const taken = await deps
    .takeBundle(claim, { oneTime: budget.allowed })
    .catch((error) => giveBackAll(deps, pair, budget.allowed ? claim.targetId : null, error));
  const isNew = taken !== null && !taken.repeated;
  if (!isNew) await limits.giveBack(CLAIMS_PER_PAIR, pair);
  if (budget.allowed && !(isNew && holdsOneTime(taken))) await limits.giveBack(prekeyBudget, claim.targetId);
  if (taken === null) throw new ApiRefusal("prekeys-unavailable");
  return taken;
}

/** An outage is not counted against anybody, unless keys may have been taken. */
async function giveBackAll(
  { limits, prekeyBudget }: Pick<ClaimBundleDeps, "limits" | "prekeyBudget">,
  pair: string,
  targetId: string | null,
  error: unknown,
): Promise<never> {
  if (error instanceof Unavailable && !(error instanceof CommitUnknown)) {
    await limits.giveBack(CLAIMS_PER_PAIR, pair);
    if (targetId !== null) await limits.giveBack(prekeyBudget, targetId);
  }
  throw error;
}

function holdsOneTime({ bundle: { oneTimePrekey, kemPrekey } }: ClaimedBundle): boolean {
  return oneTimePrekey !== null || kemPrekey?.lastResort === false;
}
