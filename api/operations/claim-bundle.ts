/**
 * Hands out a bundle for one initiation, with a one-time prekey for as long as there are any.
 *
 * Promise: a one-time prekey is handed out once. The same request (caller and request id) is answered with the same bundle, so that a
 * lost answer costs no key.
 */
import type { Bundle } from "../../protocol/prekeys.ts";
import type { FindAgents } from "../agents.ts";
import type { Caller } from "../auth.ts";
import { ApiRefusal } from "../problem.ts";
import type { Counted } from "./counters.ts";

export type ClaimedBundle = Omit<Bundle, "kemPrekey"> & { readonly oneTimePrekeysRemaining: number };

export interface ClaimBundleDeps {
  /** Null when the target has no signed prekey. Throws `Unavailable`. */
  readonly claimPrekeys: (claim: {
    readonly claimerId: string;
    readonly requestId: string;
    readonly targetId: string;
    readonly now: number;
  }) => Promise<ClaimedBundle | null>;
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

/** @throws ApiRefusal `recipient-unknown`, `prekeys-unavailable`; `Unavailable` */
export async function claimBundle(
  deps: ClaimBundleDeps,
  caller: Caller,
  { targetId, requestId }: ClaimBundleInput,
): Promise<ClaimedBundle> {
  const target = (await deps.findAgents([targetId])).get(targetId);
  if (target?.status !== "active") throw new ApiRefusal("recipient-unknown");
  const claimed = await deps.claimPrekeys({ claimerId: caller.agentId, requestId, targetId, now: deps.now() });
  if (claimed === null) throw new ApiRefusal("prekeys-unavailable");
  deps.counted("bundles_claimed", 1);
  return claimed;
}
