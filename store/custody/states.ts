/**
 * The ratchet states of server custody: one sealed row for each (owner, peer).
 *
 * Promises: rows are locked in key order, so that sending and opening never wait for each other in a ring; a row is written only over the version
 * that was read under its lock. Nothing here opens what it handles.
 */
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
}

/** A state sealed for the version after the one that was read. */
export interface NewState extends Pair {
  readonly readVersion: number;
  readonly state: Uint8Array;
}

/** Those that are there, in any order, without a lock. */
export async function findStates(db: Queryable, pairs: readonly Pair[]): Promise<readonly StoredState[]> {
  if (pairs.length === 0) return [];
  const { rows } = await db.query<StateRow>({
    name: "find-ratchet-states",
    text: `SELECT s.* FROM unnest($1::text[], $2::text[]) AS i (owner_id, peer_id)
           CROSS JOIN LATERAL (
             SELECT owner_id, peer_id, version, state FROM messaging_sessions s
             WHERE s.owner_id = i.owner_id AND s.peer_id = i.peer_id OFFSET 0) AS s`,
    values: columnsOf(pairs),
  });
  return rows.map(stateOf);
}

/**
 * Locks the rows of these pairs, each given once, until the transaction ends; those that are not there are made. `areThere`: all of them have been
 * seen, so that nothing needs to be written.
 */
export async function lockStates(
  client: Queryable,
  pairs: readonly Pair[],
  { areThere }: { readonly areThere: boolean },
): Promise<readonly StoredState[]> {
  if (pairs.length === 0) return [];
  const { rows } = await client.query<StateRow>(areThere ? locking(pairs) : making(pairs));
  if (rows.length !== pairs.length) throw new Error("a ratchet state is gone");
  return rows.map(stateOf);
}

function locking(pairs: readonly Pair[]) {
  return {
    name: "lock-ratchet-states",
    text: `SELECT s.owner_id, s.peer_id, s.version, s.state
           FROM unnest($1::text[], $2::text[]) AS i (owner_id, peer_id)
           JOIN messaging_sessions s ON s.owner_id = i.owner_id AND s.peer_id = i.peer_id
           ORDER BY s.owner_id, s.peer_id FOR UPDATE OF s`,
    values: columnsOf(pairs),
  };
}

/** In one statement with those that are there: the order of locks is one. */
function making(pairs: readonly Pair[]) {
  return {
    name: "make-ratchet-states",
    text: `INSERT INTO messaging_sessions AS s (owner_id, peer_id, version)
           SELECT owner_id, peer_id, 0 FROM unnest($1::text[], $2::text[]) AS i (owner_id, peer_id)
           ORDER BY owner_id COLLATE "C", peer_id COLLATE "C"
           ON CONFLICT (owner_id, peer_id) DO UPDATE SET version = s.version
           RETURNING owner_id, peer_id, version, state`,
    values: columnsOf(pairs),
  };
}

/** Writes states whose rows are locked. */
export async function writeStates(client: Queryable, states: readonly NewState[]): Promise<void> {
  if (states.length === 0) return;
  const { rowCount } = await client.query({
    name: "write-ratchet-states",
    text: `UPDATE messaging_sessions s SET version = i.version + 1, state = i.state
           FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) AS i (owner_id, peer_id, version, state)
           WHERE s.owner_id = i.owner_id AND s.peer_id = i.peer_id AND s.version = i.version`,
    values: [...columnsOf(states), states.map(({ readVersion }) => readVersion), states.map(({ state }) => state)],
  });
  if (rowCount !== states.length) throw new Error("a ratchet state was written by somebody else under its lock");
}

function columnsOf(pairs: readonly Pair[]): [owners: string[], peers: string[]] {
  return [pairs.map(({ ownerId }) => ownerId), pairs.map(({ peerId }) => peerId)];
}

interface StateRow {
  readonly owner_id: string;
  readonly peer_id: string;
  readonly version: number;
  readonly state: Uint8Array | null;
}

function stateOf(row: StateRow): StoredState {
  return { ownerId: row.owner_id, peerId: row.peer_id, version: row.version, state: row.state };
}
