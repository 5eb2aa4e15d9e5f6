/**
 * What agents publish: prekeys stored, replaced, retired.
 *
 * Promises: all of an upload or nothing; a prekey never changes after it was published; the same upload again changes nothing and tells
 * nobody; one signed prekey and one KEM prekey of last resort of an agent are ACTIVE. What is new is told by facts in the same
 * transaction.
 */
import type { KemPrekey, OneTimePrekey, SignedPrekey } from "../protocol/prekeys.ts";
import { Refusal } from "../protocol/refusal.ts";
import type { Custody } from "../schemas/values.ts";
import { lockAgent } from "./agents.ts";
import { addingFacts, type Fact } from "./facts.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";
import type { BundlesDoor } from "./prekey-bundles.ts";
import { prekeysLow } from "./prekey-claims.ts";
import type { PrekeyFacts } from "./prekey-facts.ts";
import { countRemaining, type Remaining } from "./prekey-stock.ts";
import { unlessAway } from "./redis.ts";

/** One-time keys of a kind that wait. Less, and a popular agent runs dry in an hour; more is an agent that fills our disk. */
export const oneTimePrekeysMax = 1_000;

/** Ids are UUIDs in lower-case text; times are ms since the epoch. */
export interface PrekeyUpload {
  readonly signedPrekey?: SignedPrekey & Custodial;
  readonly lastResortKemPrekey?: KemPrekey & Custodial;
  readonly oneTimePrekeys?: readonly (OneTimePrekey & Custodial)[];
  /** KEM one-time prekeys. */
  readonly kemPrekeys?: readonly (KemPrekey & Custodial)[];
  /** Every waiting one-time prekey, of both kinds, that is not in this upload is handed out no more. */
  readonly replace?: boolean;
}

/** Of server custody: the private half, sealed. It is no part of what must be the same in a repeat. */
interface Custodial {
  readonly privateKeyEncrypted?: Uint8Array;
}

export interface UploadDeps {
  readonly facts: PrekeyFacts;
  readonly bundles: BundlesDoor;
}

/**
 * Stores prekeys; those that are there already, byte for byte, are left as they are. A new signed prekey becomes the ACTIVE one, and so does
 * a new KEM prekey of last resort.
 *
 * @param now ms since the epoch
 * @throws Refusal `prekey-conflict`: an id is taken by other bytes; `too-many`: more than `oneTimePrekeysMax` of a kind would wait;
 *   `agent-unknown`. Nothing was stored.
 */
export async function uploadPrekeys(
  postgres: Postgres,
  { facts, bundles }: UploadDeps,
  agentId: string,
  upload: PrekeyUpload,
  now: number,
): Promise<Remaining> {
  try {
    return await inTransaction(postgres, async (client) => {
      const stored = await store(client, agentId, upload, now);
      const [first, ...others] = factsOf(facts, agentId, stored, now);
      if (first !== undefined) await client.query(addingFacts([first, ...others], now));
      return stored.remaining;
    });
  } finally {
    // Also when the answer to COMMIT was lost, and when it is a repeat of such an upload: what is remembered may be old.
    if (upload.signedPrekey !== undefined || upload.lastResortKemPrekey !== undefined) {
      await unlessAway(bundles.refresh([agentId]));
    }
  }
}

interface Stored {
  readonly custody: Custody;
  readonly remaining: Remaining;
  /** What was not there before. */
  readonly fresh: readonly Row[];
  /** One-time prekeys that waited and are handed out no more. */
  readonly retired: number;
  /** The signed prekey that was replaced. */
  readonly previousSignedId: string | null;
  /** In force now. */
  readonly lastResortId: string | null;
}

async function store(client: Queryable, agentId: string, upload: PrekeyUpload, now: number): Promise<Stored> {
  const agent = await lockAgent(client, agentId);
  if (agent === null) throw new Refusal("agent-unknown", { fix: "register the agent first" });
  const rows = rowsOf(upload, now);
  await refuseConflicts(client, agentId, rows);
  const freshIds = await insert(client, agentId, rows, now);
  const fresh = rows.filter(({ id }) => freshIds.has(id));
  const previousSignedId = await replaceOlder(client, agentId, fresh, "signed", now);
  await replaceOlder(client, agentId, fresh, "kem-last-resort", now);
  const retired = upload.replace === true ? await retireOthers(client, agentId, rows, now) : 0;
  const remaining = await countRemaining(client, agentId, now);
  refuseTooMany(remaining);
  await endDips(client, agentId, remaining);
  const lastResortId = previousSignedId === null ? null : await findLastResort(client, agentId);
  return { custody: agent.custody, remaining, fresh, retired, previousSignedId, lastResortId };
}

type KeyType = "signed" | "one-time" | "kem" | "kem-last-resort";

interface Row {
  readonly id: string;
  readonly keyType: KeyType;
  readonly publicKey: Uint8Array;
  readonly signature: Uint8Array | null;
  readonly createdAt: number;
  readonly privateKeyEncrypted: Uint8Array | null;
}

/** In the order in which one-time prekeys will be handed out. */
function rowsOf(upload: PrekeyUpload, now: number): readonly Row[] {
  const { signedPrekey, lastResortKemPrekey, oneTimePrekeys = [], kemPrekeys = [] } = upload;
  const signed = (keyType: KeyType, prekey: SignedPrekey & Custodial): Row => ({
    id: prekey.id,
    keyType,
    publicKey: prekey.publicKey,
    signature: prekey.signature,
    createdAt: prekey.createdAt,
    privateKeyEncrypted: prekey.privateKeyEncrypted ?? null,
  });
  return [
    ...(signedPrekey === undefined ? [] : [signed("signed", signedPrekey)]),
    ...(lastResortKemPrekey === undefined ? [] : [signed("kem-last-resort", lastResortKemPrekey)]),
    ...oneTimePrekeys.map(({ id, publicKey, privateKeyEncrypted = null }) => ({
      id,
      keyType: "one-time" as const,
      publicKey,
      signature: null,
      createdAt: now,
      privateKeyEncrypted,
    })),
    ...kemPrekeys.map((prekey) => signed("kem", prekey)),
  ];
}

async function refuseConflicts(client: Queryable, agentId: string, prekeys: readonly Row[]): Promise<void> {
  const { rows } = await client.query<{ conflict: boolean }>({
    name: "find-prekey-conflict",
    text: `SELECT EXISTS (
             SELECT FROM unnest($2::uuid[], $3::text[], $4::bytea[], $5::bytea[], $6::bigint[])
                         AS i (id, key_type, public_key, signature, created_at)
             CROSS JOIN LATERAL (
               SELECT * FROM messaging_prekeys p WHERE p.agent_id = $1 AND p.prekey_id = i.id OFFSET 0) AS p
             WHERE (p.key_type, p.public_key) <> (i.key_type, i.public_key)
                OR p.signature IS DISTINCT FROM i.signature
                OR (i.signature IS NOT NULL AND p.created_at <> i.created_at)) AS conflict`,
    values: [agentId, ...columnsOf(prekeys)],
  });
  if (rows[0]?.conflict || new Set(prekeys.map(({ id }) => id)).size < prekeys.length) {
    throw new Refusal("prekey-conflict", { fix: "make a new id for every prekey" });
  }
}

function columnsOf(prekeys: readonly Row[]) {
  return [
    prekeys.map(({ id }) => id),
    prekeys.map(({ keyType }) => keyType),
    prekeys.map(({ publicKey }) => publicKey),
    prekeys.map(({ signature }) => signature),
    prekeys.map(({ createdAt }) => createdAt),
  ];
}

/** Answers the ids of what was not there. */
async function insert(
  client: Queryable,
  agentId: string,
  prekeys: readonly Row[],
  now: number,
): Promise<ReadonlySet<string>> {
  if (prekeys.length === 0) return new Set();
  const { rows } = await client.query<{ prekey_id: string }>({
    name: "insert-prekeys",
    text: `INSERT INTO messaging_prekeys
             (agent_id, prekey_id, key_type, public_key, signature, created_at, private_key_encrypted, status, stored_at)
           SELECT $1, id, key_type, public_key, signature, created_at, private_key_encrypted, 'ACTIVE', $8
           FROM unnest($2::uuid[], $3::text[], $4::bytea[], $5::bytea[], $6::bigint[], $7::bytea[]) WITH ORDINALITY
                AS i (id, key_type, public_key, signature, created_at, private_key_encrypted, n)
           ORDER BY n
           ON CONFLICT (agent_id, prekey_id) DO NOTHING
           RETURNING prekey_id`,
    values: [agentId, ...columnsOf(prekeys), prekeys.map(({ privateKeyEncrypted }) => privateKeyEncrypted), now],
  });
  return new Set(rows.map((row) => row.prekey_id));
}

/** A new prekey of this kind takes the place of the ACTIVE one. Answers the id of that one, or null. */
async function replaceOlder(
  client: Queryable,
  agentId: string,
  fresh: readonly Row[],
  keyType: "signed" | "kem-last-resort",
  now: number,
): Promise<string | null> {
  const successor = fresh.find((row) => row.keyType === keyType);
  if (successor === undefined) return null;
  const { rows } = await client.query<{ prekey_id: string }>({
    name: "replace-older-prekey",
    text: `UPDATE messaging_prekeys SET status = 'DEPRECATED', deprecated_at = $4
           WHERE agent_id = $1 AND key_type = $2 AND status = 'ACTIVE' AND prekey_id <> $3
           RETURNING prekey_id`,
    values: [agentId, keyType, successor.id, now],
  });
  return rows[0]?.prekey_id ?? null;
}

/** How many. */
async function retireOthers(client: Queryable, agentId: string, kept: readonly Row[], now: number): Promise<number> {
  const { rowCount } = await client.query({
    name: "retire-one-time-prekeys",
    text: `UPDATE messaging_prekeys SET status = 'DEPRECATED', deprecated_at = $3
           WHERE agent_id = $1 AND key_type IN ('one-time', 'kem') AND status = 'ACTIVE' AND prekey_id <> ALL ($2::uuid[])`,
    values: [agentId, kept.map(({ id }) => id), now],
  });
  return rowCount ?? 0;
}

function refuseTooMany({ oneTimePrekeysRemaining, kemPrekeysRemaining }: Remaining): void {
  const field =
    oneTimePrekeysRemaining > oneTimePrekeysMax
      ? "/one_time_prekeys"
      : kemPrekeysRemaining > oneTimePrekeysMax
        ? "/kem_prekeys"
        : null;
  if (field !== null) throw new Refusal("too-many", { field, fix: "wait until some of the waiting ones were claimed" });
}

/** An agent that has enough of a kind again is told the next time that it has not. */
async function endDips(client: Queryable, agentId: string, remaining: Remaining): Promise<void> {
  await client.query({
    name: "end-prekey-dips",
    text: `DELETE FROM messaging_prekey_dips
           WHERE agent_id = $1 AND ((key_type = 'one-time' AND $2::integer >= $4) OR (key_type = 'kem' AND $3::integer >= $4))`,
    values: [agentId, remaining.oneTimePrekeysRemaining, remaining.kemPrekeysRemaining, prekeysLow],
  });
}

async function findLastResort(client: Queryable, agentId: string): Promise<string | null> {
  const { rows } = await client.query<{ prekey_id: string }>({
    name: "find-last-resort-prekey",
    text: `SELECT prekey_id FROM messaging_prekeys
           WHERE agent_id = $1 AND key_type = 'kem-last-resort' AND status = 'ACTIVE' ORDER BY place DESC LIMIT 1`,
    values: [agentId],
  });
  return rows[0]?.prekey_id ?? null;
}

function factsOf(facts: PrekeyFacts, agentId: string, stored: Stored, now: number): readonly Fact[] {
  const { custody, remaining, fresh, retired, previousSignedId, lastResortId } = stored;
  if (fresh.length + retired === 0) return [];
  const idOf = (keyType: KeyType) => fresh.find((row) => row.keyType === keyType)?.id ?? null;
  const count = (keyType: KeyType) => fresh.filter((row) => row.keyType === keyType).length;
  const signedPrekeyId = idOf("signed");
  const published = facts.published({
    agentId,
    custody,
    signedPrekeyId,
    lastResortKemPrekeyId: idOf("kem-last-resort"),
    oneTimePrekeys: count("one-time"),
    kemPrekeys: count("kem"),
    ...remaining,
    retired,
    publishedAt: now,
  });
  if (signedPrekeyId === null || previousSignedId === null) return [published];
  const rotated = facts.rotated({
    agentId,
    custody,
    signedPrekeyId,
    previousSignedPrekeyId: previousSignedId,
    lastResortKemPrekeyId: lastResortId,
    rotatedAt: now,
  });
  return [published, rotated];
}
