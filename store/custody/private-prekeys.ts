/**
 * The private halves of prekeys of server custody.
 *
 * Promise: whoever uses one holds its row, and erases it in the same transaction when it is used up: two first messages that name one one-time prekey do
 * not both open. Whoever locks ratchet states as well does so before.
 */
import type { Queryable } from "../postgres.ts";

export interface PrivatePrekey {
  readonly prekeyId: string;
  readonly keyType: "signed" | "one-time" | "kem" | "kem-last-resort";
  readonly publicKey: Uint8Array;
  /** Sealed. */
  readonly privateKeyEncrypted: Uint8Array;
}

/** Those whose private half is there, locked until the transaction ends. */
export async function lockPrivatePrekeys(
  client: Queryable,
  agentId: string,
  prekeyIds: readonly string[],
): Promise<readonly PrivatePrekey[]> {
  if (prekeyIds.length === 0) return [];
  const { rows } = await client.query<{
    prekey_id: string;
    key_type: PrivatePrekey["keyType"];
    public_key: Uint8Array;
    private_key_encrypted: Uint8Array | null;
  }>({
    name: "lock-private-prekeys",
    text: `SELECT prekey_id, key_type, public_key, private_key_encrypted FROM messaging_prekeys
           WHERE agent_id = $1 AND prekey_id = ANY ($2::uuid[]) ORDER BY prekey_id FOR UPDATE`,
    values: [agentId, prekeyIds],
  });
  return rows.flatMap((row) => {
    const { prekey_id: prekeyId, key_type: keyType, public_key: publicKey } = row;
    const { private_key_encrypted: privateKeyEncrypted } = row;
    return privateKeyEncrypted === null ? [] : [{ prekeyId, keyType, publicKey, privateKeyEncrypted }];
  });
}

/** Those of the agent's signed prekeys whose private half is there. */
export async function findSignedPrekeys(db: Queryable, agentId: string): Promise<ReadonlySet<string>> {
  const { rows } = await db.query<{ prekey_id: string }>({
    name: "find-signed-private-prekeys",
    text: `SELECT prekey_id FROM messaging_prekeys
           WHERE agent_id = $1 AND key_type = 'signed' AND private_key_encrypted IS NOT NULL`,
    values: [agentId],
  });
  return new Set(rows.map(({ prekey_id }) => prekey_id));
}

export async function erasePrivatePrekeys(
  client: Queryable,
  agentId: string,
  prekeyIds: readonly string[],
): Promise<void> {
  if (prekeyIds.length === 0) return;
  await client.query({
    name: "erase-private-prekeys",
    text: "UPDATE messaging_prekeys SET private_key_encrypted = NULL WHERE agent_id = $1 AND prekey_id = ANY ($2::uuid[])",
    values: [agentId, prekeyIds],
  });
}
