/**
 * Bundles handed out: who claimed which prekeys of whom.
 *
 * Promises: a one-time prekey is handed out at most once, the oldest first, and is USED in the transaction that answers for it; the same
 * request (claimer, request id, target) again gets the same bundle and takes nothing; that an agent runs low is told once per dip. Claims of
 * one agent happen one after the other, under its lock: what they say is left is exact.
 */
import type { Bundle, KemPrekey, OneTimePrekey } from "../protocol/prekeys.ts";
import type { Custody } from "../schemas/values.ts";
import { lockAgent } from "./agents.ts";
import { addingFacts } from "./facts.ts";
import { begun, inTransaction, type Postgres, type Queryable } from "./postgres.ts";
import {
  type BundlesDoor,
  type CommonBundle,
  type KemRow,
  kemPrekeyOf,
  type SignedPartRow,
  signedPartOf,
} from "./prekey-bundles.ts";
import type { PrekeyFacts } from "./prekey-facts.ts";
import { countSql, handedOutSince, type Remaining } from "./prekey-stock.ts";
import type { Turns } from "./turns.ts";

/** Fewer of a kind than this is low. Less, and a busy hour empties the rest before anybody has reacted. */
export const prekeysLow = 10;

/** How many of those handed out last tell how fast they go: half a full stock. */
const rateKeysMax = 50;

export interface Claim {
  readonly claimerId: string;
  /** Names the request: the same one again is answered the same. */
  readonly requestId: string;
  readonly targetId: string;
  /** ms since the epoch. */
  readonly now: number;
}

export interface ClaimedBundle extends Remaining {
  readonly bundle: Bundle;
}

export interface ClaimDeps {
  readonly facts: PrekeyFacts;
  readonly bundles: BundlesDoor;
  /** One for all claims of a process: however many claim of one agent, they have one connection. */
  readonly turns: Turns;
}

/** What the same request was answered with before, or null; what remains is of now. */
export async function findClaim(db: Queryable, claim: Claim): Promise<ClaimedBundle | null> {
  const { rows } = await db.query<ClaimRow>({
    name: "find-prekey-claim",
    text: `SELECT a.agent_id, a.identity_key,
                  s.prekey_id AS signed_id, s.public_key AS signed_key, s.signature AS signed_signature,
                  s.created_at AS signed_created_at,
                  o.prekey_id AS one_time_id, o.public_key AS one_time_key,
                  k.prekey_id AS kem_id, k.public_key AS kem_key, k.signature AS kem_signature, k.created_at AS kem_created_at,
                  k.key_type = 'kem-last-resort' AS kem_is_last_resort,
                  ${countSql("one-time", "$3", "$4")} AS one_time_remaining, ${countSql("kem", "$3", "$4")} AS kem_remaining
           FROM messaging_prekey_claims c
           JOIN messaging_agents a ON a.agent_id = $3
           JOIN messaging_prekeys s ON s.agent_id = $3 AND s.prekey_id = c.signed_prekey_id
           LEFT JOIN messaging_prekeys o ON o.agent_id = $3 AND o.prekey_id = c.one_time_prekey_id
           LEFT JOIN messaging_prekeys k ON k.agent_id = $3 AND k.prekey_id = c.kem_prekey_id
           WHERE c.claimer_id = $1 AND c.request_id = $2 AND c.target_id = $3`,
    values: [claim.claimerId, claim.requestId, claim.targetId, handedOutSince(claim.now)],
  });
  const [row] = rows;
  if (row === undefined) return null;
  return {
    bundle: {
      ...signedPartOf(row),
      oneTimePrekey: oneTimePrekeyOf(row.one_time_id, row.one_time_key),
      kemPrekey: kemPrekeyOf(row, row.kem_is_last_resort === true),
    },
    oneTimePrekeysRemaining: row.one_time_remaining,
    kemPrekeysRemaining: row.kem_remaining,
  };
}

interface ClaimRow extends SignedPartRow, KemRow {
  readonly one_time_id: string | null;
  readonly one_time_key: Uint8Array | null;
  readonly kem_is_last_resort: boolean | null;
  readonly one_time_remaining: number;
  readonly kem_remaining: number;
}

function oneTimePrekeyOf(id: string | null, publicKey: Uint8Array | null): OneTimePrekey | null {
  return id === null || publicKey === null ? null : { id, publicKey };
}

/**
 * Takes a bundle: what all bundles of the target hold, and the oldest one-time prekey of each kind, which nobody else gets; without a KEM
 * one-time prekey, the one of last resort.
 *
 * @param options.oneTime whether one-time prekeys are taken at all
 * @returns null when the agent does not exist or has published no signed prekey; `repeated`: the request was answered before, nothing was
 *   taken.
 */
export async function takeBundle(
  postgres: Postgres,
  deps: ClaimDeps,
  claim: Claim,
  options: { readonly oneTime: boolean },
): Promise<(ClaimedBundle & { readonly repeated: boolean }) | null> {
  const common = await deps.bundles.find(claim.targetId);
  if (common === null) return null;
  const take = (from: CommonBundle) =>
    deps.turns.take(claim.targetId, () => takeWith(postgres, deps.facts, claim, from, options));
  const taken = await take(common);
  if (taken !== null) return { ...taken, repeated: false };
  const earlier = await findClaim(postgres, claim);
  if (earlier !== null) return { ...earlier, repeated: true };
  // A database that was restored from a backup does not know the signed prekey that Redis remembers.
  await deps.bundles.forget(claim.targetId);
  const current = await deps.bundles.find(claim.targetId);
  const retaken = current === null ? null : await take(current);
  return retaken === null ? null : { ...retaken, repeated: false };
}

/** Null when the claim exists already, or the common part is not the database's. */
async function takeWith(
  postgres: Postgres,
  facts: PrekeyFacts,
  claim: Claim,
  common: CommonBundle,
  { oneTime }: { readonly oneTime: boolean },
): Promise<ClaimedBundle | null> {
  const taken = await inTransaction(
    postgres,
    async (client) => {
      // Both travel with the BEGIN: between the lock and what is done under it there is no way to the server and back.
      const [agent, rows] = await Promise.all([
        lockAgent(client, claim.targetId),
        client.query<TakenRow>(taking(claim, common, oneTime)).then((answer) => answer.rows),
      ]);
      const [row] = rows;
      if (row === undefined) return null;
      if (agent === null) throw new Error("prekeys of an agent that does not exist");
      return { row, custody: agent.custody, low: await beginDips(client, claim, row) };
    },
    (result) => {
      if (result === null) return null;
      const { row, custody, low } = result;
      const claimed = facts.claimed(claimedFact(claim, row));
      return addingFacts(low === null ? [claimed] : [claimed, facts.low(lowFact(claim, row, custody, low))], claim.now);
    },
  );
  if (taken === null) return null;
  const { row } = taken;
  const kemPrekey = kemPrekeyIn(row, common);
  // The common part was remembered from before the agent had a KEM prekey of last resort.
  if (row.kem_prekey_id !== null && kemPrekey === null) return findClaim(postgres, claim);
  return {
    bundle: { ...common, oneTimePrekey: oneTimePrekeyOf(row.one_time_prekey_id, row.one_time_key), kemPrekey },
    ...remainingOf(row),
  };
}

interface TakenRow extends KemRow {
  readonly signed_prekey_id: string;
  readonly one_time_prekey_id: string | null;
  readonly one_time_key: Uint8Array | null;
  /** Of the one-time prekey, or the one of last resort. */
  readonly kem_prekey_id: string | null;
  readonly one_time_remaining: number;
  readonly kem_remaining: number;
  /** Kinds that can run low: the agent ever had one, and was not told yet. */
  readonly untold: readonly string[];
}

/**
 * The statement under the lock. It changes nothing unless the transaction has begun, the request is new and the signed prekey is the
 * database's.
 */
function taking(claim: Claim, common: CommonBundle, oneTime: boolean) {
  return {
    name: "take-prekeys",
    text: `WITH claimable AS MATERIALIZED (
             SELECT prekey_id FROM messaging_prekeys
             WHERE agent_id = $3 AND prekey_id = $6 AND ${begun}
               AND NOT EXISTS (SELECT FROM messaging_prekey_claims
                               WHERE claimer_id = $1 AND request_id = $2 AND target_id = $3)
           ), oldest AS MATERIALIZED (
             SELECT o.prekey_id FROM claimable CROSS JOIN unnest(ARRAY['one-time', 'kem']) AS kind (key_type)
             CROSS JOIN LATERAL (
               SELECT prekey_id FROM messaging_prekeys
               WHERE agent_id = $3 AND key_type = kind.key_type AND status = 'ACTIVE' AND stored_at > $5
               ORDER BY place LIMIT 1) AS o
             WHERE $8
           ), used AS (
             UPDATE messaging_prekeys SET status = 'USED', used_at = $4
             WHERE agent_id = $3 AND prekey_id = ANY (ARRAY(SELECT prekey_id FROM oldest))
             RETURNING prekey_id, key_type, public_key, signature, created_at
           ), claim AS (
             INSERT INTO messaging_prekey_claims
               (claimer_id, request_id, target_id, signed_prekey_id, one_time_prekey_id, kem_prekey_id, claimed_at)
             SELECT $1, $2, $3, prekey_id, (SELECT prekey_id FROM used WHERE key_type = 'one-time'),
                    coalesce((SELECT prekey_id FROM used WHERE key_type = 'kem'), (SELECT prekey_id FROM messaging_prekeys WHERE agent_id = $3 AND prekey_id = $7),
                             (SELECT prekey_id FROM messaging_prekeys
                              WHERE agent_id = $3 AND key_type = 'kem-last-resort' AND status = 'ACTIVE'
                              ORDER BY place DESC LIMIT 1)), $4
             FROM claimable
             RETURNING signed_prekey_id, one_time_prekey_id, kem_prekey_id
           )
           SELECT claim.*, o.public_key AS one_time_key,
                  k.prekey_id AS kem_id, k.public_key AS kem_key, k.signature AS kem_signature, k.created_at AS kem_created_at,
                  ${countSql("one-time", "$3", "$5")} - (SELECT count(*) FROM used WHERE key_type = 'one-time')
                    AS one_time_remaining,
                  ${countSql("kem", "$3", "$5")} - (SELECT count(*) FROM used WHERE key_type = 'kem') AS kem_remaining,
                  ARRAY(SELECT kind.key_type FROM unnest(ARRAY['one-time', 'kem']) AS kind (key_type)
                        WHERE EXISTS (SELECT FROM messaging_prekeys p
                                      WHERE p.agent_id = $3 AND p.key_type = kind.key_type)
                          AND NOT EXISTS (SELECT FROM messaging_prekey_dips d
                                          WHERE d.agent_id = $3 AND d.key_type = kind.key_type)) AS untold
           FROM claim
           LEFT JOIN used o ON o.key_type = 'one-time' LEFT JOIN used k ON k.key_type = 'kem'`,
    values: [
      claim.claimerId,
      claim.requestId,
      claim.targetId,
      claim.now,
      handedOutSince(claim.now),
      common.signedPrekey.id,
      common.kemPrekey?.id ?? null,
      oneTime,
    ],
  };
}

/** Null: there is none, or it is not known here what it looks like. */
function kemPrekeyIn(row: TakenRow, common: CommonBundle): KemPrekey | null {
  return kemPrekeyOf(row, false) ?? (common.kemPrekey?.id === row.kem_prekey_id ? common.kemPrekey : null);
}

function remainingOf(row: TakenRow): Remaining {
  return { oneTimePrekeysRemaining: row.one_time_remaining, kemPrekeysRemaining: row.kem_remaining };
}

function claimedFact(claim: Claim, row: TakenRow) {
  return {
    agentId: claim.targetId,
    claimerId: claim.claimerId,
    signedPrekeyId: row.signed_prekey_id,
    oneTimePrekeyId: row.one_time_prekey_id,
    kemPrekeyId: row.kem_prekey_id,
    lastResort: row.one_time_prekey_id === null || (row.kem_prekey_id !== null && row.kem_id === null),
    ...remainingOf(row),
    claimedAt: claim.now,
  };
}

function lowFact(claim: Claim, row: TakenRow, custody: Custody, { timeToEmptyMs }: Low) {
  return { agentId: claim.targetId, custody, ...remainingOf(row), timeToEmptyMs, lowAt: claim.now };
}

/** A kind has run low, and nobody was told yet. */
interface Low {
  /** Null without a rate. */
  readonly timeToEmptyMs: number | null;
}

/** Remembers that the agent is told now; null when there is nothing to tell. */
async function beginDips(client: Queryable, claim: Claim, row: TakenRow): Promise<Low | null> {
  const kinds = [
    { keyType: "one-time", remaining: row.one_time_remaining },
    { keyType: "kem", remaining: row.kem_remaining },
  ].filter(({ keyType, remaining }) => remaining < prekeysLow && row.untold.includes(keyType));
  if (kinds.length === 0) return null;
  const { rows } = await client.query<{ remaining: number; handed_out: number; ms: number }>({
    name: "begin-prekey-dips",
    text: `WITH kind AS (
             SELECT * FROM unnest($2::text[], $3::integer[]) AS kind (key_type, remaining)
           ), told AS (
             INSERT INTO messaging_prekey_dips (agent_id, key_type, began_at) SELECT $1, key_type, $4 FROM kind
           )
           SELECT kind.remaining, count(last.used_at) AS handed_out,
                  coalesce(max(last.used_at) - min(last.used_at), 0) AS ms
           FROM kind LEFT JOIN LATERAL (
             SELECT used_at FROM messaging_prekeys
             WHERE agent_id = $1 AND key_type = kind.key_type AND status = 'USED'
             ORDER BY place DESC LIMIT ${rateKeysMax}) AS last ON true
           GROUP BY kind.key_type, kind.remaining`,
    values: [claim.targetId, kinds.map(({ keyType }) => keyType), kinds.map(({ remaining }) => remaining), claim.now],
  });
  const times = rows.filter(({ ms }) => ms > 0).map((kind) => timeToEmptyMs(kind.remaining, kind.handed_out, kind.ms));
  return { timeToEmptyMs: times.length === 0 ? null : Math.min(...times) };
}

function timeToEmptyMs(remaining: number, handedOut: number, ms: number): number {
  return Math.round((remaining * ms) / (handedOut - 1));
}

/** Claims made before `before` (ms since the epoch) are forgotten: the same request would be a new one. Returns how many. */
export async function forgetClaims(db: Queryable, before: number): Promise<number> {
  const { rowCount } = await db.query({
    name: "forget-prekey-claims",
    text: "DELETE FROM messaging_prekey_claims WHERE claimed_at < $1",
    values: [before],
  });
  return rowCount ?? 0;
}

/** The agents claimed from most often since `since`, ms, the first one the most often. */
export async function mostClaimed(db: Queryable, since: number, limit: number): Promise<readonly string[]> {
  const { rows } = await db.query<{ target_id: string }>({
    name: "most-claimed-agents",
    text: `SELECT target_id FROM messaging_prekey_claims WHERE claimed_at > $1
           GROUP BY target_id ORDER BY count(*) DESC, target_id LIMIT $2`,
    values: [since, limit],
  });
  return rows.map((row) => row.target_id);
}
