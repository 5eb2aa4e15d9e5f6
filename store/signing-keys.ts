/**
 * Signing keys: further keys that sign an agent's requests.
 *
 * Promises: a key speaks for one agent; an agent has at most `signingKeysMax` that are in force; each change and the fact that tells the world are
 * one transaction; a key that was removed never comes back, whatever certificates there are of it; none makes its life shorter, which removing it does.
 */
import { Refusal } from "../protocol/refusal.ts";
import type { MakeAgentFact } from "./agent-status.ts";
import { lockAgent } from "./agents.ts";
import { addFact } from "./facts.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";

export interface SigningKey {
  /** RFC 7638 thumbprint; unique among all keys and agents. */
  readonly keyId: string;
  readonly agentId: string;
  /** Ed25519, 32 bytes. */
  readonly publicKey: Uint8Array;
  /** ms since the epoch. */
  readonly notAfter: number;
  readonly createdAt: number;
}

export interface NewSigningKey extends Omit<SigningKey, "createdAt"> {
  readonly certificate: Uint8Array;
}

/** A key for each worker of a large deployment. More, and nobody knows any more who has them. */
export const signingKeysMax = 16;

/** So long a worker whose key has ended is told so, and not that nobody knows it. One that was removed is remembered for good. */
const rememberedMs = 30 * 24 * 60 * 60 * 1000;

/**
 * Adds a key, or says anew until when it is in force. The same again changes nothing.
 *
 * @throws Refusal `signing-keys-full`, `signing-key-taken` (by another agent, or as an agent), `signing-key-removed`, `signing-key-shorter`, `agent-unknown`;
 * `Unavailable`
 */
export function putSigningKey(
  postgres: Postgres,
  makeFact: MakeAgentFact,
  key: NewSigningKey,
  now: number,
): Promise<{ readonly key: SigningKey; readonly created: boolean }> {
  const { keyId, agentId, publicKey, certificate, notAfter } = key;
  return inTransaction(postgres, async (client) => {
    const agent = await lockAgent(client, agentId);
    if (agent === null) throw new Refusal("agent-unknown");
    await client.query({
      name: "forget-ended-signing-keys",
      text: `DELETE FROM messaging_signing_keys
             WHERE agent_id = $1 AND removed_at IS NULL AND not_after <= $2 AND key_id <> $3`,
      values: [agentId, now - rememberedMs, keyId],
    });
    const before = await findRow(client, keyId);
    if (before !== null && before.agentId !== agentId) throw new Refusal("signing-key-taken");
    if (before !== null && before.removedAt !== null) throw new Refusal("signing-key-removed");
    if (before?.notAfter === notAfter) return { key: before, created: false };
    // Whoever has the longer certificate could undo it.
    if (before !== null && notAfter < before.notAfter) throw new Refusal("signing-key-shorter");
    if (before === null || before.notAfter <= now) await requireRoom(client, key, now);
    const { rowCount } = await client.query({
      name: "put-signing-key",
      text: `INSERT INTO messaging_signing_keys AS k (key_id, agent_id, public_key, certificate, not_after, created_at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (key_id) DO UPDATE SET certificate = excluded.certificate, not_after = excluded.not_after
             WHERE k.agent_id = excluded.agent_id`,
      values: [keyId, agentId, publicKey, certificate, notAfter, now],
    });
    // Another agent was faster.
    if (rowCount === 0) throw new Refusal("signing-key-taken");
    const { custody } = agent;
    await addFact(client, makeFact({ agentId, change: "signing-key-added", custody, keyId, changedAt: now }), now);
    const createdAt = before?.createdAt ?? now;
    return { key: { keyId, agentId, publicKey, notAfter, createdAt }, created: before === null };
  });
}

async function requireRoom(client: Queryable, { agentId, keyId }: NewSigningKey, now: number): Promise<void> {
  const { rows } = await client.query<{ is_agent: boolean; count: number }>({
    name: "room-for-signing-key",
    text: `SELECT EXISTS (SELECT FROM messaging_agents WHERE agent_id = $2) AS is_agent,
                  (SELECT count(*)::int FROM messaging_signing_keys
                   WHERE agent_id = $1 AND removed_at IS NULL AND not_after > $3) AS count`,
    values: [agentId, keyId, now],
  });
  const [found] = rows;
  if (found?.is_agent === true) throw new Refusal("signing-key-taken");
  if ((found?.count ?? 0) >= signingKeysMax) throw new Refusal("signing-keys-full");
}

/** Answers whether it was in force. @throws Unavailable */
export function removeSigningKey(
  postgres: Postgres,
  makeFact: MakeAgentFact,
  { agentId, keyId }: Pick<SigningKey, "agentId" | "keyId">,
  now: number,
): Promise<boolean> {
  return inTransaction(postgres, async (client) => {
    const agent = await lockAgent(client, agentId);
    if (agent === null) return false;
    // One that has ended as well: there may be a certificate that nobody has shown yet.
    const { rows } = await client.query<{ was_in_force: boolean }>({
      name: "remove-signing-key",
      text: `UPDATE messaging_signing_keys SET removed_at = $3
             WHERE key_id = $2 AND agent_id = $1 AND removed_at IS NULL RETURNING not_after > $3 AS was_in_force`,
      values: [agentId, keyId, now],
    });
    const [removed] = rows;
    if (removed === undefined) return false;
    const { custody } = agent;
    await addFact(client, makeFact({ agentId, change: "signing-key-removed", custody, keyId, changedAt: now }), now);
    return removed.was_in_force;
  });
}

/** Those in force, the oldest first. @throws Unavailable */
export async function listSigningKeys(db: Queryable, agentId: string, now: number): Promise<readonly SigningKey[]> {
  const { rows } = await db.query<KeyRow>({
    name: "list-signing-keys",
    text: `SELECT * FROM messaging_signing_keys WHERE agent_id = $1 AND removed_at IS NULL AND not_after > $2
           ORDER BY created_at, key_id`,
    values: [agentId, now],
  });
  return rows.map(keyOf);
}

/** `ended`: it is in force no more; null: there is none. @throws Unavailable */
export async function findSigningKey(db: Queryable, keyId: string, now: number): Promise<SigningKey | "ended" | null> {
  const row = await findRow(db, keyId);
  return row !== null && (row.removedAt !== null || row.notAfter <= now) ? "ended" : row;
}

/** Those of these that are in force no more, as of now. @throws Unavailable */
export async function findEndedKeys(
  db: Queryable,
  keyIds: readonly string[],
  now: number,
): Promise<ReadonlySet<string>> {
  if (keyIds.length === 0) return new Set();
  const { rows } = await db.query<{ key_id: string }>({
    name: "find-ended-signing-keys",
    text: `SELECT i.key_id FROM unnest($1::text[]) AS i (key_id)
           LEFT JOIN messaging_signing_keys k ON k.key_id = i.key_id COLLATE "C" AND k.removed_at IS NULL AND k.not_after > $2
           WHERE k.key_id IS NULL`,
    values: [keyIds, now],
  });
  return new Set(rows.map((row) => row.key_id));
}

async function findRow(
  db: Queryable,
  keyId: string,
): Promise<(SigningKey & { readonly removedAt: number | null }) | null> {
  const { rows } = await db.query<KeyRow>({
    name: "find-signing-key",
    text: "SELECT * FROM messaging_signing_keys WHERE key_id = $1",
    values: [keyId],
  });
  const [row] = rows;
  return row === undefined ? null : { ...keyOf(row), removedAt: row.removed_at };
}

interface KeyRow {
  readonly key_id: string;
  readonly agent_id: string;
  readonly public_key: Uint8Array;
  readonly not_after: number;
  readonly created_at: number;
  readonly removed_at: number | null;
}

function keyOf(row: KeyRow): SigningKey {
  return {
    keyId: row.key_id,
    agentId: row.agent_id,
    publicKey: row.public_key,
    notAfter: row.not_after,
    createdAt: row.created_at,
  };
}
