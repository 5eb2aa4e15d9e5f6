/**
 * The key that agents of server custody seal their content to, so that the API never sees it.
 */
import type { IngressKey } from "../../protocol/ingress.ts";
import { DAY_MS } from "../../protocol/limits.ts";
import type { Caller } from "../auth.ts";
import { type CustodyDeps, requireHeldKeys } from "./custody.ts";

export interface OfferedKey extends IngressKey {
  /** Content sealed to it is taken until then, ms since the epoch. */
  readonly acceptedUntil: number;
}

/** @throws ApiRefusal `custody-mismatch`, `custody-unavailable`; `Unavailable` */
export async function ingressKey(deps: CustodyDeps, caller: Caller): Promise<OfferedKey> {
  const key = (await requireHeldKeys(deps, caller)).ingressKey();
  // Its own day and the next (isEpochAccepted).
  return { ...key, acceptedUntil: (key.epoch + 2) * DAY_MS };
}
