/**
 * What a recovery does in the tables of server custody, and to prekeys, after the database was put back from a backup (docs/restore.md).
 *
 * Promises: each part may be done again, whole or half done, and changes nothing then. A command that the database knows keeps its envelope.
 */
import { messageIdTime } from "../../protocol/message-id.ts";
import type { Delegation } from "../../schemas/values.ts";
import type { MessageDays } from "../message-days.ts";
import type { MessageKey } from "../messages.ts";
import { inTransaction, type Postgres, type Queryable } from "../postgres.ts";
import { delegationColumn } from "./commands.ts";

/** What has left because of a command. */
export interface LeftEnvelope extends MessageKey {
  /** Canonical bytes. */
  readonly envelope: Uint8Array;
  readonly delegation: readonly Delegation[];
}

/** Begins to gather commands, until the transaction ends. Between two statements of it the log is read, for as long as that takes; it holds no rows that others want. */
export async function beginGathering(client: Queryable): Promise<void> {
  await client.query({ text: "SET LOCAL idle_in_transaction_session_timeout = 0" });
  await client.query({
    text: `CREATE TEMPORARY TABLE commands_again
             (sender_id text COLLATE "C", message_id uuid, PRIMARY KEY (sender_id, message_id)) ON COMMIT DROP`,
  });
}

/** Commands that will be read again. */
export async function gather(client: Queryable, commands: readonly MessageKey[]): Promise<void> {
  await client.query({
    text: "INSERT INTO commands_again SELECT * FROM unnest($1::text[], $2::uuid[]) ON CONFLICT DO NOTHING",
    values: [commands.map(({ senderId }) => senderId), commands.map(({ messageId }) => messageId)],
  });
}

/**
 * Keeps the envelopes of gathered commands, so that those publish them and nothing else. What they said is kept with the first command that is read again under each
 * name: in a log without a gap it is the one that was encrypted (consumers/encryption). Answers how many were not known.
 */
export async function keepEnvelopes(
  client: Queryable,
  days: MessageDays,
  envelopes: readonly LeftEnvelope[],
): Promise<number> {
  if (envelopes.length === 0) return 0;
  await days.ensure(envelopes.map(({ messageId }) => messageIdTime(messageId) ?? 0));
  const { rowCount } = await client.query({
    text: `INSERT INTO messaging_commands (sender_id, message_id, hmac, envelope, delegation)
           SELECT sender_id, message_id, NULL, envelope, delegation
           FROM unnest($1::text[], $2::uuid[], $3::bytea[], $4::jsonb[]) WITH ORDINALITY AS i (sender_id, message_id, envelope, delegation, n)
           JOIN commands_again USING (sender_id, message_id)
           ORDER BY n ON CONFLICT DO NOTHING`,
    values: [
      envelopes.map(({ senderId }) => senderId),
      envelopes.map(({ messageId }) => messageId),
      envelopes.map(({ envelope }) => envelope),
      envelopes.map(({ delegation }) => delegationColumn(delegation)),
    ],
  });
  return rowCount ?? 0;
}

/** Agents whose prekeys are retired in one transaction: their claims wait for some milliseconds. */
const AGENTS_PAGE = 100;

/**
 * One-time prekeys that were stored before `before`, ms, may have been handed out since the backup: they are handed out no more. Their private halves
 * stay as long as those of used ones. That an agent has few is told anew.
 *
 * @returns how many
 */
export async function retireOneTimePrekeys(postgres: Postgres, before: number): Promise<number> {
  let retired = 0;
  for (let after: string | null = ""; after !== null; ) {
    const page: RetiredPage = await retirePage(postgres, after, before);
    retired += page.retired;
    after = page.last;
  }
  return retired;
}

interface RetiredPage {
  readonly retired: number;
  /** Null behind the last agent. */
  readonly last: string | null;
}

function retirePage(postgres: Postgres, after: string, before: number): Promise<RetiredPage> {
  return inTransaction(postgres, async (client) => {
    const { rows } = await client.query<{ agent_id: string }>({
      text: `SELECT agent_id FROM messaging_agents WHERE agent_id > $1 ORDER BY agent_id LIMIT ${AGENTS_PAGE} FOR NO KEY UPDATE`,
      values: [after],
    });
    const agentIds = rows.map((row) => row.agent_id);
    if (agentIds.length === 0) return { retired: 0, last: null };
    const { rowCount } = await client.query({
      text: `UPDATE messaging_prekeys SET status = 'USED', used_at = $2
             WHERE agent_id = ANY ($1) AND key_type IN ('one-time', 'kem') AND status = 'ACTIVE' AND stored_at < $2`,
      values: [agentIds, before],
    });
    await client.query({ text: "DELETE FROM messaging_prekey_dips WHERE agent_id = ANY ($1)", values: [agentIds] });
    return { retired: rowCount ?? 0, last: agentIds.at(-1) ?? null };
  });
}
