/**
 * May this agent message that one, as the API asks it: for every send, every claim of prekeys, every session that is begun.
 *
 * Promise: a permission that was taken away ends within `FRESH_MS`. One that was given holds at once: a refusal is never remembered.
 */
import type { Ask, Decision } from "../../store/permissions.ts";

export type { Ask, Decision, Rule } from "../../store/permissions.ts";

/** One decision for each ask, in their order. Throws `Unavailable`. */
export type Authorize = (asks: readonly Ask[]) => Promise<readonly Decision[]>;

/** Shorter, and every send asks PostgreSQL; longer, and a blocked agent goes on for as long. The same as for an agent's status (api/agents.ts). */
const FRESH_MS = 5_000;

/** Some 250 bytes each: 5 MB. More than the pairs that talk within `FRESH_MS` at one API process. */
const PERMISSIONS_MAX = 20_000;

/** `authorize`, its permissions remembered for a short time. By a clock that is never set: back by an hour, the wall's would keep what was taken away for as long. */
export function cachedAuthorization(authorize: Authorize, now: () => number = () => performance.now()): Authorize {
  const allowedUntil = new Map<string, number>();
  return async (asks) => {
    const nowMs = now();
    const isKnown = (ask: Ask) => (allowedUntil.get(nameOf(ask)) ?? 0) > nowMs;
    const unknown = [...new Map(asks.filter((ask) => !isKnown(ask)).map((ask) => [nameOf(ask), ask])).values()];
    const answers = unknown.length === 0 ? [] : await authorize(unknown);
    const decided = new Map(unknown.map((ask, n) => [nameOf(ask), answers[n] as Decision]));
    for (const [name, { allowed }] of decided) {
      // Deleted first, so that a Map's insertion order is the order of age.
      allowedUntil.delete(name);
      if (allowed) allowedUntil.set(name, nowMs + FRESH_MS);
    }
    for (const oldest of allowedUntil.keys()) {
      if (allowedUntil.size <= PERMISSIONS_MAX) break;
      allowedUntil.delete(oldest);
    }
    return asks.map((ask) => decided.get(nameOf(ask)) ?? { allowed: true });
  };
}

function nameOf({ senderId, recipientId, principalId }: Ask): string {
  return `${senderId} ${recipientId} ${principalId}`;
}
