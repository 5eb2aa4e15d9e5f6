/**
 * Counts how the prekeys of all agents are doing, for the metrics of every process.
 */
import type { Postgres } from "../store/postgres.ts";
import { countPrekeyHealth, savePrekeyHealth } from "../store/prekey-health.ts";

/** Every quarter of an hour: alerts on these numbers are about days. */
export const prekeyHealthCron = "3/15 * * * *";

/**
 * @param now ms since the epoch
 * @throws Unavailable
 */
export async function measurePrekeyHealth(postgres: Postgres, now: number, signal: AbortSignal): Promise<void> {
  const health = await countPrekeyHealth(postgres, now, signal);
  if (health !== null) await savePrekeyHealth(postgres, health, now);
}
