/**
 * The public facts of sessions: what each agent sent to each peer, as the log shows it.
 *
 * Promise: rows are written by the sessions consumer alone, in its step, one for each (owner, peer, session) whose messages all come from one
 * partition. So two steps never write the same row, and because rows are touched in key order they never deadlock over several.
 *
 * What is read here lags behind the log by as much as the consumer does.
 */
import type { Queryable } from "./postgres.ts";

/** What `ownerId` sent to `peerId` in the session. */
export interface SessionKey {
  readonly ownerId: string;
  readonly peerId: string;
  /** 16 bytes. */
  readonly sessionId: Uint8Array;
}

/** Times in ms since the epoch, of the log's appends. */
export interface SessionFacts extends SessionKey {
  /** Of the newest message, as are the ratchet key (32 bytes) and the counters. */
  readonly messageId: string;
  readonly dhPublicKey: Uint8Array;
  readonly sendCounter: number;
  readonly previousCounter: number;
  readonly messages: number;
  readonly firstAt: number;
  readonly lastAt: number;
  /** null where the owner did not initiate the session, or its initiation was not seen. */
  readonly initiation: SessionInitiation | null;
}

export interface SessionInitiation {
  readonly suite: number;
  readonly signedPrekeyId: string;
  readonly oneTimePrekeyId: string | null;
  readonly kemPrekeyId: string | null;
  readonly at: number;
}

const columns = `owner_id, peer_id, session_id, message_id, dh_public_key, send_counter, previous_counter, messages, first_at, last_at,
                 suite, signed_prekey_id, one_time_prekey_id, kem_prekey_id, initialized_at`;

/** Those that are there, in any order. */
export async function findFacts(db: Queryable, keys: readonly SessionKey[]): Promise<readonly SessionFacts[]> {
  if (keys.length === 0) return [];
  const { rows } = await db.query<FactsRow>({
    name: "find-session-facts",
    text: `SELECT f.* FROM unnest($1::text[], $2::text[], $3::bytea[]) AS i (owner_id, peer_id, session_id)
           CROSS JOIN LATERAL (
             SELECT ${columns} FROM messaging_session_facts f
             WHERE f.owner_id = i.owner_id AND f.peer_id = i.peer_id AND f.session_id = i.session_id OFFSET 0) AS f`,
    values: [keys.map(({ ownerId }) => ownerId), keys.map(({ peerId }) => peerId), keys.map((key) => key.sessionId)],
  });
  return rows.map(factsOf);
}

/** Writes the rows as they are given, over those that are there; at most one for each session. */
export async function writeFacts(db: Queryable, facts: readonly SessionFacts[]): Promise<void> {
  if (facts.length === 0) return;
  await db.query({
    name: "write-session-facts",
    text: `INSERT INTO messaging_session_facts AS f (${columns})
           SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::uuid[], $5::bytea[], $6::bigint[], $7::bigint[], $8::bigint[],
                                $9::bigint[], $10::bigint[], $11::smallint[], $12::uuid[], $13::uuid[], $14::uuid[], $15::bigint[])
                  AS i (${columns})
           ORDER BY owner_id, peer_id, session_id
           ON CONFLICT (owner_id, peer_id, session_id) DO UPDATE SET
             message_id = excluded.message_id, dh_public_key = excluded.dh_public_key, send_counter = excluded.send_counter,
             previous_counter = excluded.previous_counter, messages = excluded.messages, first_at = excluded.first_at,
             last_at = excluded.last_at, suite = excluded.suite, signed_prekey_id = excluded.signed_prekey_id,
             one_time_prekey_id = excluded.one_time_prekey_id, kem_prekey_id = excluded.kem_prekey_id,
             initialized_at = excluded.initialized_at`,
    values: [
      facts.map(({ ownerId }) => ownerId),
      facts.map(({ peerId }) => peerId),
      facts.map(({ sessionId }) => sessionId),
      facts.map(({ messageId }) => messageId),
      facts.map(({ dhPublicKey }) => dhPublicKey),
      facts.map(({ sendCounter }) => sendCounter),
      facts.map(({ previousCounter }) => previousCounter),
      facts.map(({ messages }) => messages),
      facts.map(({ firstAt }) => firstAt),
      facts.map(({ lastAt }) => lastAt),
      facts.map(({ initiation }) => initiation?.suite ?? null),
      facts.map(({ initiation }) => initiation?.signedPrekeyId ?? null),
      facts.map(({ initiation }) => initiation?.oneTimePrekeyId ?? null),
      facts.map(({ initiation }) => initiation?.kemPrekeyId ?? null),
      facts.map(({ initiation }) => initiation?.at ?? null),
    ],
  });
}

/** Sessions of a pair that are shown. A pair has six at a time (protocol.md §4); more than a hundred in 60 days is somebody's fault. */
export const pairSessionsMax = 100;

/** What either of two agents sent to the other: of their `pairSessionsMax` newest sessions, the newest first. */
export async function factsOfPair(db: Queryable, one: string, other: string): Promise<readonly SessionFacts[]> {
  const { rows } = await db.query<FactsRow>({
    name: "session-facts-of-pair",
    text: `WITH pair AS MATERIALIZED (
             SELECT $1::text AS owner_id, $2::text AS peer_id UNION SELECT $2::text, $1::text
           ), newest AS MATERIALIZED (
             SELECT f.session_id, max(f.last_at) AS newest_at FROM pair p
             CROSS JOIN LATERAL (
               SELECT session_id, last_at FROM messaging_session_facts
               WHERE owner_id = p.owner_id AND peer_id = p.peer_id ORDER BY last_at DESC LIMIT $3) AS f
             GROUP BY f.session_id ORDER BY newest_at DESC, f.session_id LIMIT $3
           )
           SELECT f.* FROM newest n CROSS JOIN pair p
           CROSS JOIN LATERAL (
             SELECT ${columns} FROM messaging_session_facts
             WHERE owner_id = p.owner_id AND peer_id = p.peer_id AND session_id = n.session_id OFFSET 0) AS f
           ORDER BY n.newest_at DESC, n.session_id, f.owner_id`,
    values: [one, other, pairSessionsMax],
  });
  return rows.map(factsOf);
}

/** Where a page of an agent's facts ended. */
export interface FactsCursor {
  readonly lastAt: number;
  readonly peerId: string;
  readonly sessionId: Uint8Array;
}

/** What an agent sent, over all peers, newest first; of equal age in the order of peer and session. `after`: null for the first page. */
export async function factsOfOwner(
  db: Queryable,
  ownerId: string,
  after: FactsCursor | null,
  limit: number,
): Promise<readonly SessionFacts[]> {
  const { rows } = await db.query<FactsRow>({
    name: "session-facts-of-owner",
    text: `SELECT ${columns} FROM messaging_session_facts
           WHERE owner_id = $1 AND (last_at, peer_id, session_id) < ($2::bigint, $3::text COLLATE "C", $4::bytea)
           ORDER BY last_at DESC, peer_id DESC, session_id DESC LIMIT $5`,
    values: [
      ownerId,
      after?.lastAt ?? Number.MAX_SAFE_INTEGER,
      after?.peerId ?? "",
      after?.sessionId ?? new Uint8Array(0),
      limit,
    ],
  });
  return rows.map(factsOf);
}

/** Rows of one deletion: some milliseconds, in which nobody else's rows are held. */
const forgottenRowsMax = 1_000;

/** Deletes what had no message since `before` (ms since the epoch), batch by batch, until `signal` ends it. Returns how many rows. */
export async function forgetFacts(db: Queryable, before: number, signal?: AbortSignal): Promise<number> {
  let forgotten = 0;
  for (let from = ""; ; ) {
    const { rows } = await db.query<{ owner_id: string }>({
      name: "forget-session-facts",
      // Rows that a step holds are about to be young again.
      text: `WITH old AS MATERIALIZED (
               SELECT owner_id, peer_id, session_id FROM messaging_session_facts
               WHERE owner_id >= $1 AND last_at < $2 ORDER BY owner_id LIMIT $3 FOR UPDATE SKIP LOCKED
             ), gone AS (
               DELETE FROM messaging_session_facts f USING old
               WHERE f.owner_id = old.owner_id AND f.peer_id = old.peer_id AND f.session_id = old.session_id
             )
             SELECT owner_id FROM old`,
      values: [from, before, forgottenRowsMax],
    });
    forgotten += rows.length;
    if (rows.length < forgottenRowsMax || signal?.aborted) return forgotten;
    // Of the last owner there may be more.
    from = rows.at(-1)?.owner_id ?? from;
  }
}

interface FactsRow {
  readonly owner_id: string;
  readonly peer_id: string;
  readonly session_id: Uint8Array;
  readonly message_id: string;
  readonly dh_public_key: Uint8Array;
  readonly send_counter: number;
  readonly previous_counter: number;
  readonly messages: number;
  readonly first_at: number;
  readonly last_at: number;
  readonly suite: number | null;
  readonly signed_prekey_id: string | null;
  readonly one_time_prekey_id: string | null;
  readonly kem_prekey_id: string | null;
  readonly initialized_at: number | null;
}

function factsOf(row: FactsRow): SessionFacts {
  return {
    ownerId: row.owner_id,
    peerId: row.peer_id,
    sessionId: row.session_id,
    messageId: row.message_id,
    dhPublicKey: row.dh_public_key,
    sendCounter: row.send_counter,
    previousCounter: row.previous_counter,
    messages: row.messages,
    firstAt: row.first_at,
    lastAt: row.last_at,
    initiation: initiationOf(row),
  };
}

function initiationOf(row: FactsRow): SessionInitiation | null {
  const { suite, signed_prekey_id: signedPrekeyId, initialized_at: at } = row;
  if (suite === null || signedPrekeyId === null || at === null) return null;
  return { suite, signedPrekeyId, oneTimePrekeyId: row.one_time_prekey_id, kemPrekeyId: row.kem_prekey_id, at };
}
