/**
 * Items that a reader's cursor has passed, and of which the service itself has something to tell: done with or refused at their opening, and waiting all the same; or
 * failed, and to be asked for again.
 *
 * A cursor says what its caller has seen. What the service owes about an item may have been lost on its way to the log, and the caller knows nothing of it and
 * does not come back for it: so it is looked for again (docs/custody.md).
 */
import type { ItemKey } from "../mailbox.ts";
import type { Queryable } from "../postgres.ts";

/** More are looked for when these have ended. Readers that know nothing of cursors have as many on a page. */
const PASSED_MAX = 100;

/** By seq, none above `upTo`. `now`: ms since the epoch. */
export async function findPassed(
  db: Queryable,
  recipientId: string,
  upTo: number,
  now: number,
): Promise<readonly ItemKey[]> {
  if (upTo === 0) return [];
  // OFFSET 0 keeps the questions index look-ups in one partition for each item. Usually nothing waits there: what was read has been answered.
  const { rows } = await db.query<{ seq: number; sender_id: string; item_id: string }>({
    name: "find-passed",
    text: `SELECT q.seq, q.sender_id, q.item_id FROM messaging_queue q
           LEFT JOIN LATERAL (
             SELECT outcome FROM messaging_opened o
             WHERE o.recipient_id = q.recipient_id AND o.sender_id = q.sender_id AND o.message_id = q.item_id OFFSET 0) AS o ON true
           LEFT JOIN LATERAL (
             SELECT ask_at FROM messaging_failed f
             WHERE f.recipient_id = q.recipient_id AND f.sender_id = q.sender_id AND f.message_id = q.item_id OFFSET 0) AS f ON true
           WHERE q.recipient_id = $1 AND q.seq <= $2 AND q.kind = 'message' AND q.aside_at IS NULL
             AND (o.outcome <> 'content' OR (o.outcome IS NULL AND f.ask_at <= $3))
           ORDER BY q.seq LIMIT ${PASSED_MAX}`,
    values: [recipientId, upTo, now],
  });
  return rows.map((row) => ({ seq: row.seq, senderId: row.sender_id, itemId: row.item_id }));
}
