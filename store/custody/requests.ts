/**
 * What peers ask agents of server custody to say anew: retry requests in their mailboxes, until encryption has answered them.
 *
 * Promise: a request is taken for one command at a time, whoever looks for it: readers' calls, and the job. What cannot be answered yet stays in the mailbox, and
 * is not taken before its time.
 */
import { Refusal } from "../../protocol/refusal.ts";
import { type RetryRequest, retryRequestFromJson } from "../../protocol/retry-request.ts";
import { decodeUtf8 } from "../../protocol/utf8.ts";
import type { Queryable } from "../postgres.ts";

/** A command that was taken by Kafka is done within this time, or its request is taken again. */
const TAKEN_MS = 60_000;

/** Rows of one look, some 500 bytes each. */
const REQUESTS_MAX = 500;

/** A retry request in a mailbox. */
export interface RequestKey {
  /** Whose mailbox: the sender of the message that is asked for. */
  readonly ownerId: string;
  readonly peerId: string;
  readonly itemId: string;
}

export interface StoredRequest extends RequestKey {
  /** Null for what is none. */
  readonly request: RetryRequest | null;
}

export interface TakenRequests {
  /** To be answered now. */
  readonly due: readonly RequestKey[];
  /** There is nothing to say (any more). */
  readonly ended: readonly RequestKey[];
  /** Where to look on; null behind the last. */
  readonly afterSeq: number | null;
}

/** The agents of server custody after this one in whose mailboxes requests wait, by id. */
export async function findAskedOwners(db: Queryable, afterId: string, limit: number): Promise<readonly string[]> {
  const { rows } = await db.query<{ owner_id: string }>({
    name: "find-asked-owners",
    text: `SELECT q.recipient_id AS owner_id FROM messaging_queue q
           JOIN messaging_agents a ON a.agent_id = q.recipient_id AND a.custody = 'server'
           WHERE q.kind = 'retry' AND q.recipient_id > $1
           GROUP BY q.recipient_id ORDER BY q.recipient_id LIMIT $2`,
    values: [afterId, limit],
  });
  return rows.map((row) => row.owner_id);
}

/** What is to be done about the requests in one mailbox. `now`: ms since the epoch. */
export async function takeRequests(db: Queryable, ownerId: string, now: number, afterSeq = 0): Promise<TakenRequests> {
  const { rows } = await db.query<ItemRow & { readonly seq: number }>({
    name: "find-requests",
    text: `SELECT seq, recipient_id, sender_id, item_id, body FROM messaging_queue
           WHERE recipient_id = $1 AND kind = 'retry' AND seq > $2 ORDER BY seq LIMIT ${REQUESTS_MAX}`,
    values: [ownerId, afterSeq],
  });
  const last = rows.length === REQUESTS_MAX ? rows.at(-1) : undefined;
  const requests = rows.map(requestOf);
  const kept = await takeKept(
    db,
    ownerId,
    requests.flatMap(({ request }) => request?.messageId ?? []),
    now,
  );
  const due: RequestKey[] = [];
  const ended: RequestKey[] = [];
  for (const { request, ...key } of requests) {
    const isDue = request === null ? undefined : kept.get(request.messageId);
    if (isDue === undefined) ended.push(key);
    else if (isDue) due.push(key);
  }
  return { due, ended, afterSeq: last?.seq ?? null };
}

/**
 * Those of these messages whose content is there, and whether it is to be said anew now; it is not again before long. Not now: neither what a recovery brought back and
 * nobody has read again yet. Of all others there is nothing to say.
 */
async function takeKept(
  db: Queryable,
  senderId: string,
  messageIds: readonly string[],
  now: number,
): Promise<ReadonlyMap<string, boolean>> {
  if (messageIds.length === 0) return new Map();
  const { rows } = await db.query<{ message_id: string; is_due: boolean }>({
    name: "take-kept",
    text: `WITH kept AS MATERIALIZED (
             SELECT c.sender_id, c.message_id, c.hmac IS NOT NULL AND coalesce(c.repair_at, 0) <= $3 AS is_due FROM unnest($2::uuid[]) AS i (message_id)
             CROSS JOIN LATERAL (
               SELECT sender_id, message_id, repair_at, hmac FROM messaging_commands c
               WHERE c.sender_id = $1 AND c.message_id = i.message_id AND (c.content IS NOT NULL OR c.hmac IS NULL) OFFSET 0) AS c
             ORDER BY c.message_id
           ), taken AS (
             UPDATE messaging_commands c SET repair_at = $4 FROM (SELECT sender_id, message_id FROM kept WHERE is_due) AS k
             WHERE c.sender_id = k.sender_id AND c.message_id = k.message_id AND c.content IS NOT NULL AND coalesce(c.repair_at, 0) <= $3
             RETURNING c.message_id
           )
           SELECT kept.message_id, taken.message_id IS NOT NULL AS is_due
           FROM kept LEFT JOIN taken ON taken.message_id = kept.message_id`,
    values: [senderId, [...new Set(messageIds)], now, now + TAKEN_MS],
  });
  return new Map(rows.map((row) => [row.message_id, row.is_due]));
}

/** Those that wait, in any order. */
export async function findRequests(db: Queryable, keys: readonly RequestKey[]): Promise<readonly StoredRequest[]> {
  if (keys.length === 0) return [];
  const { rows } = await db.query<ItemRow>({
    name: "find-requests-by-id",
    text: `SELECT q.* FROM unnest($1::text[], $2::text[], $3::uuid[]) AS i (recipient_id, sender_id, item_id)
           CROSS JOIN LATERAL (
             SELECT recipient_id, sender_id, item_id, body FROM messaging_queue q
             WHERE q.recipient_id = i.recipient_id AND q.sender_id = i.sender_id AND q.item_id = i.item_id AND q.kind = 'retry'
             OFFSET 0) AS q`,
    values: [keys.map(({ ownerId }) => ownerId), keys.map(({ peerId }) => peerId), keys.map(({ itemId }) => itemId)],
  });
  return rows.map(requestOf);
}

interface ItemRow {
  readonly recipient_id: string;
  readonly sender_id: string;
  readonly item_id: string;
  readonly body: Uint8Array;
}

function requestOf(row: ItemRow): StoredRequest {
  const key = { ownerId: row.recipient_id, peerId: row.sender_id, itemId: row.item_id };
  const request = parse(row.body);
  return { ...key, request: request?.recipientId === key.peerId ? request : null };
}

function parse(body: Uint8Array): RetryRequest | null {
  try {
    return retryRequestFromJson(JSON.parse(decodeUtf8(body) ?? ""));
  } catch (error) {
    if (error instanceof Refusal || error instanceof SyntaxError) return null;
    throw error;
  }
}
