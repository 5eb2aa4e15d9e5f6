/**
 * What was opened for agents of server custody: by (recipient, sender, message id) what came of it, for 40 days.
 *
 * Promises: an outcome is written once, in the transaction that moved the ratchet; content is there, sealed, until its item has ended (acks deletes
 * it), so that whoever lost an answer is given it again.
 */
import { messageIdTime } from "../../protocol/message-id.ts";
import { type ProtocolCode, Refusal } from "../../protocol/refusal.ts";
import type { MessageDays } from "../message-days.ts";
import type { MessageKey } from "../messages.ts";
import type { Queryable } from "../postgres.ts";
import type { CustodyKeys } from "./custody-keys.ts";

/** `content`: for the agent. `handled`: a repeat, or a message of the protocol itself. A code: it will never be of use. */
export type OpenedOutcome = "content" | "handled" | ProtocolCode;

export interface OpenedRow extends MessageKey {
  readonly outcome: OpenedOutcome;
  /** Sealed; null for other outcomes, and when its item has ended. */
  readonly content: Uint8Array | null;
}

/** Those that were opened, in any order. */
export async function findOpened(
  db: Queryable,
  recipientId: string,
  keys: readonly MessageKey[],
): Promise<readonly OpenedRow[]> {
  if (keys.length === 0) return [];
  const { rows } = await db.query<{
    sender_id: string;
    message_id: string;
    outcome: OpenedOutcome;
    content: Uint8Array | null;
  }>({
    name: "find-opened",
    text: `SELECT o.* FROM unnest($2::text[], $3::uuid[]) AS i (sender_id, message_id)
           CROSS JOIN LATERAL (
             SELECT sender_id, message_id, outcome, content FROM messaging_opened o
             WHERE o.recipient_id = $1 AND o.sender_id = i.sender_id AND o.message_id = i.message_id OFFSET 0) AS o`,
    values: [recipientId, keys.map(({ senderId }) => senderId), keys.map(({ messageId }) => messageId)],
  });
  return rows.map(({ sender_id: senderId, message_id: messageId, outcome, content }) => {
    return { senderId, messageId, outcome, content };
  });
}

/**
 * Those that were opened and can be answered, in any order. A content whose day's key is gone, as in an old backup, is gone: its message was not opened, as far as
 * anybody will know. That the agent's own keys are there has been proved.
 */
export async function recallOpened(
  db: Queryable,
  keys: Pick<CustodyKeys, "isContentGone">,
  recipientId: string,
  wanted: readonly MessageKey[],
): Promise<readonly OpenedRow[]> {
  const found = await findOpened(db, recipientId, wanted);
  return found.filter((row) => !isGone(keys, recipientId, row));
}

/** The same, and what is gone makes room for another opening: only under the locks of the states, for another may have been written since it was looked at. */
export async function recallOrForget(
  client: Queryable,
  keys: Pick<CustodyKeys, "isContentGone">,
  recipientId: string,
  wanted: readonly MessageKey[],
): Promise<readonly OpenedRow[]> {
  const found = await findOpened(client, recipientId, wanted);
  const gone = found.filter((row) => isGone(keys, recipientId, row));
  await forgetOpened(client, recipientId, gone);
  return found.filter((row) => !gone.includes(row));
}

function isGone(keys: Pick<CustodyKeys, "isContentGone">, recipientId: string, { content }: OpenedRow): boolean {
  try {
    return content !== null && keys.isContentGone(recipientId, content);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    // Where the answer is made it will be found damaged, alone.
    return error.code === "key-unknown";
  }
}

/** Those that hold what they held when they were looked at. */
async function forgetOpened(client: Queryable, recipientId: string, gone: readonly OpenedRow[]): Promise<void> {
  if (gone.length === 0) return;
  await client.query({
    name: "forget-opened",
    text: `DELETE FROM messaging_opened o
           USING unnest($2::text[], $3::uuid[], $4::bytea[]) AS i (sender_id, message_id, content)
           WHERE o.recipient_id = $1 AND o.sender_id = i.sender_id AND o.message_id = i.message_id AND o.content = i.content`,
    values: [
      recipientId,
      gone.map(({ senderId }) => senderId),
      gone.map(({ messageId }) => messageId),
      gone.map(({ content }) => content),
    ],
  });
}

/** At most one for each message; the caller holds the locks of the states, and found none of them. */
export async function writeOpened(
  client: Queryable,
  days: MessageDays,
  recipientId: string,
  opened: readonly OpenedRow[],
): Promise<void> {
  if (opened.length === 0) return;
  await days.ensure(opened.map(({ messageId }) => messageIdTime(messageId) ?? 0));
  await client.query({
    name: "write-opened",
    text: `INSERT INTO messaging_opened (recipient_id, sender_id, message_id, outcome, content)
           SELECT $1, * FROM unnest($2::text[], $3::uuid[], $4::text[], $5::bytea[]) AS i (sender_id, message_id, outcome, content)
           ORDER BY sender_id, message_id`,
    values: [
      recipientId,
      opened.map(({ senderId }) => senderId),
      opened.map(({ messageId }) => messageId),
      opened.map(({ outcome }) => outcome),
      opened.map(({ content }) => content),
    ],
  });
}
