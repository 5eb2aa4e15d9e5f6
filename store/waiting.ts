/**
 * How much waits: of one sender in mailboxes, and in mailboxes as a whole.
 *
 * Rows are counted: what was asked to be evicted, or is set aside, waits until it has ended.
 */
import type { Queryable } from "./postgres.ts";

export interface WaitingCounts {
  readonly recipientId: string;
  /** Items of the sender, at most `countMax`: beyond, nobody needs to know. */
  readonly ofSender: number;
  /** Items of everybody. */
  readonly items: number;
  /** Bytes of their bodies. */
  readonly bytes: number;
  /** How many of the asked messages, up to the last of them that was stored, whatever became of it. */
  readonly stored: number;
}

/** A mailbox, and messages of the sender for it in the order in which they were sent. */
export interface WaitingQuestion {
  readonly recipientId: string;
  readonly messageIds: readonly string[];
}

/** One for each question, in their order, all of one moment. One look-up of the totals, one stretch of an index, and one look-up for each message. */
export async function countWaiting(
  db: Queryable,
  senderId: string,
  questions: readonly WaitingQuestion[],
  countMax: number,
): Promise<readonly WaitingCounts[]> {
  const { rows } = await db.query<{
    recipient_id: string;
    of_sender: number;
    items: number;
    bytes: number;
    stored: number;
  }>({
    name: "count-waiting",
    text: `SELECT i.recipient_id, own.items AS of_sender,
                  coalesce(b.stored_items, 0) - coalesce(e.ended_items, 0) AS items,
                  (coalesce(b.stored_bytes, 0) - coalesce(e.ended_bytes, 0))::bigint AS bytes,
                  coalesce((SELECT max(m.n) FROM unnest($4::bigint[], $5::uuid[], $6::int[]) AS m (place, message_id, n)
                            WHERE m.place = i.n AND EXISTS (
                              SELECT FROM messaging_messages s WHERE s.sender_id = $1 AND s.message_id = m.message_id OFFSET 0)), 0) AS stored
           FROM unnest($2::text[]) WITH ORDINALITY AS i (recipient_id, n)
           LEFT JOIN messaging_mailboxes b ON b.recipient_id = i.recipient_id
           LEFT JOIN messaging_mailbox_ends e ON e.recipient_id = i.recipient_id
           CROSS JOIN LATERAL (
             SELECT count(*) AS items FROM (
               SELECT FROM messaging_queue q WHERE q.recipient_id = i.recipient_id AND q.sender_id = $1 LIMIT $3) AS few) AS own
           ORDER BY i.n`,
    values: [
      senderId,
      questions.map(({ recipientId }) => recipientId),
      countMax,
      questions.flatMap(({ messageIds }, index) => messageIds.map(() => index + 1)),
      questions.flatMap(({ messageIds }) => messageIds),
      questions.flatMap(({ messageIds }) => messageIds.map((_, index) => index + 1)),
    ],
  });
  return rows.map((row) => ({
    recipientId: row.recipient_id,
    ofSender: row.of_sender,
    items: row.items,
    bytes: row.bytes,
    stored: row.stored,
  }));
}
