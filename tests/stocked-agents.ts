/**
 * Agents and prekeys as rows, for tests that look at many of them at once.
 */
import type { Custody } from "../schemas/values.ts";
import type { Postgres } from "../store/postgres.ts";

export async function insertAgents(
  postgres: Postgres,
  agents: readonly { readonly agentId: string; readonly identityKey?: Uint8Array }[],
  custody: Custody,
  createdAt: number,
): Promise<void> {
  await postgres.query({
    text: `INSERT INTO messaging_agents (agent_id, identity_key, custody, created_at)
           SELECT id, key, $3, $4 FROM unnest($1::text[], $2::bytea[]) AS i (id, key)`,
    values: [
      agents.map(({ agentId }) => agentId),
      agents.map(({ identityKey = new Uint8Array(32) }) => identityKey),
      custody,
      createdAt,
    ],
  });
}

/** ACTIVE ones, under these ids. */
export async function insertPrekeys(
  postgres: Postgres,
  keyType: "signed" | "one-time" | "kem" | "kem-last-resort",
  createdAt: number,
  prekeys: readonly { readonly agentId: string; readonly id: string }[],
): Promise<void> {
  await postgres.query({
    text: `INSERT INTO messaging_prekeys (agent_id, prekey_id, key_type, public_key, signature, status, created_at, stored_at)
           SELECT agent_id, id, $3, '\\x00', '\\x00', 'ACTIVE', $4, $4 FROM unnest($1::text[], $2::uuid[]) AS i (agent_id, id)`,
    values: [prekeys.map(({ agentId }) => agentId), prekeys.map(({ id }) => id), keyType, createdAt],
  });
}
