/**
 * What the clock starts for prekeys: rows that nobody can need are deleted, bundles that many ask for are read before they are asked for.
 */
import { DAY_MS } from "../protocol/limits.ts";
import type { Postgres } from "../store/postgres.ts";
import type { BundlesDoor } from "../store/prekey-bundles.ts";
import { mostClaimed } from "../store/prekey-claims.ts";
import { deleteEndedPrekeys } from "../store/prekey-stock.ts";

/** Once an hour, when few other jobs begin. */
export const prekeyDeletionCron = "27 * * * *";

/**
 * Deletes prekeys that were handed out, replaced, retired or left over so long ago that no message can come for them.
 *
 * @param now ms since the epoch
 * @param signal ends it between two batches
 * @throws Unavailable; what was deleted until then stays deleted
 */
export async function deleteOldPrekeys(postgres: Postgres, now: number, signal: AbortSignal): Promise<void> {
  while (!signal.aborted && (await deleteEndedPrekeys(postgres, now)));
}

/** Before the bundles that the run before has read are forgotten. */
export const bundlesCron = "*/4 * * * *";

/** 1.5 MB in Redis. More, and the run costs more than the questions it saves. */
const warmAgentsMax = 1_000;

/** Rows of one answer of PostgreSQL: some 300 KB. */
const warmBatchMax = 200;

/**
 * The job that keeps the bundles of the most claimed agents of the last day in Redis.
 *
 * @param bundles reads from the same PostgreSQL
 */
export function warmBundles(bundles: Pick<BundlesDoor, "refresh">): (postgres: Postgres, now: number) => Promise<void> {
  return async (postgres, now) => {
    const agentIds = await mostClaimed(postgres, now - DAY_MS, warmAgentsMax);
    for (let start = 0; start < agentIds.length; start += warmBatchMax) {
      await bundles.refresh(agentIds.slice(start, start + warmBatchMax));
    }
  };
}
