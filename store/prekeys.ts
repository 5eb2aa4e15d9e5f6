/**
 * Prekeys: what an agent has published for those who begin a session with it.
 *
 * Promises: a one-time key is handed out at most once, the oldest first; the same request again gets the same bundle; a prekey
 * never changes after it was published; one signed prekey of an agent is ACTIVE.
 */
import { ONE_TIME_PREKEY_HANDED_OUT_MS } from "../protocol/limits.ts";
import { RecordFault, Refusal } from "../protocol/refusal.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";

/** One-time keys that wait. Less, and a popular agent runs dry in an hour; more is an agent that fills our disk. */
export const oneTimePrekeysMax = 1_000;

export interface SignedPrekey {
  /** UUID, lower-case text. */
  readonly id: string;
  /** X25519, 32 bytes. */
  readonly publicKey: Uint8Array;
  /** ms since the epoch, as signed. */
  readonly createdAt: number;
  readonly signature: Uint8Array;
}

export interface OneTimePrekey {
  /** UUID, lower-case text. */
  readonly id: string;
  /** X25519, 32 bytes. */
  readonly publicKey: Uint8Array;
}

export interface PrekeyUpload {
  readonly signedPrekey?: SignedPrekey;
  readonly oneTimePrekeys: readonly OneTimePrekey[];
}

export interface Claim {
  readonly claimerId: string;
  /** Names the request: the same one again is answered the same. */
  readonly requestId: string;
  readonly targetId: string;
  /** ms since the epoch. */
  readonly now: number;
}

export interface Bundle {
  readonly agentId: string;
  readonly identityKey: Uint8Array;
  readonly signedPrekey: SignedPrekey;
  /** null when none was left. */
  readonly oneTimePrekey: OneTimePrekey | null;
  readonly oneTimePrekeysRemaining: number;
}

/**
 * Stores prekeys; those that are there already, byte for byte, are left as they are. A new signed prekey becomes the ACTIVE one.
 *
 * @throws Refusal `prekey-conflict`: an id is taken by other bytes; `too-many`: more than `oneTimePrekeysMax` would wait;
 *   `agent-unknown`. Nothing was stored.
 */
export function uploadPrekeys(
  postgres: Postgres,
  agentId: string,
  upload: PrekeyUpload,
  now: number,
): Promise<{ oneTimePrekeysRemaining: number }> {
  return inTransaction(postgres, async (client) => {
    await lockAgent(client, agentId);
    await refuseConflicts(client, agentId, upload);
    if (upload.signedPrekey !== undefined) await publishSigned(client, agentId, upload.signedPrekey, now);
    await insertOneTime(client, agentId, upload.oneTimePrekeys, now);
    const oneTimePrekeysRemaining = await countOneTime(client, agentId, now);
    if (oneTimePrekeysRemaining > oneTimePrekeysMax) {
      throw new Refusal("too-many", {
        field: "one_time_prekeys",
        fix: "wait until some of the waiting ones were claimed",
      });
    }
    return { oneTimePrekeysRemaining };
  });
}

/** Uploads of one agent happen one after the other: two signed prekeys at once would both stay ACTIVE. */
async function lockAgent(client: Queryable, agentId: string): Promise<void> {
  const { rowCount } = await client.query({
    name: "lock-agent",
    text: "SELECT FROM messaging_agents WHERE agent_id = $1 FOR UPDATE",
    values: [agentId],
  });
  if (rowCount === 0) throw new Refusal("agent-unknown", { fix: "register the agent first" });
}

async function refuseConflicts(client: Queryable, agentId: string, upload: PrekeyUpload): Promise<void> {
  const { oneTimePrekeys, signedPrekey } = upload;
  const { rows } = await client.query<{ conflict: boolean }>({
    name: "find-prekey-conflict",
    text: `SELECT EXISTS (
             SELECT FROM unnest($2::uuid[], $3::text[], $4::bytea[], $5::bytea[], $6::bigint[])
                         AS i (id, key_type, public_key, signature, created_at)
             CROSS JOIN LATERAL (
               SELECT * FROM messaging_prekeys p WHERE p.agent_id = $1 AND p.prekey_id = i.id OFFSET 0) AS p
             WHERE (p.key_type, p.public_key) <> (i.key_type, i.public_key)
                OR p.signature IS DISTINCT FROM i.signature
                OR (i.key_type = 'signed' AND p.created_at <> i.created_at)) AS conflict`,
    values: [
      agentId,
      [...oneTimePrekeys.map(({ id }) => id), ...(signedPrekey === undefined ? [] : [signedPrekey.id])],
      [...oneTimePrekeys.map(() => "one-time"), ...(signedPrekey === undefined ? [] : ["signed"])],
      [
        ...oneTimePrekeys.map(({ publicKey }) => publicKey),
        ...(signedPrekey === undefined ? [] : [signedPrekey.publicKey]),
      ],
      [...oneTimePrekeys.map(() => null), ...(signedPrekey === undefined ? [] : [signedPrekey.signature])],
      [...oneTimePrekeys.map(() => null), ...(signedPrekey === undefined ? [] : [signedPrekey.createdAt])],
    ],
  });
  if (rows[0]?.conflict || holdsTwoKeysUnderOneId(upload)) {
    throw new Refusal("prekey-conflict", { fix: "make a new id for every prekey" });
  }
}

function holdsTwoKeysUnderOneId({ signedPrekey, oneTimePrekeys }: PrekeyUpload): boolean {
  const ids = oneTimePrekeys.map(({ id }) => id);
  if (signedPrekey !== undefined) ids.push(signedPrekey.id);
  return new Set(ids).size < ids.length;
}

async function publishSigned(client: Queryable, agentId: string, prekey: SignedPrekey, now: number): Promise<void> {
  const { rowCount } = await client.query({
    name: "insert-signed-prekey",
    text: `INSERT INTO messaging_prekeys (agent_id, prekey_id, key_type, public_key, signature, status, created_at)
           VALUES ($1, $2, 'signed', $3, $4, 'ACTIVE', $5)
           ON CONFLICT (agent_id, prekey_id) DO NOTHING`,
    values: [agentId, prekey.id, prekey.publicKey, prekey.signature, prekey.createdAt],
  });
  if (rowCount === 0) return;
  await client.query({
    name: "deprecate-signed-prekeys",
    text: `UPDATE messaging_prekeys SET status = 'DEPRECATED', deprecated_at = $3
           WHERE agent_id = $1 AND key_type = 'signed' AND status = 'ACTIVE' AND prekey_id <> $2`,
    values: [agentId, prekey.id, now],
  });
}

async function insertOneTime(
  client: Queryable,
  agentId: string,
  prekeys: readonly OneTimePrekey[],
  now: number,
): Promise<void> {
  if (prekeys.length === 0) return;
  await client.query({
    name: "insert-one-time-prekeys",
    text: `INSERT INTO messaging_prekeys (agent_id, prekey_id, key_type, public_key, status, created_at)
           SELECT $1, id, 'one-time', public_key, 'ACTIVE', $4
           FROM unnest($2::uuid[], $3::bytea[]) WITH ORDINALITY AS i (id, public_key, n) ORDER BY n
           ON CONFLICT (agent_id, prekey_id) DO NOTHING`,
    values: [agentId, prekeys.map(({ id }) => id), prekeys.map(({ publicKey }) => publicKey), now],
  });
}

async function countOneTime(db: Queryable, agentId: string, now: number): Promise<number> {
  const { rows } = await db.query<{ remaining: number }>({
    name: "count-one-time-prekeys",
    text: `SELECT count(*) AS remaining FROM messaging_prekeys
           WHERE agent_id = $1 AND key_type = 'one-time' AND status = 'ACTIVE' AND created_at > $2`,
    values: [agentId, now - ONE_TIME_PREKEY_HANDED_OUT_MS],
  });
  return rows[0]?.remaining ?? 0;
}

/**
 * Takes a bundle: the target's signed prekey and its oldest one-time key, which nobody else gets.
 *
 * @returns null when the agent does not exist or has published no signed prekey.
 */
export async function claimBundle(db: Queryable, claim: Claim): Promise<Bundle | null> {
  const earlier = await findClaim(db, claim);
  if (earlier !== null) return earlier;
  try {
    return await takeBundle(db, claim);
  } catch (error) {
    // The same request was faster on another connection: this one took nothing, and its answer is there now.
    if (error instanceof RecordFault && error.sqlState === uniqueViolation) return findClaim(db, claim);
    throw error;
  }
}

const uniqueViolation = "23505";

async function takeBundle(db: Queryable, claim: Claim): Promise<Bundle | null> {
  // One statement, so one transaction: a claim that exists already fails as a whole and marks no key as used.
  const { rows } = await db.query<BundleRow>({
    name: "claim-prekeys",
    text: `WITH signed AS (
             SELECT prekey_id, public_key, signature, created_at FROM messaging_prekeys
             WHERE agent_id = $3 AND key_type = 'signed' AND status = 'ACTIVE' ORDER BY place DESC LIMIT 1
           ), oldest AS (
             SELECT prekey_id FROM messaging_prekeys
             WHERE agent_id = $3 AND key_type = 'one-time' AND status = 'ACTIVE' AND created_at > $5
               AND EXISTS (SELECT FROM signed)
             ORDER BY place LIMIT 1 FOR UPDATE SKIP LOCKED
           ), used AS (
             UPDATE messaging_prekeys SET status = 'USED', used_at = $4
             WHERE agent_id = $3 AND prekey_id = (SELECT prekey_id FROM oldest) RETURNING prekey_id, public_key
           ), claim AS (
             INSERT INTO messaging_prekey_claims
               (claimer_id, request_id, target_id, signed_prekey_id, one_time_prekey_id, claimed_at)
             SELECT $1, $2, $3, signed.prekey_id, (SELECT prekey_id FROM used), $4 FROM signed
           )
           SELECT a.agent_id, a.identity_key,
                  s.prekey_id AS signed_id, s.public_key AS signed_public_key, s.signature, s.created_at,
                  used.prekey_id AS one_time_id, used.public_key AS one_time_public_key,
                  (SELECT count(*) FROM messaging_prekeys
                   WHERE agent_id = $3 AND key_type = 'one-time' AND status = 'ACTIVE' AND created_at > $5)
                  - (SELECT count(*) FROM used) AS remaining
           FROM messaging_agents a CROSS JOIN signed s LEFT JOIN used ON true WHERE a.agent_id = $3`,
    values: [claim.claimerId, claim.requestId, claim.targetId, claim.now, claim.now - ONE_TIME_PREKEY_HANDED_OUT_MS],
  });
  return rows[0] === undefined ? null : bundleOf(rows[0]);
}

async function findClaim(db: Queryable, claim: Claim): Promise<Bundle | null> {
  const { rows } = await db.query<BundleRow>({
    name: "find-prekey-claim",
    text: `SELECT a.agent_id, a.identity_key,
                  s.prekey_id AS signed_id, s.public_key AS signed_public_key, s.signature, s.created_at,
                  o.prekey_id AS one_time_id, o.public_key AS one_time_public_key,
                  (SELECT count(*) FROM messaging_prekeys
                   WHERE agent_id = $3 AND key_type = 'one-time' AND status = 'ACTIVE' AND created_at > $4) AS remaining
           FROM messaging_prekey_claims c
           JOIN messaging_agents a ON a.agent_id = $3
           JOIN messaging_prekeys s ON s.agent_id = $3 AND s.prekey_id = c.signed_prekey_id
           LEFT JOIN messaging_prekeys o ON o.agent_id = $3 AND o.prekey_id = c.one_time_prekey_id
           WHERE c.claimer_id = $1 AND c.request_id = $2 AND c.target_id = $3`,
    values: [claim.claimerId, claim.requestId, claim.targetId, claim.now - ONE_TIME_PREKEY_HANDED_OUT_MS],
  });
  return rows[0] === undefined ? null : bundleOf(rows[0]);
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

interface BundleRow {
  readonly agent_id: string;
  readonly identity_key: Uint8Array;
  readonly signed_id: string;
  readonly signed_public_key: Uint8Array;
  readonly signature: Uint8Array;
  readonly created_at: number;
  readonly one_time_id: string | null;
  readonly one_time_public_key: Uint8Array | null;
  readonly remaining: number;
}

function bundleOf(row: BundleRow): Bundle {
  return {
    agentId: row.agent_id,
    identityKey: row.identity_key,
    signedPrekey: {
      id: row.signed_id,
      publicKey: row.signed_public_key,
      createdAt: row.created_at,
      signature: row.signature,
    },
    oneTimePrekey:
      row.one_time_id === null || row.one_time_public_key === null
        ? null
        : { id: row.one_time_id, publicKey: row.one_time_public_key },
    oneTimePrekeysRemaining: row.remaining,
  };
}
