/**
 * Which delegations were taken back, as the API asks it: for every request that presents a chain, and for no other.
 *
 * Promise: a revocation is seen within `FRESH_MS`, whatever Redis has forgotten: PostgreSQL alone is asked. What is revoked stays so.
 */
import type { Delegation } from "../../schemas/values.ts";

/** Whether one of these is revoked. Throws `Unavailable`. */
export type FindRevoked = (links: readonly Delegation[]) => Promise<boolean>;

/** Half of the 5 s that are promised: a stream is looked at once more after it. */
const FRESH_MS = 2_000;

/** Some 150 bytes each. More than are presented within `FRESH_MS` at one API process. */
const TOKENS_MAX = 20_000;

/** `find`, remembered for a short time. By a clock that is never set: back by an hour, the wall's would keep what was taken away for as long. */
export function cachedRevocations(find: FindRevoked, now: () => number = () => performance.now()): FindRevoked {
  /** Until when a token is taken for one that is not revoked. */
  const holding = new Map<string, number>();
  return async (links) => {
    const nowMs = now();
    const unsure = links.filter((link) => (holding.get(nameOf(link)) ?? 0) <= nowMs);
    if (unsure.length === 0) return false;
    if (await find(unsure)) return true;
    for (const link of unsure) {
      // Deleted first, so that a Map's insertion order is the order of age.
      holding.delete(nameOf(link));
      holding.set(nameOf(link), nowMs + FRESH_MS);
    }
    for (const oldest of holding.keys()) {
      if (holding.size <= TOKENS_MAX) break;
      holding.delete(oldest);
    }
    return false;
  };
}

function nameOf({ issuerId, tokenId }: Delegation): string {
  return `${issuerId} ${tokenId}`;
}
