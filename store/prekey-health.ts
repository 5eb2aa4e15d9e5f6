/**
 * How the prekeys of all agents are doing, for those who run the service: counted by a job, read by every process that shows metrics.
 */

import { DAY_MS, ONE_TIME_PREKEY_HANDED_OUT_MS } from "../protocol/limits.ts";
import type { Queryable } from "./postgres.ts";
import { prekeysLow } from "./prekey-claims.ts";

/** Numbers of active agents that have published a signed prekey. */
export interface PrekeyHealth {
  /** With fewer than `prekeysLow` one-time prekeys of a kind that they publish. */
  readonly low: number;
  /** Whose signed prekey in force is older: a week means that a rotation is due, a month that it does not happen. */
  readonly older7Days: number;
  readonly older30Days: number;
}

/** One statement looks up some twenty rows for each of them. */
const PAGE_MAX = 1_000;

/**
 * Counts page by page, so that no statement takes long however many agents there are. `now` in ms since the epoch.
 *
 * @returns null when the signal ended it.
 * @throws Unavailable
 */
export async function countPrekeyHealth(db: Queryable, now: number, signal: AbortSignal): Promise<PrekeyHealth | null> {
  const sum = { low: 0, older7Days: 0, older30Days: 0 };
  for (let after: string | null = ""; after !== null; ) {
    if (signal.aborted) return null;
    const page: HealthPage = await countPage(db, after, now);
    sum.low += page.low;
    sum.older7Days += page.older_7d;
    sum.older30Days += page.older_30d;
    after = page.last;
  }
  return sum;
}

interface HealthPage {
  /** null when there was nobody behind `after`. */
  readonly last: string | null;
  readonly low: number;
  readonly older_7d: number;
  readonly older_30d: number;
}

async function countPage(db: Queryable, after: string, now: number): Promise<HealthPage> {
  const { rows } = await db.query<HealthPage>({
    name: "count-prekey-health",
    text: `WITH page AS (
             SELECT agent_id, status FROM messaging_agents WHERE agent_id > $1 ORDER BY agent_id LIMIT $2
           ), stock AS (
             SELECT (SELECT max(p.created_at) FROM messaging_prekeys p
                     WHERE p.agent_id = a.agent_id AND p.key_type = 'signed' AND p.status = 'ACTIVE') AS signed_at,
                    EXISTS (SELECT FROM messaging_prekeys p
                            WHERE p.agent_id = a.agent_id AND p.key_type = 'kem-last-resort' AND p.status = 'ACTIVE') AS has_kem,
                    (SELECT count(*) FROM (
                       SELECT FROM messaging_prekeys p
                       WHERE p.agent_id = a.agent_id AND p.key_type = 'one-time' AND p.status = 'ACTIVE' AND p.stored_at > $3
                       LIMIT $4) AS n) AS one_time,
                    (SELECT count(*) FROM (
                       SELECT FROM messaging_prekeys p
                       WHERE p.agent_id = a.agent_id AND p.key_type = 'kem' AND p.status = 'ACTIVE' AND p.stored_at > $3
                       LIMIT $4) AS n) AS kem
             FROM page a WHERE a.status = 'active'
           )
           SELECT (SELECT max(agent_id) FROM page) AS last,
                  count(*) FILTER (WHERE signed_at IS NOT NULL AND (one_time < $4 OR (has_kem AND kem < $4))) AS low,
                  count(*) FILTER (WHERE signed_at < $5) AS older_7d,
                  count(*) FILTER (WHERE signed_at < $6) AS older_30d
           FROM stock`,
    values: [after, PAGE_MAX, now - ONE_TIME_PREKEY_HANDED_OUT_MS, prekeysLow, now - 7 * DAY_MS, now - 30 * DAY_MS],
  });
  if (rows[0] === undefined) throw new Error("a count without a row");
  return rows[0];
}

export async function savePrekeyHealth(db: Queryable, health: PrekeyHealth, now: number): Promise<void> {
  await db.query({
    name: "save-prekey-health",
    text: `INSERT INTO messaging_prekey_health (counted_at, agents_low, agents_older_7d, agents_older_30d)
           VALUES ($1, $2, $3, $4)
           ON CONFLICT (single) DO UPDATE SET (counted_at, agents_low, agents_older_7d, agents_older_30d)
             = (excluded.counted_at, excluded.agents_low, excluded.agents_older_7d, excluded.agents_older_30d)`,
    values: [now, health.low, health.older7Days, health.older30Days],
  });
}

/** As last counted; null before the first time. Throws `Unavailable`. */
export async function readPrekeyHealth(db: Queryable): Promise<PrekeyHealth | null> {
  const { rows } = await db.query<{ agents_low: number; agents_older_7d: number; agents_older_30d: number }>({
    name: "read-prekey-health",
    text: "SELECT agents_low, agents_older_7d, agents_older_30d FROM messaging_prekey_health",
  });
  const [row] = rows;
  return row === undefined
    ? null
    : { low: row.agents_low, older7Days: row.agents_older_7d, older30Days: row.agents_older_30d };
}
