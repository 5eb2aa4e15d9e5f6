/**
 * What becomes of items in mailboxes: what the acks consumer's step does in the database.
 *
 * Promises: the first delivery and the first end of an item win; after its end nothing changes; an acknowledged item counts as
 * delivered; an item that is not there (ended, of another mailbox, never stored) is left alone. Says of each message what turned,
 * once and never again.
 *
 * Called inside the step's transaction. The only writer of `messaging_messages` rows after queuing made them, and of
 * `messaging_mailbox_ends`; deletes from `messaging_queue`, and sets aside there; deletes the opened content of what has ended from `messaging_opened`.
 */
import type { Custody, Outcome } from "../schemas/values.ts";
import type { Queryable } from "./postgres.ts";

/** The outcomes that end an item. */
export type End = Exclude<Outcome, "delivered" | "undeliverable" | "aside">;

/** What is reported of one item, at most one of each; times in ms since the epoch. */
export interface Change {
  readonly recipientId: string;
  readonly senderId: string;
  /** UUID, lower-case text. */
  readonly itemId: string;
  readonly deliveredAt: number | null;
  readonly undeliverableAt: number | null;
  readonly asideAt: number | null;
  readonly end: { readonly outcome: End; readonly at: number; readonly code: string | null } | null;
}

/** What a change turned of a message, and the message. */
export interface Turned<Item extends Change> {
  /** As the caller handed it in. */
  readonly change: Item;
  /** It was not delivered before. */
  readonly delivered: boolean;
  readonly undeliverable: boolean;
  /** It had not ended before. */
  readonly ended: boolean;
  readonly sessionId: Uint8Array;
  readonly sendCounter: number;
  readonly seq: number;
  readonly size: number;
  readonly custody: Custody;
  readonly acceptedAt: number;
  readonly queuedAt: number;
  /** null when it was never delivered. */
  readonly deliveredAt: number | null;
}

const deliveredBit = 1;
const undeliverableBit = 2;
const endedBit = 4;

/**
 * Applies the changes; at most one for each item.
 *
 * @returns one entry for each message of which something turned, in the order of the changes. Retry requests are not messages:
 *   their rows go, nothing is returned.
 */
export async function settle<Item extends Change>(
  client: Queryable,
  changes: readonly Item[],
): Promise<readonly Turned<Item>[]> {
  if (changes.length === 0) return [];
  await setAside(client, changes);
  const { rows } = await client.query<TurnedRow>({
    name: "settle-items",
    text: `WITH input AS MATERIALIZED (
             SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::text[])
               WITH ORDINALITY AS i (recipient_id, sender_id, item_id, delivered_at, undeliverable_at, outcome, ended_at, code, n)
             ORDER BY recipient_id, sender_id, item_id
           ), turned AS (
             UPDATE messaging_messages m SET
               delivered_at = coalesce(m.delivered_at, i.delivered_at),
               undeliverable_at = coalesce(m.undeliverable_at, i.undeliverable_at),
               outcome = i.outcome, ended_at = i.ended_at, code = i.code,
               turned = (CASE WHEN m.delivered_at IS NULL AND i.delivered_at IS NOT NULL THEN ${deliveredBit} ELSE 0 END)
                      + (CASE WHEN m.undeliverable_at IS NULL AND i.undeliverable_at IS NOT NULL THEN ${undeliverableBit} ELSE 0 END)
                      + (CASE WHEN i.outcome IS NOT NULL THEN ${endedBit} ELSE 0 END)
             FROM input i
             WHERE m.sender_id = i.sender_id AND m.message_id = i.item_id AND m.recipient_id = i.recipient_id
               AND m.outcome IS NULL
               AND (i.outcome IS NOT NULL
                 OR (i.delivered_at IS NOT NULL AND m.delivered_at IS NULL)
                 OR (i.undeliverable_at IS NOT NULL AND m.undeliverable_at IS NULL))
             RETURNING i.n, m.*
           ), gone AS (
             DELETE FROM messaging_queue q USING input i
             WHERE q.recipient_id = i.recipient_id AND q.sender_id = i.sender_id AND q.item_id = i.item_id AND i.outcome IS NOT NULL
             RETURNING q.recipient_id, octet_length(q.body) AS bytes
           ), forgotten AS (
             UPDATE messaging_opened o SET content = NULL FROM input i
             WHERE o.recipient_id = i.recipient_id AND o.sender_id = i.sender_id AND o.message_id = i.item_id
               AND i.outcome IS NOT NULL AND o.content IS NOT NULL
           ), ends AS (
             INSERT INTO messaging_mailbox_ends AS e (recipient_id, ended_items, ended_bytes)
             SELECT recipient_id, count(*), sum(bytes) FROM gone GROUP BY recipient_id ORDER BY recipient_id
             ON CONFLICT (recipient_id) DO UPDATE SET
               ended_items = e.ended_items + excluded.ended_items, ended_bytes = e.ended_bytes + excluded.ended_bytes
           )
           SELECT n::int AS n, turned, session_id, send_counter, seq, size, custody, accepted_at, queued_at, delivered_at
           FROM turned ORDER BY n`,
    values: [
      changes.map(({ recipientId }) => recipientId),
      changes.map(({ senderId }) => senderId),
      changes.map(({ itemId }) => itemId),
      changes.map(({ deliveredAt, end }) => deliveredAt ?? (end?.outcome === "acknowledged" ? end.at : null)),
      changes.map(({ undeliverableAt }) => undeliverableAt),
      changes.map(({ end }) => end?.outcome ?? null),
      changes.map(({ end }) => end?.at ?? null),
      changes.map(({ end }) => end?.code ?? null),
    ],
  });
  return rows.map((row) => turnedOf(row, changes));
}

/** Rare, and before the ends: an item that is set aside and ended in the same step has ended. */
async function setAside(client: Queryable, changes: readonly Change[]): Promise<void> {
  const aside = changes.filter(({ asideAt, end }) => asideAt !== null && end === null);
  if (aside.length === 0) return;
  await client.query({
    name: "set-items-aside",
    text: `UPDATE messaging_queue q SET aside_at = i.aside_at
           FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[]) AS i (recipient_id, sender_id, item_id, aside_at)
           WHERE q.recipient_id = i.recipient_id AND q.sender_id = i.sender_id AND q.item_id = i.item_id AND q.aside_at IS NULL`,
    values: [
      aside.map(({ recipientId }) => recipientId),
      aside.map(({ senderId }) => senderId),
      aside.map(({ itemId }) => itemId),
      aside.map(({ asideAt }) => asideAt),
    ],
  });
}

interface TurnedRow {
  readonly n: number;
  readonly turned: number;
  readonly session_id: Uint8Array;
  readonly send_counter: number;
  readonly seq: number;
  readonly size: number;
  readonly custody: Custody;
  readonly accepted_at: number;
  readonly queued_at: number;
  readonly delivered_at: number | null;
}

function turnedOf<Item extends Change>(row: TurnedRow, changes: readonly Item[]): Turned<Item> {
  const change = changes[row.n - 1];
  if (change === undefined) throw new Error("the database answered about a change it was not asked for");
  return {
    change,
    delivered: (row.turned & deliveredBit) !== 0,
    undeliverable: (row.turned & undeliverableBit) !== 0,
    ended: (row.turned & endedBit) !== 0,
    sessionId: row.session_id,
    sendCounter: row.send_counter,
    seq: row.seq,
    size: row.size,
    custody: row.custody,
    acceptedAt: row.accepted_at,
    queuedAt: row.queued_at,
    deliveredAt: row.delivered_at,
  };
}
