/**
 * Signed heads of the audit log, for whoever asks for them; and whether everything below a head is in Kafka.
 */
import type { Queryable } from "./postgres.ts";

export interface StoredCheckpoint {
  readonly size: number;
  readonly root: Uint8Array;
  /** The signed note. */
  readonly note: string;
  readonly verifierKey: string;
  readonly signedAt: number;
}

/** The newest, or the one of this size. */
export async function findCheckpoint(db: Queryable, size: number | null = null): Promise<StoredCheckpoint | null> {
  const { rows } = await db.query<CheckpointRow>({
    name: "find-checkpoint",
    text: `SELECT size, root, note, verifier_key, signed_at FROM audit_checkpoints
           WHERE size BETWEEN coalesce($1, 0) AND coalesce($1, ${Number.MAX_SAFE_INTEGER}) ORDER BY size DESC LIMIT 1`,
    values: [size],
  });
  const [row] = rows;
  if (row === undefined) return null;
  const { root, note, verifier_key: verifierKey, signed_at: signedAt } = row;
  return { size: row.size, root: Uint8Array.from(root), note, verifierKey, signedAt };
}

/** The first one that has so many records: the same one whenever it is asked for. */
export async function findCheckpointCovering(db: Queryable, size: number): Promise<StoredCheckpoint | null> {
  const { rows } = await db.query<{ size: number }>({
    name: "find-checkpoint-covering",
    text: "SELECT size FROM audit_checkpoints WHERE size >= $1 ORDER BY size LIMIT 1",
    values: [size],
  });
  return rows[0] === undefined ? null : findCheckpoint(db, rows[0].size);
}

interface CheckpointRow {
  readonly size: number;
  readonly root: Uint8Array;
  readonly note: string;
  readonly verifier_key: string;
  readonly signed_at: number;
}

/** The first of a size stays. */
export async function addCheckpoint(db: Queryable, checkpoint: StoredCheckpoint): Promise<void> {
  const { size, root, note, verifierKey, signedAt } = checkpoint;
  await db.query({
    name: "add-checkpoint",
    text: `INSERT INTO audit_checkpoints (size, root, note, verifier_key, signed_at) VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT (size) DO NOTHING`,
    values: [size, Buffer.from(root), note, verifierKey, signedAt],
  });
}

/** Up to where in each partition a group's records wait to be published. */
export interface Unpublished {
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
}

/** What waits now. */
export async function findUnpublished(db: Queryable, group: string): Promise<readonly Unpublished[]> {
  const { rows } = await db.query<{ topic: string; partition: number; offset: number }>({
    name: "find-unpublished",
    text: `SELECT input_topic AS topic, input_partition AS partition, max(input_offset) AS offset FROM outbox
           WHERE grp = $1 GROUP BY input_topic, input_partition`,
    values: [group],
  });
  return rows;
}

/** Does any of it wait still? What came since does not count. */
export async function waitsStill(db: Queryable, group: string, some: readonly Unpublished[]): Promise<boolean> {
  if (some.length === 0) return false;
  const { rows } = await db.query<{ waits: boolean }>({
    name: "waits-still",
    text: `SELECT EXISTS (
             SELECT 1 FROM unnest($2::text[], $3::integer[], $4::bigint[]) AS w (topic, part, until)
             CROSS JOIN LATERAL (
               SELECT 1 FROM outbox WHERE grp = $1 AND input_topic = w.topic AND input_partition = w.part AND input_offset <= w.until
               LIMIT 1) AS o) AS waits`,
    values: [
      group,
      some.map(({ topic }) => topic),
      some.map(({ partition }) => partition),
      some.map(({ offset }) => offset),
    ],
  });
  return rows[0]?.waits ?? true;
}
