/**
 * The ratchet states of server custody: one sealed row for each (owner, peer).
 *
 * Promises: rows are locked in key order, so that sending and opening never wait for each other in a ring; a row is written only over the version
 * that was read under its lock. A row says whether it was written before the database was put back from a backup (`../generation.ts`); what is made of
 * that is for whoever opens it. Nothing here opens what it handles.
 */
import { generationSql } from "../generation.ts";
import type { Queryable } from "../postgres.ts";

export interface Pair {
  readonly ownerId: string;
  readonly peerId: string;
}

export interface StoredState extends Pair {
  /** Grows by one with each write; 0 before the first. */
  readonly version: number;
  /** Sealed for this version; null before the first write. */
  readonly state: Uint8Array | null;
  /** Of the database, when this was read. */
  readonly generation: number;
  /** Written in an earlier generation: what it would send was sent before, perhaps. */
  readonly isOutdated: boolean;
}

/** Which sealed value this is. Its seal is of nothing else: also a row that was rolled back and grew to the same version again has another. */
export interface StateMark extends Pair {
  readonly version: number;
  /** `sealOf` the state. */
  readonly seal: Uint8Array;
}

export interface LockedState extends StoredState {
  /** The row holds the very value that the caller said it knew; `state` is left out (null). */
  readonly isKnown: boolean;
}

/** A state sealed for the version after the one that was read. */
export interface NewState extends Pair {
  readonly readVersion: number;
  readonly state: Uint8Array;
  /** As it was read: a state that was opened before a recovery is outdated after it. */
  readonly generation: number;
}

/** The end of a sealed value: the tag that holds it together (store/at-rest.ts). */
const SEAL_BYTES = 16;

export function sealOf(state: Uint8Array): Uint8Array {
  return state.slice(-SEAL_BYTES);
}

/** Those that are there, in any order, without a lock. */
export async function findStates(db: Queryable, pairs: readonly Pair[]): Promise<readonly StoredState[]> {
  if (pairs.length === 0) return [];
  const { rows } = await db.query<StateRow>({
    name: "find-ratchet-states",
    text: `SELECT s.*, ${generationSql} AS current FROM unnest($1::text[], $2::text[]) AS i (owner_id, peer_id)
           CROSS JOIN LATERAL (
             SELECT owner_id, peer_id, version, state, generation FROM messaging_sessions s
             WHERE s.owner_id = i.owner_id AND s.peer_id = i.peer_id OFFSET 0) AS s`,
    values: columnsOf(pairs),
  });
  return rows.map(stateOf);
}

/**
 * Locks the rows of these pairs, each given once, until the transaction ends; those that are not there are made. `areThere`: all of them are believed
 * to be, so that nothing needs to be written. `known`: states the caller has; where they are what the rows hold, these are not read.
 */
export async function lockStates(
  client: Queryable,
  pairs: readonly Pair[],
  { areThere, known = [] }: { readonly areThere: boolean; readonly known?: readonly StateMark[] },
): Promise<readonly LockedState[]> {
  if (pairs.length === 0) return [];
  let { rows } = await client.query<LockedRow>(areThere ? locking(pairs, known) : making(pairs));
  // A cache spoke of a row that is gone: the database was put back. In a second order of locks than everybody's; a ring of those PostgreSQL ends.
  if (areThere && rows.length < pairs.length) ({ rows } = await client.query<LockedRow>(making(pairs)));
  if (rows.length !== pairs.length) throw new Error("a ratchet state is gone");
  return rows.map((row) => ({ ...stateOf(row), isKnown: row.is_known }));
}

function locking(pairs: readonly Pair[], known: readonly StateMark[]) {
  const marks = new Map(known.map((mark) => [pairName(mark), mark]));
  const marked = pairs.map((pair) => marks.get(pairName(pair)));
  return {
    name: "lock-ratchet-states",
    // Neither is null in a row that has a state; a row without one is as good as unknown, and one of an earlier generation is to be opened as such.
    text: `SELECT s.owner_id, s.peer_id, s.version, s.generation, g.current, k.is_known,
                  CASE WHEN k.is_known THEN NULL ELSE s.state END AS state
           FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) AS i (owner_id, peer_id, version, seal)
           CROSS JOIN (SELECT ${generationSql} AS current) AS g
           JOIN messaging_sessions s ON s.owner_id = i.owner_id AND s.peer_id = i.peer_id
           CROSS JOIN LATERAL (SELECT coalesce(
             s.version = i.version AND s.generation = g.current AND substring(s.state FROM octet_length(s.state) - ${SEAL_BYTES - 1}) = i.seal, false)) AS k (is_known)
           ORDER BY s.owner_id, s.peer_id FOR UPDATE OF s`,
    values: [
      ...columnsOf(pairs),
      marked.map((mark) => mark?.version ?? null),
      marked.map((mark) => mark?.seal ?? null),
    ],
  };
}

/** In one statement with those that are there: the order of locks is one. */
function making(pairs: readonly Pair[]) {
  return {
    name: "make-ratchet-states",
    text: `INSERT INTO messaging_sessions AS s (owner_id, peer_id, version, generation)
           SELECT owner_id, peer_id, 0, ${generationSql} FROM unnest($1::text[], $2::text[]) AS i (owner_id, peer_id)
           ORDER BY owner_id COLLATE "C", peer_id COLLATE "C"
           ON CONFLICT (owner_id, peer_id) DO UPDATE SET version = s.version
           RETURNING owner_id, peer_id, version, state, generation, ${generationSql} AS current, false AS is_known`,
    values: columnsOf(pairs),
  };
}

/** Writes states whose rows are locked. */
export async function writeStates(client: Queryable, states: readonly NewState[]): Promise<void> {
  if (states.length === 0) return;
  const { rowCount } = await client.query({
    name: "write-ratchet-states",
    text: `UPDATE messaging_sessions s SET version = i.version + 1, state = i.state, generation = i.generation
           FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bigint[]) AS i (owner_id, peer_id, version, state, generation)
           WHERE s.owner_id = i.owner_id AND s.peer_id = i.peer_id AND s.version = i.version`,
    values: [
      ...columnsOf(states),
      states.map(({ readVersion }) => readVersion),
      states.map(({ state }) => state),
      states.map(({ generation }) => generation),
    ],
  });
  if (rowCount !== states.length) throw new Error("a ratchet state was written by somebody else under its lock");
}

/** Rows that one statement of the forgetting looks at. */
const EMPTY_PAGE = 1_000;

/**
 * Deletes the rows that were made to be locked, and never got a state: of peers that nothing could be sent to, and that sent nothing that opens. What somebody holds just
 * now is left for another time; who wants one again makes it again. No index finds them: it would cost every write of a state its place on the page.
 *
 * @param signal ends it behind the page under way
 * @throws Unavailable
 */
export async function forgetEmptyStates(db: Queryable, signal?: AbortSignal): Promise<void> {
  let after: Pair | null = { ownerId: "", peerId: "" };
  while (after !== null && signal?.aborted !== true) {
    const { rows }: { readonly rows: readonly PairRow[] } = await db.query<PairRow>({
      name: "forget-empty-states",
      text: `WITH page AS MATERIALIZED (
               SELECT owner_id, peer_id, state IS NULL AS is_empty FROM messaging_sessions
               WHERE (owner_id, peer_id) > ($1, $2) ORDER BY owner_id, peer_id LIMIT ${EMPTY_PAGE}
             ), mine AS MATERIALIZED (
               SELECT s.owner_id, s.peer_id FROM (SELECT * FROM page WHERE is_empty) AS p
               JOIN messaging_sessions s ON s.owner_id = p.owner_id AND s.peer_id = p.peer_id
               WHERE s.state IS NULL FOR UPDATE OF s SKIP LOCKED
             ), gone AS (
               DELETE FROM messaging_sessions s USING mine m WHERE s.owner_id = m.owner_id AND s.peer_id = m.peer_id
             )
             SELECT owner_id, peer_id FROM page ORDER BY owner_id, peer_id OFFSET ${EMPTY_PAGE - 1}`,
      values: [after.ownerId, after.peerId],
    });
    after = rows.map((row): Pair => ({ ownerId: row.owner_id, peerId: row.peer_id }))[0] ?? null;
  }
}

/** For maps. */
export function pairName({ ownerId, peerId }: Pair): string {
  return `${ownerId}/${peerId}`;
}

function columnsOf(pairs: readonly Pair[]): [owners: string[], peers: string[]] {
  return [pairs.map(({ ownerId }) => ownerId), pairs.map(({ peerId }) => peerId)];
}

interface PairRow {
  readonly owner_id: string;
  readonly peer_id: string;
}

interface StateRow extends PairRow {
  readonly version: number;
  readonly state: Uint8Array | null;
  readonly generation: number;
  readonly current: number;
}

interface LockedRow extends StateRow {
  readonly is_known: boolean;
}

function stateOf(row: StateRow): StoredState {
  const { owner_id: ownerId, peer_id: peerId, version, state, generation, current } = row;
  return { ownerId, peerId, version, state, generation: current, isOutdated: generation < current };
}
