/**
 * Forgets prekey claims when their answer is of no use any more: a bundle is not used after 24 hours (protocol.md §2).
 */
import type { Postgres } from "../store/postgres.ts";
import { forgetClaims } from "../store/prekey-claims.ts";

const keptMs = 24 * 60 * 60 * 1000;

/** Every hour. */
export const claimsCron = "17 * * * *";

/**
 * @param now ms since the epoch
 * @throws Unavailable
 */
export async function forgetOldClaims(postgres: Postgres, now: number): Promise<void> {
  await forgetClaims(postgres, now - keptMs);
}
