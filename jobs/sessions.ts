/**
 * Forgets the facts of sessions in which nothing was sent for long, and the rows of pairs of server custody that never had a session.
 */
import { forgetEmptyStates } from "../store/custody/states.ts";
import type { Postgres } from "../store/postgres.ts";
import { forgetFacts } from "../store/session-facts.ts";

/**
 * A message waits for 30 days, and a session without an answer is not used for sending after 30 (protocol.md §4): what an initiation
 * begins is over, or has gone on, long before. Forgotten sooner, a session would begin a second time.
 */
const keptMs = 60 * 24 * 60 * 60 * 1000;

/** Every night. */
export const sessionsCron = "43 3 * * *";

/**
 * @param now ms since the epoch
 * @param signal ends it behind the batch under way; the next night goes on
 * @throws Unavailable
 */
export async function forgetOldSessions(postgres: Postgres, now: number, signal?: AbortSignal): Promise<void> {
  await forgetFacts(postgres, now - keptMs, signal);
  await forgetEmptyStates(postgres, signal);
}
