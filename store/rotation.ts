/**
 * Whose prekeys are due, and who could not get new ones.
 *
 * Promises: agents are found by index and page by page, however many there are; the world is told of an agent's failed rotation once a
 * day, in the transaction that remembers it.
 */
import { DAY_MS, ONE_TIME_PREKEY_HANDED_OUT_MS, ONE_TIME_PREKEYS_LOW } from "../protocol/limits.ts";
import type { StockCounts } from "../protocol/prekey-stock.ts";
import type { Custody } from "../schemas/values.ts";
import { lockAgent } from "./agents.ts";
import { addFact, type Fact } from "./facts.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";

export interface DueAgent {
  readonly agentId: string;
  readonly custody: Custody;
  /** When its signed prekey in force was made, ms since the epoch. */
  readonly signedCreatedAt: number;
}

/** A rotation that failed, as far as the database knows more than the caller. */
export interface FailedRotation {
  readonly custody: Custody;
  /** The signed prekey that stays in force; null when there is none. */
  readonly signedPrekeyId: string | null;
  readonly signedPrekeyCreatedAt: number | null;
}

/** Long enough that nobody is woken every ten minutes, short enough that nobody forgets. */
const REPORT_AGAIN_MS = DAY_MS;

/** Active agents whose signed prekey in force was made at `madeUntil`, ms, or before; the oldest first, those behind `after`. */
export async function findDueAgents(
  db: Queryable,
  page: {
    readonly madeUntil: number;
    readonly after: Pick<DueAgent, "signedCreatedAt" | "agentId"> | null;
    readonly limit: number;
  },
): Promise<readonly DueAgent[]> {
  const { rows } = await db.query<{ agent_id: string; custody: Custody; created_at: number }>({
    name: "find-due-agents",
    text: `SELECT p.agent_id, a.custody, p.created_at
           FROM messaging_prekeys p JOIN messaging_agents a USING (agent_id)
           WHERE p.key_type = 'signed' AND p.status = 'ACTIVE' AND p.created_at <= $1
             AND (p.created_at, p.agent_id) > ($2::bigint, $3::text) AND a.status = 'active'
           ORDER BY p.created_at, p.agent_id LIMIT $4`,
    values: [page.madeUntil, page.after?.signedCreatedAt ?? 0, page.after?.agentId ?? "", page.limit],
  });
  return rows.map((row) => ({ agentId: row.agent_id, custody: row.custody, signedCreatedAt: row.created_at }));
}

/** Active agents of server custody, by id, those behind `after`. */
export async function findServerAgents(db: Queryable, after: string, limit: number): Promise<readonly string[]> {
  const { rows } = await db.query<{ agent_id: string }>({
    name: "find-server-agents",
    text: `SELECT agent_id FROM messaging_agents
           WHERE custody = 'server' AND status = 'active' AND agent_id > $1 ORDER BY agent_id LIMIT $2`,
    values: [after, limit],
  });
  return rows.map(({ agent_id }) => agent_id);
}

/** How much of these agents can still be handed out at `now`, ms. One-time prekeys are counted as far as it matters: to `ONE_TIME_PREKEYS_LOW`. */
export async function countStocks(
  db: Queryable,
  agentIds: readonly string[],
  now: number,
): Promise<ReadonlyMap<string, StockCounts>> {
  const { rows } = await db.query<{
    agent_id: string;
    signed_created_at: number | null;
    one_time: number;
    kem: number;
    has_last_resort: boolean;
  }>({
    name: "count-stocks",
    text: `SELECT i.agent_id,
                  (SELECT p.created_at FROM messaging_prekeys p
                   WHERE p.agent_id = i.agent_id AND p.key_type = 'signed' AND p.status = 'ACTIVE'
                   ORDER BY p.place DESC LIMIT 1) AS signed_created_at,
                  (SELECT count(*) FROM (
                     SELECT FROM messaging_prekeys p
                     WHERE p.agent_id = i.agent_id AND p.key_type = 'one-time' AND p.status = 'ACTIVE' AND p.stored_at > $2
                     LIMIT $3) AS n) AS one_time,
                  (SELECT count(*) FROM (
                     SELECT FROM messaging_prekeys p
                     WHERE p.agent_id = i.agent_id AND p.key_type = 'kem' AND p.status = 'ACTIVE' AND p.stored_at > $2
                     LIMIT $3) AS n) AS kem,
                  EXISTS (SELECT FROM messaging_prekeys p
                          WHERE p.agent_id = i.agent_id AND p.key_type = 'kem-last-resort' AND p.status = 'ACTIVE') AS has_last_resort
           FROM unnest($1::text[]) AS i (agent_id)`,
    values: [agentIds, now - ONE_TIME_PREKEY_HANDED_OUT_MS, ONE_TIME_PREKEYS_LOW],
  });
  return new Map(
    rows.map((row) => [
      row.agent_id,
      {
        signedCreatedAt: row.signed_created_at,
        oneTime: row.one_time,
        kem: row.kem,
        hasLastResort: row.has_last_resort,
      },
    ]),
  );
}

/**
 * Tells the world (`factOf`: `prekey.rotation-failed.v1`) that an agent's prekeys could not be rotated, unless it was told within a day and
 * nothing was rotated since. Answers whether it was told.
 */
export function reportFailedRotation(
  postgres: Postgres,
  failure: {
    readonly agentId: string;
    readonly code: string;
    /** ms since the epoch. */
    readonly now: number;
    readonly factOf: (failed: FailedRotation) => Fact;
  },
): Promise<boolean> {
  const { agentId, code, now, factOf } = failure;
  return inTransaction(postgres, async (client) => {
    const agent = await lockAgent(client, agentId);
    if (agent === null) return false;
    const { rows } = await client.query<{
      prekey_id: string | null;
      created_at: number | null;
      reported_at: number | null;
    }>({
      name: "find-failed-rotation",
      text: `SELECT p.prekey_id, p.created_at, f.reported_at
             FROM (SELECT $1::text AS agent_id) i
             LEFT JOIN messaging_prekeys p ON p.agent_id = i.agent_id AND p.key_type = 'signed' AND p.status = 'ACTIVE'
             LEFT JOIN messaging_rotation_failures f ON f.agent_id = i.agent_id
             ORDER BY p.place DESC LIMIT 1`,
      values: [agentId],
    });
    const { prekey_id: signedPrekeyId = null, created_at: createdAt = null, reported_at: told = null } = rows[0] ?? {};
    if (told !== null && now - told < REPORT_AGAIN_MS && told > (createdAt ?? 0)) return false;
    await client.query({
      name: "remember-failed-rotation",
      text: `INSERT INTO messaging_rotation_failures (agent_id, code, reported_at) VALUES ($1, $2, $3)
             ON CONFLICT (agent_id) DO UPDATE SET code = excluded.code, reported_at = excluded.reported_at`,
      values: [agentId, code, now],
    });
    await addFact(client, factOf({ custody: agent.custody, signedPrekeyId, signedPrekeyCreatedAt: createdAt }), now);
    return true;
  });
}
