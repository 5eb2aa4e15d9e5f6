/**
 * What becomes of items in mailboxes: what the acks consumer's step does in the database.
 *
 * Promises: the first delivery and the first end of an item win; after its end nothing changes; an acknowledged item counts as
 * delivered; an item that is not there (ended, of another mailbox, never stored) is left alone. Says of each message what turned,
 * once and never again.
 *
 * Called inside the step's transaction. The only writer of `messaging_messages` rows after queuing made them, and of
 * `messaging_mailbox_ends`; deletes from `messaging_queue`, and sets aside there and takes that back; deletes the content of what has ended from `messaging_opened` and, unless
 * its recipient is about to ask for it anew, from `messaging_commands`.
 */
import { REPAIRABLE_CODES } from "../protocol/retry-request.ts";
import type { Custody, ItemKind, Outcome } from "../schemas/values.ts";
import type { ItemKey } from "./mailbox.ts";
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
  /** Before the delivery, where there are both. */
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

/** SQL: what was delivered is not undeliverable. */
const becomesUndeliverable = "i.undeliverable_at IS NOT NULL AND m.undeliverable_at IS NULL AND m.delivered_at IS NULL";

/** Items of a mailbox with a seq above one and up to another. */
export interface SeqRange {
  readonly recipientId: string;
  readonly afterSeq: number;
  readonly untilSeq: number;
}

/** The first of what waits in each range, by seq: at most `limit` each. In the order of the ranges. */
export async function firstOf(
  client: Queryable,
  ranges: readonly SeqRange[],
  limit: number,
): Promise<readonly (readonly ItemKey[])[]> {
  if (ranges.length === 0) return [];
  const { rows } = await client.query<{ n: number; seq: number; sender_id: string; item_id: string }>({
    name: "first-of-ranges",
    text: `SELECT r.n::int AS n, q.seq, q.sender_id, q.item_id
           FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS r (recipient_id, after_seq, until_seq, n)
           CROSS JOIN LATERAL (
             SELECT seq, sender_id, item_id FROM messaging_queue q
             WHERE q.recipient_id = r.recipient_id AND q.seq > r.after_seq AND q.seq <= r.until_seq ORDER BY q.seq LIMIT $4) AS q
           ORDER BY r.n, q.seq`,
    values: [
      ranges.map(({ recipientId }) => recipientId),
      ranges.map(({ afterSeq }) => afterSeq),
      ranges.map(({ untilSeq }) => untilSeq),
      limit,
    ],
  });
  const byRange = Map.groupBy(rows, ({ n }) => n);
  return ranges.map((_, index) =>
    (byRange.get(index + 1) ?? []).map((row) => ({ seq: row.seq, senderId: row.sender_id, itemId: row.item_id })),
  );
}

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
  const { rows } = await client.query<TurnedRow>({
    name: "settle-items",
    text: `WITH input AS MATERIALIZED (
             SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::text[])
               WITH ORDINALITY AS i (recipient_id, sender_id, item_id, delivered_at, undeliverable_at, outcome, ended_at, code, n)
             ORDER BY recipient_id, sender_id, item_id
           ), turned AS (
             UPDATE messaging_messages m SET
               delivered_at = coalesce(m.delivered_at, i.delivered_at),
               undeliverable_at = CASE WHEN ${becomesUndeliverable} THEN i.undeliverable_at ELSE m.undeliverable_at END,
               outcome = i.outcome, ended_at = i.ended_at, code = i.code,
               turned = (CASE WHEN m.delivered_at IS NULL AND i.delivered_at IS NOT NULL THEN ${deliveredBit} ELSE 0 END)
                      + (CASE WHEN ${becomesUndeliverable} THEN ${undeliverableBit} ELSE 0 END)
                      + (CASE WHEN i.outcome IS NOT NULL THEN ${endedBit} ELSE 0 END)
             FROM input i
             WHERE m.sender_id = i.sender_id AND m.message_id = i.item_id AND m.recipient_id = i.recipient_id
               AND m.outcome IS NULL
               AND (i.outcome IS NOT NULL
                 OR (i.delivered_at IS NOT NULL AND m.delivered_at IS NULL)
                 OR (${becomesUndeliverable}))
             RETURNING i.n, m.*
           ), gone AS (
             DELETE FROM messaging_queue q USING input i
             WHERE q.recipient_id = i.recipient_id AND q.sender_id = i.sender_id AND q.item_id = i.item_id AND i.outcome IS NOT NULL
             RETURNING q.recipient_id, octet_length(q.body) AS bytes
           ), forgotten AS (
             UPDATE messaging_opened o SET content = NULL FROM input i
             WHERE o.recipient_id = i.recipient_id AND o.sender_id = i.sender_id AND o.message_id = i.item_id
               AND i.outcome IS NOT NULL AND o.content IS NOT NULL
           ), unsaid AS (
             UPDATE messaging_commands c SET content = NULL FROM (
               SELECT t.sender_id, t.message_id FROM turned t JOIN input i ON i.n = t.n
               WHERE t.custody = 'server' AND i.outcome IS NOT NULL
                 AND NOT (i.outcome = 'refused' AND coalesce(i.code = ANY ($9::text[]), false))
               ORDER BY t.sender_id, t.message_id
             ) AS t
             WHERE c.sender_id = t.sender_id AND c.message_id = t.message_id AND c.content IS NOT NULL
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
      REPAIRABLE_CODES,
    ],
  });
  return rows.map((row) => turnedOf(row, changes));
}

/** A message that was set aside, and its place in the mailbox. */
export interface SetAside<Item extends Change> {
  readonly change: Item;
  readonly seq: number;
}

/**
 * Sets items aside: readers of the mailbox do not see them any more, and everything else may still happen to them. Rare, and before the ends, which take
 * the rows away.
 *
 * @returns the messages among those that wait and were not aside before, in the order of the changes
 */
export async function setAside<Item extends Change>(
  client: Queryable,
  changes: readonly Item[],
): Promise<readonly SetAside<Item>[]> {
  const aside = changes.filter(({ asideAt }) => asideAt !== null);
  if (aside.length === 0) return [];
  const { rows } = await client.query<{ n: number; seq: number; kind: ItemKind }>({
    name: "set-items-aside",
    text: `UPDATE messaging_queue q SET aside_at = i.aside_at
           FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[])
             WITH ORDINALITY AS i (recipient_id, sender_id, item_id, aside_at, n)
           WHERE q.recipient_id = i.recipient_id AND q.sender_id = i.sender_id AND q.item_id = i.item_id AND q.aside_at IS NULL
           RETURNING i.n::int AS n, q.seq, q.kind`,
    values: [
      aside.map(({ recipientId }) => recipientId),
      aside.map(({ senderId }) => senderId),
      aside.map(({ itemId }) => itemId),
      aside.map(({ asideAt }) => asideAt),
    ],
  });
  return rows
    .filter(({ kind }) => kind === "message")
    .sort((a, b) => a.n - b.n)
    .map(({ n, seq }) => ({ change: itemAt(aside, n), seq }));
}

/** An item that lost its marks, and its place in the mailbox. */
export interface Retried<Item extends Pick<Change, "recipientId" | "senderId" | "itemId">> {
  readonly item: Item;
  readonly kind: ItemKind;
  readonly seq: number;
  readonly wasSetAside: boolean;
  readonly wasUndeliverable: boolean;
}

/**
 * Takes the marks of items that wait: readers see them again, and nobody has failed to wake their recipient. One that was delivered all the same stays as
 * it is, and so does what has ended. Rare.
 *
 * @param items each at most once
 * @returns those that had a mark, in the order of the items
 */
export async function takeMarks<Item extends Pick<Change, "recipientId" | "senderId" | "itemId">>(
  client: Queryable,
  items: readonly Item[],
): Promise<readonly Retried<Item>[]> {
  if (items.length === 0) return [];
  const { rows } = await client.query<{ n: number; seq: number; kind: ItemKind; aside: boolean; failed: boolean }>({
    name: "take-marks",
    text: `WITH input AS MATERIALIZED (
             SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[]) WITH ORDINALITY AS i (recipient_id, sender_id, item_id, n)
             ORDER BY recipient_id, sender_id, item_id
           ), aside AS (
             UPDATE messaging_queue q SET aside_at = NULL FROM input i
             WHERE q.recipient_id = i.recipient_id AND q.sender_id = i.sender_id AND q.item_id = i.item_id AND q.aside_at IS NOT NULL
             RETURNING i.n, q.seq, q.kind
           ), failed AS (
             UPDATE messaging_messages m SET undeliverable_at = NULL, turned = 0 FROM input i
             WHERE m.sender_id = i.sender_id AND m.message_id = i.item_id AND m.recipient_id = i.recipient_id
               AND m.outcome IS NULL AND m.delivered_at IS NULL AND m.undeliverable_at IS NOT NULL
             RETURNING i.n, m.seq, 'message' AS kind
           )
           SELECT n::int AS n, min(seq) AS seq, min(kind) AS kind, bool_or(is_aside) AS aside, bool_or(NOT is_aside) AS failed
           FROM (SELECT *, true AS is_aside FROM aside UNION ALL SELECT *, false FROM failed) AS marked
           GROUP BY n ORDER BY n`,
    values: [
      items.map(({ recipientId }) => recipientId),
      items.map(({ senderId }) => senderId),
      items.map(({ itemId }) => itemId),
    ],
  });
  return rows.map(({ n, seq, kind, aside, failed }) => {
    return { item: itemAt(items, n), kind, seq, wasSetAside: aside, wasUndeliverable: failed };
  });
}

function itemAt<Item>(items: readonly Item[], n: number): Item {
  const item = items[n - 1];
  if (item === undefined) throw new Error("the database answered about an item it was not asked for");
  return item;
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
  return {
    change: itemAt(changes, row.n),
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
