/**
 * Putting items into mailboxes: what the queuing consumer's step does in the database.
 *
 * Promises: every item is stored once; the seqs of a mailbox are dense (1, 2, 3 …) in the order of the arrivals; a message id is stored
 * once per sender, whoever its recipient is; what is stored is never changed here. Rows are touched in key order: two consumers
 * whose senders overlap wait for each other and never deadlock.
 *
 * Called inside the step's transaction. Writes `messaging_messages` (new rows), `messaging_mailboxes`, `messaging_queue` (new rows).
 */
import { createHash } from "node:crypto";
import { DAY_MS } from "../protocol/limits.ts";
import { messageIdTime } from "../protocol/message-id.ts";
import type { Custody, ItemKind } from "../schemas/values.ts";
import type { MessageDays } from "./message-days.ts";
import type { Queryable } from "./postgres.ts";

/** An item waits for 30 days from the time in its id (architecture §4). */
const waitMsMax = 30 * DAY_MS;

const digestBytes = 32;

/** An item on its way into a mailbox. Times in ms since the epoch. */
export interface Arrival {
  readonly kind: ItemKind;
  readonly recipientId: string;
  readonly senderId: string;
  /** UUIDv7, lower-case text. */
  readonly itemId: string;
  readonly custody: Custody;
  readonly body: Uint8Array;
  /** Of the envelope; empty and 0 for other kinds. */
  readonly sessionId: Uint8Array;
  readonly sendCounter: number;
  /** Bytes of ciphertext; of the body for other kinds. */
  readonly size: number;
  readonly acceptedAt: number;
}

/** What became of an arrival. `at`: the database's clock, ms since the epoch. */
export type Placement =
  | { readonly outcome: "stored"; readonly seq: number; readonly at: number }
  /** The same item was stored before: nothing is new. */
  | { readonly outcome: "repeated" }
  /** Another message has this id already. `digest`: SHA-256 of the one that was refused. */
  | { readonly outcome: "id-reused"; readonly digest: Uint8Array; readonly at: number }
  /** It is too late to store it. */
  | { readonly outcome: "expired"; readonly at: number };

/** An arrival, as the caller handed it in, and what became of it. */
export interface Placed<Item extends Arrival> {
  readonly arrival: Item;
  readonly placement: Placement;
}

/** What became of a step's arrivals. */
export interface Placements<Item extends Arrival> {
  /** One for each arrival, in order. */
  readonly placed: readonly Placed<Item>[];
  /** Of the mailboxes into which something came: those that may hold more than `itemsMax` now, for `evictOldest`. */
  readonly full: readonly string[];
}

/** `itemsMax`: how many items wait in a mailbox; only asked, not kept, here. */
export async function place<Item extends Arrival>(
  client: Queryable,
  days: MessageDays,
  arrivals: readonly Item[],
  itemsMax: number,
): Promise<Placements<Item>> {
  if (arrivals.length === 0) return { placed: [], full: [] };
  const rows = foldArrivals(arrivals);
  await days.ensure(rows.filter(needsDay).map(({ expiresAt }) => expiresAt - waitMsMax));
  const known = await findRetries(client, rows);
  const { at, seqs, full } = await store(client, rows, known, itemsMax);
  const others = rows.filter((row) => row.arrival.kind === "message" && !seqs.has(row));
  const digests = others.length === 0 ? new Map<Row, Uint8Array>() : await findDigests(client, others);
  return { placed: judge(arrivals, rows, { at, seqs, digests }), full };
}

/** The first arrival of a key, and its row. */
interface Row {
  readonly arrival: Arrival;
  /** Its place among all arrivals. */
  readonly index: number;
  readonly digest: Uint8Array;
  readonly expiresAt: number;
}

/** What the database said of the rows. */
interface Outcome {
  readonly at: number;
  /** Of the rows that were stored now. */
  readonly seqs: ReadonlyMap<Row, number>;
  /** Of the messages that have the key of a row that was not stored now. */
  readonly digests: ReadonlyMap<Row, Uint8Array>;
}

/** One row for each key, in order of arrival: a key twice in one statement would collide with itself. */
function foldArrivals(arrivals: readonly Arrival[]): readonly Row[] {
  const rows = new Map<string, Row>();
  for (const [index, arrival] of arrivals.entries()) {
    const key = keyOf(arrival);
    if (rows.has(key)) continue;
    const time = messageIdTime(arrival.itemId);
    if (time === null) throw new Error("an arrival whose id has no time was let through");
    rows.set(key, { arrival, index, digest: digestOf(arrival), expiresAt: time + waitMsMax });
  }
  return [...rows.values()];
}

/** Messages are unique per sender, retry requests per mailbox. */
function keyOf({ kind, senderId, itemId, recipientId }: Arrival): string {
  return kind === "message" ? `${senderId}/${itemId}` : `${senderId}/${itemId}/${recipientId}`;
}

function digestOf(arrival: Arrival): Uint8Array {
  return createHash("sha256").update(arrival.body).digest();
}

/** Pure: compares every arrival with what won its key. */
function judge<Item extends Arrival>(
  arrivals: readonly Item[],
  rows: readonly Row[],
  outcome: Outcome,
): readonly Placed<Item>[] {
  const rowOfKey = new Map(rows.map((row) => [keyOf(row.arrival), row]));
  return arrivals.map((arrival, index) => {
    const row = rowOfKey.get(keyOf(arrival));
    if (row === undefined) throw new Error("an arrival was not folded");
    return { arrival, placement: judgeOne(arrival, row, row.index === index, outcome) };
  });
}

function judgeOne(arrival: Arrival, row: Row, isFirst: boolean, { at, seqs, digests }: Outcome): Placement {
  const seq = seqs.get(row);
  if (seq !== undefined && isFirst) return { outcome: "stored", seq, at };
  if (arrival.kind === "retry") {
    return seq === undefined && row.expiresAt <= at ? { outcome: "expired", at } : { outcome: "repeated" };
  }
  const winner = seq === undefined ? digests.get(row) : row.digest;
  if (winner === undefined) return { outcome: "expired", at };
  const digest = digestOf(arrival);
  return Buffer.compare(winner, digest) === 0 ? { outcome: "repeated" } : { outcome: "id-reused", digest, at };
}

/** A day that is about to be dropped is not made again; the database, by its clock, stores nothing in it. */
function needsDay({ arrival, expiresAt }: Row): boolean {
  return arrival.kind === "message" && expiresAt > Date.now() - DAY_MS;
}

async function findRetries(client: Queryable, rows: readonly Row[]): Promise<ReadonlySet<Row>> {
  const retries = rows.filter(({ arrival }) => arrival.kind === "retry");
  if (retries.length === 0) return new Set();
  const found = await client.query<{ n: number }>({
    name: "find-queued-retries",
    text: `SELECT i.n::int AS n FROM unnest($1::text[], $2::text[], $3::uuid[]) WITH ORDINALITY AS i (recipient_id, sender_id, item_id, n)
           CROSS JOIN LATERAL (
             SELECT FROM messaging_queue q
             WHERE q.recipient_id = i.recipient_id AND q.sender_id = i.sender_id AND q.item_id = i.item_id OFFSET 0) AS q`,
    values: [
      retries.map(({ arrival }) => arrival.recipientId),
      retries.map(({ arrival }) => arrival.senderId),
      retries.map(({ arrival }) => arrival.itemId),
    ],
  });
  return new Set(found.rows.map(({ n }) => rowAt(retries, n)));
}

/**
 * Stores what is new, in one statement. A message's row needs its seq before it is known which of the arrivals are new: it is written
 * as if all were, and put right where one was not.
 */
async function store(
  client: Queryable,
  rows: readonly Row[],
  known: ReadonlySet<Row>,
  itemsMax: number,
): Promise<{ at: number; seqs: Map<Row, number>; full: string[] }> {
  const offered = rows.filter((row) => !known.has(row));
  const bodies = packed(offered.map(({ arrival }) => arrival.body));
  const sessions = packed(offered.map(({ arrival }) => arrival.sessionId));
  const { rows: stored } = await client.query<StoredRow>({
    name: "place-items",
    text: `WITH clock AS MATERIALIZED (
             SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now
           ), input AS MATERIALIZED (
             SELECT i.*, row_number() OVER (PARTITION BY recipient_id ORDER BY n) AS place, coalesce(
                      (SELECT last_seq FROM messaging_mailboxes b WHERE b.recipient_id = i.recipient_id), 0) AS last_seq,
                    substring($6::bytea FROM body_end - body_length + 1 FOR body_length) AS body,
                    substring($7::bytea FROM (n::int - 1) * ${digestBytes} + 1 FOR ${digestBytes}) AS digest,
                    substring($8::bytea FROM session_end - session_length + 1 FOR session_length) AS session_id
             FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[], $5::text[], $9::bigint[], $10::int[], $11::bigint[],
                         $12::bigint[], $13::int[], $14::int[], $15::int[], $16::int[])
                  WITH ORDINALITY AS i (recipient_id, sender_id, item_id, kind, custody, send_counter, size, accepted_at,
                                        expires_at, body_end, body_length, session_end, session_length, n)
             WHERE expires_at > (SELECT now FROM clock)
           ), fresh AS (
             INSERT INTO messaging_messages (sender_id, message_id, recipient_id, digest, session_id, send_counter, seq, size,
                                             custody, accepted_at, queued_at)
             SELECT sender_id, item_id, recipient_id, digest, session_id, send_counter, last_seq + place, size, custody, accepted_at,
                    (SELECT now FROM clock)
             FROM input WHERE kind = 'message' ORDER BY sender_id, item_id
             ON CONFLICT (sender_id, message_id) DO NOTHING
             RETURNING sender_id, message_id
           ), new AS MATERIALIZED (
             SELECT recipient_id, sender_id, item_id, kind, body, accepted_at, expires_at, n,
                    last_seq + row_number() OVER (PARTITION BY recipient_id ORDER BY n) AS seq, last_seq + place AS guess
             FROM (SELECT *, CASE WHEN kind = 'retry' THEN true
                             ELSE (sender_id, item_id) IN (SELECT sender_id, message_id FROM fresh) END AS is_new FROM input) AS i
             WHERE is_new
           ), mailboxes AS (
             INSERT INTO messaging_mailboxes AS b (recipient_id, last_seq, stored_items, stored_bytes)
             SELECT recipient_id, count(*), count(*), sum(octet_length(body)) FROM new GROUP BY recipient_id ORDER BY recipient_id
             ON CONFLICT (recipient_id) DO UPDATE SET last_seq = b.last_seq + excluded.last_seq,
               stored_items = b.stored_items + excluded.stored_items, stored_bytes = b.stored_bytes + excluded.stored_bytes
             RETURNING b.recipient_id, b.stored_items
           ), queue AS (
             INSERT INTO messaging_queue (recipient_id, sender_id, item_id, seq, kind, body, created_at, expires_at)
             SELECT recipient_id, sender_id, item_id, seq, kind, body, accepted_at, expires_at FROM new
           )
           SELECT clock.now AS at, new.n::int AS n, new.seq, new.guess, NULL AS full_id FROM clock LEFT JOIN new ON true
           UNION ALL
           SELECT NULL, NULL, NULL, NULL, b.recipient_id FROM mailboxes b
           WHERE b.stored_items > $17 AND b.stored_items - coalesce(
             (SELECT ended_items FROM messaging_mailbox_ends e WHERE e.recipient_id = b.recipient_id), 0) > $17`,
    values: [
      offered.map(({ arrival }) => arrival.recipientId),
      offered.map(({ arrival }) => arrival.senderId),
      offered.map(({ arrival }) => arrival.itemId),
      offered.map(({ arrival }) => arrival.kind),
      offered.map(({ arrival }) => arrival.custody),
      bodies.bytes,
      Buffer.concat(offered.map(({ digest }) => digest)),
      sessions.bytes,
      offered.map(({ arrival }) => arrival.sendCounter),
      offered.map(({ arrival }) => arrival.size),
      offered.map(({ arrival }) => arrival.acceptedAt),
      offered.map(({ expiresAt }) => expiresAt),
      bodies.ends,
      bodies.lengths,
      sessions.ends,
      sessions.lengths,
      itemsMax,
    ],
  });
  const seqs = new Map<Row, number>();
  const wrong: { row: Row; seq: number }[] = [];
  for (const { n, seq, guess } of stored) {
    if (n === null) continue;
    const row = rowAt(offered, n);
    seqs.set(row, seq);
    if (seq !== guess) wrong.push({ row, seq });
  }
  await correctSeqs(
    client,
    wrong.filter(({ row }) => row.arrival.kind === "message"),
  );
  const at = stored.find((row) => row.at !== null)?.at ?? 0;
  return { at, seqs, full: stored.flatMap(({ full_id }) => full_id ?? []) };
}

/** One value instead of an array: the driver sends bytes as they are, but an array of them as text, twice as long. */
function packed(values: readonly Uint8Array[]): { bytes: Buffer; ends: number[]; lengths: number[] } {
  let end = 0;
  const lengths = values.map((value) => value.length);
  return { bytes: Buffer.concat(values), lengths, ends: lengths.map((length) => (end += length)) };
}

interface StoredRow {
  /** null in a row that names a mailbox. */
  readonly at: number | null;
  /** null when nothing was stored. */
  readonly n: number | null;
  readonly seq: number;
  readonly guess: number;
  readonly full_id: string | null;
}

async function correctSeqs(client: Queryable, wrong: readonly { row: Row; seq: number }[]): Promise<void> {
  if (wrong.length === 0) return;
  await client.query({
    name: "correct-seqs",
    text: `UPDATE messaging_messages m SET seq = i.seq
           FROM unnest($1::text[], $2::uuid[], $3::bigint[]) AS i (sender_id, message_id, seq)
           WHERE m.sender_id = i.sender_id AND m.message_id = i.message_id`,
    values: [
      wrong.map(({ row }) => row.arrival.senderId),
      wrong.map(({ row }) => row.arrival.itemId),
      wrong.map(({ seq }) => seq),
    ],
  });
}

async function findDigests(client: Queryable, rows: readonly Row[]): Promise<Map<Row, Uint8Array>> {
  const { rows: found } = await client.query<{ n: number; digest: Uint8Array }>({
    name: "find-digests",
    text: `SELECT i.n::int AS n, m.digest FROM unnest($1::text[], $2::uuid[]) WITH ORDINALITY AS i (sender_id, message_id, n)
           CROSS JOIN LATERAL (
             SELECT digest FROM messaging_messages m
             WHERE m.sender_id = i.sender_id AND m.message_id = i.message_id OFFSET 0) AS m`,
    values: [rows.map(({ arrival }) => arrival.senderId), rows.map(({ arrival }) => arrival.itemId)],
  });
  return new Map(found.map(({ n, digest }) => [rowAt(rows, n), digest]));
}

/** `n`: counted from 1, as `WITH ORDINALITY` does. */
function rowAt(rows: readonly Row[], n: number): Row {
  const row = rows[n - 1];
  if (row === undefined) throw new Error("the database answered about a row it was not asked about");
  return row;
}
