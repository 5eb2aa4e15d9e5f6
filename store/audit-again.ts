/**
 * Audit records that have left since the backup from which the database was put back: gathered, and appended at the places that they were given out with.
 *
 * Promise: until the transaction ends nobody else appends; what is gathered twice counts once. All of it happens or nothing.
 */
import { HASH_BYTES } from "../protocol/audit/merkle.ts";
import { appendLeaves, type LogHead, lockHead, TILE_HASHES } from "./audit-log.ts";
import type { AuditWeeks } from "./audit-weeks.ts";
import type { Queryable } from "./postgres.ts";

export interface GatheredLeaf {
  readonly logIndex: number;
  readonly leafHash: Uint8Array;
  readonly sourceEventId: string;
  /** When the log took the record, ms since the epoch. */
  readonly appendedAt: number;
}

/** Of one transaction's appending at a time. */
const CHUNK = 2_000;

/** Takes the head. Between two statements the log is read, for as long as that takes. */
export async function beginAgain(client: Queryable): Promise<LogHead> {
  await client.query({ text: "SET LOCAL idle_in_transaction_session_timeout = 0" });
  await client.query({
    text: `CREATE TEMPORARY TABLE audit_again
             (log_index bigint PRIMARY KEY, leaf_hash bytea, source_event_id uuid, appended_at bigint) ON COMMIT DROP`,
  });
  return lockHead(client);
}

/** False when another record was gathered for one of these places. */
export async function gatherAgain(client: Queryable, leaves: readonly GatheredLeaf[]): Promise<boolean> {
  const values = [
    leaves.map(({ logIndex }) => logIndex),
    leaves.map(({ leafHash }) => Buffer.from(leafHash)),
    leaves.map(({ sourceEventId }) => sourceEventId),
    leaves.map(({ appendedAt }) => appendedAt),
  ];
  await client.query({
    text: `INSERT INTO audit_again SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::uuid[], $4::bigint[]) ON CONFLICT DO NOTHING`,
    values,
  });
  const { rows } = await client.query<{ others: number }>({
    text: `SELECT count(*) AS others FROM unnest($1::bigint[], $2::bytea[]) AS i (log_index, leaf_hash)
           JOIN audit_again a USING (log_index) WHERE a.leaf_hash <> i.leaf_hash`,
    values: values.slice(0, 2),
  });
  return rows[0]?.others === 0;
}

/** False when the log holds another record at one of these places, all of them below its head. */
export async function areStored(client: Queryable, leaves: readonly GatheredLeaf[]): Promise<boolean> {
  if (leaves.length === 0) return true;
  const { rows } = await client.query<{ others: number }>({
    text: `SELECT count(*) AS others FROM unnest($1::bigint[], $2::bytea[]) AS i (log_index, leaf_hash)
           LEFT JOIN audit_tiles t ON t.level = 0 AND t.idx = i.log_index / ${TILE_HASHES}
           WHERE substr(t.hashes, (i.log_index % ${TILE_HASHES})::integer * ${HASH_BYTES} + 1, ${HASH_BYTES}) IS DISTINCT FROM i.leaf_hash`,
    values: [leaves.map(({ logIndex }) => logIndex), leaves.map(({ leafHash }) => Buffer.from(leafHash))],
  });
  return rows[0]?.others === 0;
}

/** The places from `from` on below the last that was gathered for which nothing was; at most `limit`. */
export async function missingPlaces(client: Queryable, from: number, limit: number): Promise<readonly number[]> {
  const { rows } = await client.query<{ log_index: number; before: number }>({
    text: `SELECT log_index, before FROM (
             SELECT log_index, coalesce(lag(log_index) OVER (ORDER BY log_index), $1::bigint - 1) AS before FROM audit_again) AS p
           WHERE before < log_index - 1 ORDER BY log_index`,
    values: [from],
  });
  const places: number[] = [];
  for (const { log_index: next, before } of rows) {
    for (let place = before + 1; place < next && places.length < limit; place++) places.push(place);
  }
  return places;
}

/** Appends what was gathered, which must lead on from the head without a gap. Answers how many. */
export async function appendAgain(client: Queryable, weeks: AuditWeeks): Promise<number> {
  for (let appended = 0; ; ) {
    const head = await lockHead(client);
    const { rows } = await client.query<AgainRow>({
      text: `SELECT log_index, leaf_hash, source_event_id, appended_at FROM audit_again
             WHERE log_index >= $1 ORDER BY log_index LIMIT $2`,
      values: [head.size, CHUNK],
    });
    if (rows.length === 0) return appended;
    if (rows.some((row, n) => row.log_index !== head.size + n)) throw new Error("a place of the audit log is missing");
    const leaves = rows.map((row) => ({
      leafHash: Uint8Array.from(row.leaf_hash),
      sourceEventId: row.source_event_id,
      sourceAppendedAt: row.appended_at,
    }));
    await appendLeaves(client, weeks, head, leaves);
    appended += rows.length;
  }
}

interface AgainRow {
  readonly log_index: number;
  readonly leaf_hash: Uint8Array;
  readonly source_event_id: string;
  readonly appended_at: number;
}
