/**
 * What waits and does not get on: set aside, or its recipient could not be woken. Changes nothing: acks does.
 *
 * Everything is found by the indexes of the marks (migration 0015), never by reading mailboxes.
 */
import type { ItemKind } from "../schemas/values.ts";
import type { Queryable } from "./postgres.ts";

export type StuckState = "undeliverable" | "set-aside";

export interface ItemName {
  readonly recipientId: string;
  readonly senderId: string;
  /** UUID, lower-case text. */
  readonly itemId: string;
}

export interface StuckItem extends ItemName {
  readonly kind: ItemKind;
  readonly seq: number;
  /** Since when it has the mark, ms since the epoch. */
  readonly since: number;
}

/** Which of them; absent: all. */
export interface StuckFilter {
  readonly state: StuckState;
  readonly recipientId?: string | undefined;
  readonly senderId?: string | undefined;
}

/** Where a page ended. */
export interface StuckPlace extends ItemName {
  readonly since: number;
}

export interface StuckPage {
  /** Who has waited longest comes first. */
  readonly items: readonly StuckItem[];
  /** Where the next page begins; null after the last. */
  readonly next: StuckPlace | null;
}

export interface StuckCount {
  /** Counted up to `countMax`. */
  readonly count: number;
  /** ms since the epoch; null when there is none. */
  readonly oldest: number | null;
}

/** SQL: the rows of each state, under the same names. */
const rowsOf: Readonly<Record<StuckState, string>> = {
  "set-aside": `SELECT aside_at AS since, recipient_id, sender_id, item_id, kind, seq
                FROM messaging_queue WHERE aside_at IS NOT NULL`,
  undeliverable: `SELECT undeliverable_at AS since, recipient_id, sender_id, message_id AS item_id, 'message' AS kind, seq
                  FROM messaging_messages WHERE undeliverable_at IS NOT NULL AND outcome IS NULL AND delivered_at IS NULL`,
};

/** One page of them, after `after`, at most `limit`. */
export async function findStuck(
  db: Queryable,
  { state, recipientId, senderId }: StuckFilter,
  after: StuckPlace | null,
  limit: number,
): Promise<StuckPage> {
  const place = after ?? { since: 0, recipientId: "", senderId: "", itemId: "00000000-0000-0000-0000-000000000000" };
  const { rows } = await db.query<StuckRow>({
    name: `find-${state}`,
    text: `SELECT * FROM (${rowsOf[state]}) AS stuck
           WHERE ($1::text IS NULL OR recipient_id = $1) AND ($2::text IS NULL OR sender_id = $2)
             AND since >= $3 AND (since, recipient_id, sender_id, item_id) > ($3, $4::text, $5::text, $6::uuid)
           ORDER BY since, recipient_id, sender_id, item_id LIMIT $7`,
    values: [
      ...[recipientId ?? null, senderId ?? null],
      ...[place.since, place.recipientId, place.senderId, place.itemId],
      limit + 1,
    ],
  });
  const items = rows.slice(0, limit).map(
    (row): StuckItem => ({
      recipientId: row.recipient_id,
      senderId: row.sender_id,
      itemId: row.item_id,
      kind: row.kind,
      seq: row.seq,
      since: row.since,
    }),
  );
  return { items, next: rows.length > limit ? (items.at(-1) ?? null) : null };
}

/** How many there are, counted up to `countMax`: beyond, the number says nothing more. */
export async function countStuck(
  db: Queryable,
  { state, recipientId, senderId }: StuckFilter,
  countMax: number,
): Promise<StuckCount> {
  const { rows } = await db.query<{ count: number; oldest: number | null }>({
    name: `count-${state}`,
    text: `SELECT count(*) AS count, min(since) AS oldest FROM (
             SELECT since FROM (${rowsOf[state]}) AS stuck
             WHERE ($1::text IS NULL OR recipient_id = $1) AND ($2::text IS NULL OR sender_id = $2)
             ORDER BY since LIMIT $3) AS few`,
    values: [recipientId ?? null, senderId ?? null, countMax],
  });
  return rows[0] ?? { count: 0, oldest: null };
}

/** Those of the named items that have a mark and wait, in their order. */
export async function whichStuck<Item extends ItemName>(
  db: Queryable,
  items: readonly Item[],
): Promise<readonly Item[]> {
  if (items.length === 0) return [];
  const { rows } = await db.query<{ n: number }>({
    name: "which-stuck",
    text: `SELECT i.n::int AS n FROM unnest($1::text[], $2::text[], $3::uuid[]) WITH ORDINALITY AS i (recipient_id, sender_id, item_id, n)
           WHERE EXISTS (SELECT FROM messaging_queue q
                         WHERE q.recipient_id = i.recipient_id AND q.sender_id = i.sender_id AND q.item_id = i.item_id
                           AND q.aside_at IS NOT NULL OFFSET 0)
              OR EXISTS (SELECT FROM messaging_messages m
                         WHERE m.sender_id = i.sender_id AND m.message_id = i.item_id AND m.recipient_id = i.recipient_id
                           AND m.undeliverable_at IS NOT NULL AND m.outcome IS NULL AND m.delivered_at IS NULL OFFSET 0)
           ORDER BY n`,
    values: [
      items.map(({ recipientId }) => recipientId),
      items.map(({ senderId }) => senderId),
      items.map(({ itemId }) => itemId),
    ],
  });
  return rows.flatMap(({ n }) => items[n - 1] ?? []);
}

interface StuckRow {
  readonly since: number;
  readonly recipient_id: string;
  readonly sender_id: string;
  readonly item_id: string;
  readonly kind: ItemKind;
  readonly seq: number;
}
