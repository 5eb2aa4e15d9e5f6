/**
 * What is left of an agent's prekeys, and what is left of them in the table when nobody can need them any more.
 *
 * Promises: everything `ownStock` says is of one moment; a one-time prekey that was here for 30 days, by our clock, does not count, as it
 * is not handed out; a row is deleted when no message can come for its key any more.
 */
import {
  DEPRECATED_PREKEY_KEPT_MS,
  ONE_TIME_PREKEY_HANDED_OUT_MS,
  ONE_TIME_PREKEY_KEPT_MS,
} from "../protocol/limits.ts";
import { prekeyStockDigest } from "../protocol/prekey-stock.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import type { Queryable } from "./postgres.ts";

/** One-time prekeys that can still be handed out. */
export interface Remaining {
  /** X25519. */
  readonly oneTimePrekeysRemaining: number;
  /** ML-KEM-768. */
  readonly kemPrekeysRemaining: number;
}

export interface OwnStock extends Remaining {
  /** What new bundles hold; null when there is none. */
  readonly signedPrekey: StockedPrekey | null;
  readonly lastResortKemPrekey: StockedPrekey | null;
  /** `prekeyStockDigest` of it all, 32 bytes. */
  readonly digest: Uint8Array;
}

export interface StockedPrekey {
  /** UUID. */
  readonly id: string;
  /** ms since the epoch, as signed. */
  readonly createdAt: number;
}

/** One-time prekeys stored at or before this time, ms, are handed out no more. */
export function handedOutSince(now: number): number {
  return now - ONE_TIME_PREKEY_HANDED_OUT_MS;
}

/** @param now ms since the epoch */
export async function ownStock(db: Queryable, agentId: string, now: number): Promise<OwnStock> {
  const { rows } = await db.query<StockRow>({
    name: "own-prekey-stock",
    text: `SELECT p.key_type, p.prekey_id, p.public_key, p.created_at
           FROM unnest(ARRAY['signed', 'kem-last-resort', 'one-time', 'kem']) AS kind (key_type)
           CROSS JOIN LATERAL (
             SELECT * FROM messaging_prekeys
             WHERE agent_id = $1 AND key_type = kind.key_type AND status = 'ACTIVE' ORDER BY place OFFSET 0) AS p
           WHERE p.key_type IN ('signed', 'kem-last-resort') OR p.stored_at > $2
           ORDER BY p.place`,
    values: [agentId, handedOutSince(now)],
  });
  const of = (keyType: string) =>
    rows
      .filter((row) => row.key_type === keyType)
      .map((row) => ({ id: row.prekey_id, publicKey: row.public_key, createdAt: row.created_at }));
  const [signed = null] = of("signed");
  const [lastResort = null] = of("kem-last-resort");
  const [oneTime, kem] = [of("one-time"), of("kem")];
  return {
    signedPrekey: signed && { id: signed.id, createdAt: signed.createdAt },
    lastResortKemPrekey: lastResort && { id: lastResort.id, createdAt: lastResort.createdAt },
    oneTimePrekeysRemaining: oneTime.length,
    kemPrekeysRemaining: kem.length,
    digest: prekeyStockDigest(nodePrimitives, { signed, lastResort, oneTime, kem }),
  };
}

interface StockRow {
  readonly key_type: string;
  readonly prekey_id: string;
  readonly public_key: Uint8Array;
  readonly created_at: number;
}

export async function countRemaining(db: Queryable, agentId: string, now: number): Promise<Remaining> {
  const { rows } = await db.query<{ one_time: number; kem: number }>({
    name: "count-prekeys",
    text: `SELECT ${countSql("one-time", "$1", "$2")} AS one_time, ${countSql("kem", "$1", "$2")} AS kem`,
    values: [agentId, handedOutSince(now)],
  });
  return { oneTimePrekeysRemaining: rows[0]?.one_time ?? 0, kemPrekeysRemaining: rows[0]?.kem ?? 0 };
}

/** SQL: how many of a kind can be handed out; the parameters are the agent and `handedOutSince`. */
export function countSql(keyType: "one-time" | "kem", agent: string, since: string): string {
  return `(SELECT count(*) FROM messaging_prekeys
           WHERE agent_id = ${agent} AND key_type = '${keyType}' AND status = 'ACTIVE' AND stored_at > ${since})`;
}

/** protocol.md §2: how long a message can come for a key that is handed out no more. The migration's index counts from the same moment. */
const endedKeptMs = Math.max(DEPRECATED_PREKEY_KEPT_MS, ONE_TIME_PREKEY_KEPT_MS - ONE_TIME_PREKEY_HANDED_OUT_MS);

/** Rows deleted in one statement: a few milliseconds, in which nobody waits long for a lock. */
const deletedMax = 500;

/**
 * Deletes one batch of what nobody can need any more: 62 days after it was used, replaced or retired, 92 after it was stored and never
 * handed out.
 *
 * @param now ms since the epoch
 * @returns whether there may be more
 */
export async function deleteEndedPrekeys(db: Queryable, now: number): Promise<boolean> {
  const { rowCount } = await db.query({
    name: "delete-ended-prekeys",
    text: `WITH ended AS MATERIALIZED (
             SELECT agent_id, prekey_id FROM messaging_prekeys
             WHERE (status <> 'ACTIVE' OR key_type IN ('one-time', 'kem'))
               AND coalesce(used_at, deprecated_at, stored_at + ${ONE_TIME_PREKEY_HANDED_OUT_MS}) < $1
             LIMIT ${deletedMax} FOR UPDATE SKIP LOCKED
           )
           DELETE FROM messaging_prekeys p USING ended
           WHERE p.agent_id = ended.agent_id AND p.prekey_id = ended.prekey_id`,
    values: [now - endedKeptMs],
  });
  return rowCount === deletedMax;
}
