/**
 * The commands of server custody that are done: by (sender, message id) the envelope that each led to, for 40 days.
 *
 * Promise: a command has one envelope, for good. What wants to write a second one fails as the record's fault, and finds the first when it is done again.
 */
import { messageIdTime } from "../../protocol/message-id.ts";
import type { MessageDays } from "../message-days.ts";
import type { MessageKey } from "../messages.ts";
import type { Queryable } from "../postgres.ts";

export interface DoneCommand extends MessageKey {
  /** As it came with the command; empty for a rekey. */
  readonly hmac: Uint8Array;
  /** Canonical bytes. */
  readonly envelope: Uint8Array;
}

/** Those that are done, in any order. */
export async function findCommands(db: Queryable, keys: readonly MessageKey[]): Promise<readonly DoneCommand[]> {
  if (keys.length === 0) return [];
  const { rows } = await db.query<{ sender_id: string; message_id: string; hmac: Uint8Array; envelope: Uint8Array }>({
    name: "find-commands",
    text: `SELECT c.* FROM unnest($1::text[], $2::uuid[]) AS i (sender_id, message_id)
           CROSS JOIN LATERAL (
             SELECT sender_id, message_id, hmac, envelope FROM messaging_commands c
             WHERE c.sender_id = i.sender_id AND c.message_id = i.message_id OFFSET 0) AS c`,
    values: [keys.map(({ senderId }) => senderId), keys.map(({ messageId }) => messageId)],
  });
  return rows.map(({ sender_id: senderId, message_id: messageId, hmac, envelope }) => {
    return { senderId, messageId, hmac, envelope };
  });
}

export async function writeCommands(
  client: Queryable,
  days: MessageDays,
  commands: readonly DoneCommand[],
): Promise<void> {
  if (commands.length === 0) return;
  await days.ensure(commands.map(({ messageId }) => messageIdTime(messageId) ?? 0));
  await client.query({
    name: "write-commands",
    text: `INSERT INTO messaging_commands (sender_id, message_id, hmac, envelope)
           SELECT * FROM unnest($1::text[], $2::uuid[], $3::bytea[], $4::bytea[]) AS i (sender_id, message_id, hmac, envelope)
           ORDER BY sender_id, message_id`,
    values: [
      commands.map(({ senderId }) => senderId),
      commands.map(({ messageId }) => messageId),
      commands.map(({ hmac }) => hmac),
      commands.map(({ envelope }) => envelope),
    ],
  });
}
