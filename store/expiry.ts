/**
 * What has waited for as long as an item may wait, by the time of its expiry. Changes nothing: acks ends it.
 */
import type { Queryable } from "./postgres.ts";

export interface ExpiredItem {
  readonly recipientId: string;
  readonly senderId: string;
  /** UUID, lower-case text. */
  readonly itemId: string;
}

/** Where a page ended. */
export interface ExpiryPlace {
  readonly expiresAt: number;
  readonly recipientId: string;
  readonly seq: number;
}

export interface ExpiredPage {
  readonly items: readonly ExpiredItem[];
  /** Where the next page begins; null after the last. */
  readonly next: ExpiryPlace | null;
}

/**
 * Those that have expired at `now` (ms since the epoch), after `after`, at most `limit`.
 *
 * An item is there until it has ended, so somebody who asks again soon sees it again.
 */
export async function findExpired(
  db: Queryable,
  now: number,
  after: ExpiryPlace | null,
  limit: number,
): Promise<ExpiredPage> {
  const { expiresAt, recipientId, seq } = after ?? { expiresAt: 0, recipientId: "", seq: 0 };
  const { rows } = await db.query<ExpiredRow>({
    name: "find-expired",
    text: `SELECT expires_at, recipient_id, seq, sender_id, item_id FROM messaging_queue
           WHERE expires_at <= $1 AND expires_at >= $2 AND (expires_at, recipient_id, seq) > ($2, $3, $4)
           ORDER BY expires_at, recipient_id, seq LIMIT $5`,
    values: [now, expiresAt, recipientId, seq, limit],
  });
  const last = rows.at(-1);
  return {
    items: rows.map((row) => ({ recipientId: row.recipient_id, senderId: row.sender_id, itemId: row.item_id })),
    next:
      last === undefined || rows.length < limit
        ? null
        : { expiresAt: last.expires_at, recipientId: last.recipient_id, seq: last.seq },
  };
}

interface ExpiredRow {
  readonly expires_at: number;
  readonly recipient_id: string;
  readonly seq: number;
  readonly sender_id: string;
  readonly item_id: string;
}
