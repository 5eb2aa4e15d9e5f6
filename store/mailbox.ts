/**
 * Reading mailboxes: what waits for a recipient, in the order of its seq.
 *
 * A mailbox's seqs are dense (1, 2, 3 …) as items arrive; an item that ended leaves a hole for ever. Items set aside are not read.
 */
import type { ItemKind } from "../schemas/values.ts";
import type { Queryable } from "./postgres.ts";

export interface StoredItem {
  readonly seq: number;
  readonly kind: ItemKind;
  readonly senderId: string;
  /** UUID, lower-case text. */
  readonly itemId: string;
  /** The bytes that were accepted: an envelope's canonical bytes, or a retry request's JSON. */
  readonly body: Uint8Array;
}

export interface MailboxPage {
  /** By seq. */
  readonly items: readonly StoredItem[];
  /** The last seq ever given in this mailbox, as of the same moment as `items`; 0 when it never had an item. */
  readonly lastSeq: number;
  /** Whether nothing more waits after `items`: then everything up to `lastSeq` was seen. */
  readonly end: boolean;
}

export interface PageLimits {
  /** Items with a greater seq. */
  readonly afterSeq: number;
  /** Items. */
  readonly limit: number;
  /** Bytes of bodies; the first item comes whatever its size, so that a reader always gets on. */
  readonly maxBytes: number;
  /** Only items of this kind; left out: of every. */
  readonly kind?: ItemKind;
}

/** One page of a mailbox, rows and `lastSeq` from one statement. */
export async function readMailbox(db: Queryable, recipientId: string, limits: PageLimits): Promise<MailboxPage> {
  // The windows look at lengths and seqs only: a body beyond the page is never fetched from where large values are kept.
  const { rows } = await db.query<PageRow>({
    name: "read-mailbox",
    text: `WITH page AS (
             SELECT seq, kind, sender_id, item_id, body,
                    sum(octet_length(body)) OVER (ORDER BY seq) AS bytes, row_number() OVER (ORDER BY seq) AS place
             FROM (SELECT seq, kind, sender_id, item_id, body FROM messaging_queue
                   WHERE recipient_id = $1 AND seq > $2 AND aside_at IS NULL AND ($5::text IS NULL OR kind = $5) ORDER BY seq LIMIT $3 + 1) AS ahead
           ), kept AS (
             SELECT * FROM page WHERE place <= $3 AND (bytes <= $4 OR place = 1)
           )
           SELECT coalesce(b.last_seq, 0) AS last_seq,
                  (SELECT count(*) FROM page) = (SELECT count(*) FROM kept) AS at_end,
                  k.seq, k.kind, k.sender_id, k.item_id, k.body
           FROM (VALUES (1)) AS one
           LEFT JOIN messaging_mailboxes b ON b.recipient_id = $1
           LEFT JOIN kept k ON true
           ORDER BY k.seq`,
    values: [recipientId, limits.afterSeq, limits.limit, limits.maxBytes, limits.kind ?? null],
  });
  const items: StoredItem[] = [];
  for (const row of rows) {
    if (row.seq !== null) {
      items.push({ seq: row.seq, kind: row.kind, senderId: row.sender_id, itemId: row.item_id, body: row.body });
    }
  }
  return { items, lastSeq: rows[0]?.last_seq ?? 0, end: rows[0]?.at_end ?? true };
}

interface PageRow {
  readonly last_seq: number;
  readonly at_end: boolean;
  readonly seq: number | null;
  readonly kind: ItemKind;
  readonly sender_id: string;
  readonly item_id: string;
  readonly body: Uint8Array;
}

export interface ItemKey {
  readonly seq: number;
  readonly senderId: string;
  readonly itemId: string;
}

/** Who sent what under these seqs, by seq; those that do not wait any more are absent. */
export async function itemsBySeq(
  db: Queryable,
  recipientId: string,
  seqs: readonly number[],
): Promise<readonly ItemKey[]> {
  const { rows } = await db.query<{ seq: number; sender_id: string; item_id: string }>({
    name: "items-by-seq",
    text: `SELECT seq, sender_id, item_id FROM messaging_queue WHERE recipient_id = $1 AND seq = ANY($2) ORDER BY seq`,
    values: [recipientId, seqs],
  });
  return rows.map((row) => ({ seq: row.seq, senderId: row.sender_id, itemId: row.item_id }));
}

/** The seq of the newest item that was ever stored for each recipient; no entry for who never got anything. */
export async function lastSeqs(db: Queryable, recipientIds: readonly string[]): Promise<ReadonlyMap<string, number>> {
  if (recipientIds.length === 0) return new Map();
  const { rows } = await db.query<{ recipient_id: string; last_seq: number }>({
    name: "last-seqs",
    text: "SELECT recipient_id, last_seq FROM messaging_mailboxes WHERE recipient_id = ANY($1::text[])",
    values: [recipientIds],
  });
  return new Map(rows.map((row) => [row.recipient_id, row.last_seq]));
}

/** The seq of the newest item that waits for each recipient; no entry for whom nothing waits. */
export async function newestWaiting(
  db: Queryable,
  recipientIds: readonly string[],
): Promise<ReadonlyMap<string, number>> {
  if (recipientIds.length === 0) return new Map();
  const { rows } = await db.query<{ recipient_id: string; seq: number }>({
    name: "newest-waiting",
    text: `SELECT i.recipient_id, newest.seq
           FROM unnest($1::text[]) AS i (recipient_id)
           CROSS JOIN LATERAL (SELECT q.seq FROM messaging_queue q
                               WHERE q.recipient_id = i.recipient_id AND q.aside_at IS NULL
                               ORDER BY q.seq DESC LIMIT 1) AS newest`,
    values: [recipientIds],
  });
  return new Map(rows.map((row) => [row.recipient_id, row.seq]));
}

/** Whether anything waits in each mailbox up to the seq; in order. */
export async function waitsUpTo(
  db: Queryable,
  upTo: readonly { readonly recipientId: string; readonly seq: number }[],
): Promise<readonly boolean[]> {
  if (upTo.length === 0) return [];
  const { rows } = await db.query<{ waits: boolean }>({
    name: "waits-up-to",
    text: `SELECT EXISTS (SELECT FROM messaging_queue q
                          WHERE q.recipient_id = i.recipient_id AND q.seq <= i.seq AND q.aside_at IS NULL) AS waits
           FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS i (recipient_id, seq, n) ORDER BY i.n`,
    values: [upTo.map(({ recipientId }) => recipientId), upTo.map(({ seq }) => seq)],
  });
  return rows.map(({ waits }) => waits);
}
