/**
 * Forgets the facts of sessions in which nothing was sent for long.
 */
import type { Postgres } from "../store/postgres.ts";
import { forgetFacts } from "../store/session-facts.ts";

/**
 * A message waits for 30 days, and a session without an answer is not used for sending after 30 (protocol.md §4): what an initiation
 * begins is over, or has gone on, long before. Forgotten sooner, a session would begin a second time.
 */
const keptMs = 60 * 24 * 60 * 60 * 1000;

/** How often it is worth running. */
export const sessionsEveryMs = 24 * 60 * 60 * 1000;

/**
 * @param now ms since the epoch
 * @throws Unavailable
 */
export async function forgetOldSessions(postgres: Postgres, now: number): Promise<void> {
  await forgetFacts(postgres, now - keptMs);
}
