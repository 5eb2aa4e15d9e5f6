/**
 * The Merkle log of audit records: its head, its hashes, and the memory of the facts that have their record.
 *
 * Promise: whoever has locked the head is alone. So places are given without a gap, a fact gets one record at most, and head, hashes and memory are of one
 * moment. Nothing that stands in the tree is ever written again; only the last row of a level is filled up.
 */

import { GrowingTree, HASH_BYTES, joinSubtrees, rootOf } from "../protocol/audit/merkle.ts";
import { type Span, type Subtree, subtreesOf } from "../protocol/audit/proofs.ts";
import { join } from "../protocol/bytes.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { type AuditWeeks, weekOf } from "./audit-weeks.ts";
import type { Queryable } from "./postgres.ts";

/** A tile holds 2^8 hashes (C2SP tlog-tiles has the same). */
const TILE_LEVELS = 8;
export const TILE_HASHES = 2 ** TILE_LEVELS;

export interface LogHead {
  /** Records; the place of the next. */
  readonly size: number;
  readonly root: Uint8Array;
  readonly subtrees: readonly Uint8Array[];
  /** When it last grew, ms since the epoch by the database's clock; 0 while it is empty. */
  readonly grownAt: number;
}

/** A record that takes the next place. */
export interface NewLeaf {
  readonly leafHash: Uint8Array;
  /** `ce_id` of its fact. */
  readonly sourceEventId: string;
  /** When the log took the fact, ms since the epoch. */
  readonly sourceAppendedAt: number;
}

/** The head, and nobody else's until the transaction ends. */
export function lockHead(db: Queryable): Promise<LogHead> {
  return readHead(db, "FOR UPDATE");
}

export async function findHead(db: Queryable): Promise<LogHead> {
  return readHead(db, "");
}

async function readHead(db: Queryable, lock: "FOR UPDATE" | ""): Promise<LogHead> {
  const { rows } = await db.query<{ size: number; subtrees: Uint8Array; grown_at: number }>({
    name: lock === "" ? "find-audit-head" : "lock-audit-head",
    text: `SELECT size, subtrees, grown_at FROM audit_log WHERE single ${lock}`,
  });
  if (rows[0] === undefined) throw new Error("the audit log has no head");
  const { size, subtrees, grown_at: grownAt } = rows[0];
  const tree = new GrowingTree(nodePrimitives, size, hashesIn(subtrees));
  return { size, root: tree.root(), subtrees: tree.subtrees(), grownAt };
}

/** Those of the facts that have their record. Right for as long as the head is locked. */
export async function findSeen(db: Queryable, eventIds: readonly string[]): Promise<ReadonlySet<string>> {
  const { rows } = await db.query<{ event_id: string }>({
    name: "find-audit-seen",
    text: `SELECT s.event_id FROM unnest($1::uuid[]) AS i (event_id)
           CROSS JOIN LATERAL (SELECT event_id FROM audit_seen WHERE event_id = i.event_id OFFSET 0) AS s`,
    values: [eventIds],
  });
  return new Set(rows.map(({ event_id }) => event_id));
}

/** Appends records behind the head that this transaction has locked, in their order. */
export async function appendLeaves(
  db: Queryable,
  weeks: AuditWeeks,
  head: LogHead,
  leaves: readonly NewLeaf[],
): Promise<void> {
  if (leaves.length === 0) return;
  await weeks.ensure(leaves.map(({ sourceAppendedAt }) => sourceAppendedAt));
  const tree = new GrowingTree(nodePrimitives, head.size, head.subtrees);
  const tiles = new Map<string, Tile>();
  for (const { leafHash } of leaves) {
    const index = tree.size;
    for (const [level, hash] of tree.append(leafHash).entries()) {
      if (level % TILE_LEVELS === 0) putInTile(tiles, level / TILE_LEVELS, Math.floor(index / 2 ** level), hash);
    }
  }
  await writeTiles(db, [...tiles.values()]);
  await remember(db, leaves);
  await db.query({
    name: "move-audit-head",
    text: `UPDATE audit_log SET size = $1, subtrees = $2, grown_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint WHERE single`,
    values: [tree.size, Buffer.from(join(tree.subtrees()))],
  });
}

/** What is added to a row of a level. */
interface Tile {
  readonly level: number;
  readonly index: number;
  /** Hashes that it holds already. */
  readonly held: number;
  readonly added: Uint8Array[];
}

function putInTile(tiles: Map<string, Tile>, level: number, index: number, hash: Uint8Array): void {
  const tileIndex = Math.floor(index / TILE_HASHES);
  const name = `${level} ${tileIndex}`;
  const tile = tiles.get(name) ?? { level, index: tileIndex, held: index % TILE_HASHES, added: [] };
  tile.added.push(hash);
  tiles.set(name, tile);
}

async function writeTiles(db: Queryable, tiles: readonly Tile[]): Promise<void> {
  const { rowCount } = await db.query({
    name: "write-audit-tiles",
    text: `INSERT INTO audit_tiles AS t (level, idx, hashes)
           SELECT level, idx, hashes FROM unnest($1::smallint[], $2::bigint[], $3::bytea[]) AS i (level, idx, hashes)
           ON CONFLICT (level, idx) DO UPDATE SET hashes = t.hashes || excluded.hashes
           WHERE octet_length(t.hashes) = (SELECT held FROM unnest($1::smallint[], $2::bigint[], $4::integer[]) AS h (level, idx, held)
                                           WHERE h.level = t.level AND h.idx = t.idx) * ${HASH_BYTES}`,
    values: [
      tiles.map(({ level }) => level),
      tiles.map(({ index }) => index),
      tiles.map(({ added }) => Buffer.from(join(added))),
      tiles.map(({ held }) => held),
    ],
  });
  if (rowCount !== tiles.length) throw new Error("the audit log's hashes are not those of its head");
}

async function remember(db: Queryable, leaves: readonly NewLeaf[]): Promise<void> {
  await db.query({
    name: "remember-audited",
    text: "INSERT INTO audit_seen (event_id, week) SELECT * FROM unnest($1::uuid[], $2::integer[])",
    values: [
      leaves.map(({ sourceEventId }) => sourceEventId),
      leaves.map(({ sourceAppendedAt }) => weekOf(sourceAppendedAt)),
    ],
  });
}

/** The hashes of spans of leaves, all within the tree: what a proof is made of. */
export async function hashesOfSpans(db: Queryable, spans: readonly Span[]): Promise<readonly Uint8Array[]> {
  const rows = spans.map(subtreesOf);
  const tiles = await findTiles(db, rows.flat().map(tileOf));
  return rows.map((subtrees) =>
    joinSubtrees(
      nodePrimitives,
      subtrees.map((subtree) => hashIn(tiles, subtree)),
    ),
  );
}

/** Which tile holds the hashes below a subtree, where in it they begin, and how many they are. */
function tileOf({ level, index }: Subtree) {
  const tileLevel = Math.floor(level / TILE_LEVELS);
  const hashes = 2 ** (level - tileLevel * TILE_LEVELS);
  const first = index * hashes;
  const tileIndex = Math.floor(first / TILE_HASHES);
  return { name: `${tileLevel} ${tileIndex}`, tileLevel, tileIndex, start: first - tileIndex * TILE_HASHES, hashes };
}

function hashIn(tiles: ReadonlyMap<string, readonly Uint8Array[]>, subtree: Subtree): Uint8Array {
  const { name, start, hashes } = tileOf(subtree);
  const row = tiles.get(name)?.slice(start, start + hashes) ?? [];
  if (row.length !== hashes) throw new Error("the audit log lacks hashes of its tree");
  return rootOf(nodePrimitives, row);
}

async function findTiles(
  db: Queryable,
  wanted: readonly { readonly tileLevel: number; readonly tileIndex: number }[],
): Promise<ReadonlyMap<string, readonly Uint8Array[]>> {
  const { rows } = await db.query<{ level: number; idx: number; hashes: Uint8Array }>({
    name: "find-audit-tiles",
    text: `SELECT t.level, t.idx, t.hashes FROM (SELECT DISTINCT * FROM unnest($1::smallint[], $2::bigint[]) AS w (level, idx)) AS w
           CROSS JOIN LATERAL (SELECT * FROM audit_tiles WHERE level = w.level AND idx = w.idx OFFSET 0) AS t`,
    values: [wanted.map(({ tileLevel }) => tileLevel), wanted.map(({ tileIndex }) => tileIndex)],
  });
  return new Map(rows.map(({ level, idx, hashes }) => [`${level} ${idx}`, hashesIn(hashes)]));
}

function hashesIn(bytes: Uint8Array): readonly Uint8Array[] {
  return Array.from({ length: bytes.length / HASH_BYTES }, (_, n) => {
    return Uint8Array.from(bytes.subarray(n * HASH_BYTES, (n + 1) * HASH_BYTES));
  });
}
