/**
 * Keeping mailboxes within their limit: which waiting items the newest push out.
 *
 * Promise: when `evictOldest` has answered, at most `itemsMax` items of the mailbox wait that were not asked for, and they are its newest; each item is
 * asked for once. Nothing is removed here: what is asked for still waits until acks ends it, and may end otherwise before.
 *
 * Called inside queuing's step, after `place`. Writes `evicted_seq` of `messaging_mailboxes`.
 */
import type { Queryable } from "./postgres.ts";

/** A mailbox that may hold too much, and how many items came into it in this step. */
export interface FullMailbox {
  readonly recipientId: string;
  readonly arrived: number;
}

/** An item that is to end as evicted. */
export interface Evicted {
  readonly recipientId: string;
  readonly senderId: string;
  /** UUID, lower-case text. */
  readonly itemId: string;
}

/**
 * How many items may be evicted for each that came: one keeps a mailbox at its limit, a second brings one down whose limit was lowered. So a step
 * never evicts more than twice what it stored.
 */
const EVICTED_PER_ARRIVAL_MAX = 2;

/** By mailbox, the oldest first. */
export async function evictOldest(
  client: Queryable,
  mailboxes: readonly FullMailbox[],
  itemsMax: number,
): Promise<readonly Evicted[]> {
  if (mailboxes.length === 0) return [];
  // One statement, so one moment: rows = stored - ended holds in it, whatever acks does meanwhile.
  const { rows } = await client.query<{ recipient_id: string; sender_id: string; item_id: string }>({
    name: "evict-oldest",
    text: `WITH overfull AS MATERIALIZED (
             SELECT b.recipient_id, b.evicted_seq, least(
                      b.stored_items - coalesce(e.ended_items, 0) - leaving.items - $3, i.arrived * ${EVICTED_PER_ARRIVAL_MAX}) AS surplus
             FROM unnest($1::text[], $2::bigint[]) AS i (recipient_id, arrived)
             JOIN messaging_mailboxes b ON b.recipient_id = i.recipient_id
             LEFT JOIN messaging_mailbox_ends e ON e.recipient_id = i.recipient_id
             CROSS JOIN LATERAL (
               SELECT count(*) AS items FROM messaging_queue q
               WHERE q.recipient_id = i.recipient_id AND q.seq <= b.evicted_seq OFFSET 0) AS leaving
           ), oldest AS MATERIALIZED (
             SELECT q.* FROM overfull o
             CROSS JOIN LATERAL (
               SELECT q.recipient_id, q.seq, q.sender_id, q.item_id FROM messaging_queue q
               WHERE q.recipient_id = o.recipient_id AND q.seq > o.evicted_seq
               ORDER BY q.seq LIMIT greatest(o.surplus, 0)) AS q
           ), asked AS (
             UPDATE messaging_mailboxes b SET evicted_seq = last.seq
             FROM (SELECT recipient_id, max(seq) AS seq FROM oldest GROUP BY recipient_id) AS last
             WHERE b.recipient_id = last.recipient_id
           )
           SELECT recipient_id, sender_id, item_id FROM oldest ORDER BY recipient_id, seq`,
    values: [mailboxes.map(({ recipientId }) => recipientId), mailboxes.map(({ arrived }) => arrived), itemsMax],
  });
  return rows.map((row) => ({ recipientId: row.recipient_id, senderId: row.sender_id, itemId: row.item_id }));
}
