/**
 * The commands of server custody that were discarded before they were encrypted: why, for 40 days.
 *
 * Promises: the latest discard of an id, by the log's time, is the one that is found, and writing one again changes nothing. A command that was encrypted is not found here, whatever came
 * before: the encryption is its row in `messaging_commands`, and takes nothing away here.
 */
import { messageIdTime } from "../../protocol/message-id.ts";
import type { MessageDays } from "../message-days.ts";
import { type MessageKey, messageName } from "../messages.ts";
import type { Queryable } from "../postgres.ts";

export interface DiscardedCommand extends MessageKey {
  readonly recipientId: string;
  readonly code: string;
  /** ms since the epoch. */
  readonly discardedAt: number;
}

/** In any order. */
export async function writeDiscarded(
  client: Queryable,
  days: MessageDays,
  commands: readonly DiscardedCommand[],
): Promise<void> {
  if (commands.length === 0) return;
  // A row twice in one statement would collide with itself.
  const inOrder = commands.toSorted((a, b) => a.discardedAt - b.discardedAt);
  const latest = [...new Map(inOrder.map((command) => [messageName(command), command])).values()];
  await days.ensure(latest.map(({ messageId }) => messageIdTime(messageId) ?? 0));
  await client.query({
    name: "write-discarded",
    text: `INSERT INTO messaging_discarded AS d (sender_id, message_id, recipient_id, code, discarded_at)
           SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::bigint[])
             AS i (sender_id, message_id, recipient_id, code, discarded_at)
           ORDER BY sender_id, message_id
           ON CONFLICT (sender_id, message_id) DO UPDATE
           SET recipient_id = excluded.recipient_id, code = excluded.code, discarded_at = excluded.discarded_at
           WHERE d.discarded_at <= excluded.discarded_at`,
    values: [
      latest.map(({ senderId }) => senderId),
      latest.map(({ messageId }) => messageId),
      latest.map(({ recipientId }) => recipientId),
      latest.map(({ code }) => code),
      latest.map(({ discardedAt }) => discardedAt),
    ],
  });
}

/** Those that were discarded and not encrypted since, in any order. Throws `Unavailable`. */
export async function findDiscarded(db: Queryable, keys: readonly MessageKey[]): Promise<readonly DiscardedCommand[]> {
  if (keys.length === 0) return [];
  const { rows } = await db.query<{
    sender_id: string;
    message_id: string;
    recipient_id: string;
    code: string;
    discarded_at: number;
  }>({
    name: "find-discarded",
    text: `SELECT d.* FROM unnest($1::text[], $2::uuid[]) AS i (sender_id, message_id)
           CROSS JOIN LATERAL (
             SELECT sender_id, message_id, recipient_id, code, discarded_at FROM messaging_discarded d
             WHERE d.sender_id = i.sender_id AND d.message_id = i.message_id OFFSET 0) AS d
           WHERE NOT EXISTS (
             SELECT FROM messaging_commands c WHERE c.sender_id = d.sender_id AND c.message_id = d.message_id OFFSET 0)`,
    values: [keys.map(({ senderId }) => senderId), keys.map(({ messageId }) => messageId)],
  });
  return rows.map((row) => ({
    senderId: row.sender_id,
    messageId: row.message_id,
    recipientId: row.recipient_id,
    code: row.code,
    discardedAt: row.discarded_at,
  }));
}
