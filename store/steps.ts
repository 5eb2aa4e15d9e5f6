/**
 * Steps of consumers in PostgreSQL: positions, the outbox, and one transaction around both and the consumer's own work.
 *
 * Promises: a step happens wholly or not at all, and at most once for each position it moves from: whoever else applies the same records
 * finds the position moved. Implements the runner's port `StepStore` (`streams/consumer.ts`).
 */
import { createHash } from "node:crypto";
import type { QueryConfig } from "pg";
import { generationSql, heldSql } from "./generation.ts";
import { begun, inTransaction, type Postgres, type Queryable } from "./postgres.ts";

interface PartitionId {
  readonly topic: string;
  readonly partition: number;
}

/** Rows of these input offsets are published. Without the lower bound each deletion would wade through the remains of all before. */
interface Published extends PartitionId {
  readonly from: number;
  readonly below: number;
}

export interface OutboxRow {
  readonly inputTopic: string;
  readonly inputPartition: number;
  readonly inputOffset: number;
  readonly n: number;
  readonly topic: string;
  readonly key: string | Uint8Array;
  readonly value: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
}

/** The same. */
class RowsWait extends Error {}

/** How far a whole group is. */
interface GroupReached {
  readonly generation: number;
  readonly isHeld: boolean;
  readonly positions: readonly (PartitionId & { readonly nextOffset: number })[];
}

/** Ends the transaction; never leaves this file. */
class Moved extends Error {}

/** Where a group stands in a topic, without making a position where there is none. Throws `Unavailable`. */
export async function findPositions(
  db: Queryable,
  group: string,
  topic: string,
): Promise<readonly (PartitionId & { readonly nextOffset: number })[]> {
  const { rows } = await db.query<{ part: number; next_offset: number }>({
    name: "find-positions",
    text: "SELECT part, next_offset FROM consumer_positions WHERE grp = $1 AND topic = $2",
    values: [group, topic],
  });
  return rows.map(({ part: partition, next_offset: nextOffset }) => ({ topic, partition, nextOffset }));
}

/** Of one moment. */
async function findReached(db: Queryable, group: string): Promise<GroupReached> {
  const { rows } = await db.query<{
    generation: number;
    held: boolean;
    topic: string | null;
    part: number;
    next_offset: number;
  }>({
    name: "find-reached",
    text: `SELECT ${generationSql} AS generation, ${heldSql("$1")} AS held, p.topic, p.part, p.next_offset
           FROM (SELECT 1) AS one LEFT JOIN consumer_positions p ON p.grp = $1`,
    values: [group],
  });
  const positions = rows.flatMap(({ topic, part: partition, next_offset: nextOffset }) => {
    return topic === null ? [] : [{ topic, partition, nextOffset }];
  });
  return { generation: rows[0]?.generation ?? 0, isHeld: rows[0]?.held ?? false, positions };
}

/** `openTx` builds what a consumer gets inside its step over the step's connection. */
export function openSteps<Tx>(postgres: Postgres, openTx: (client: Queryable) => Tx) {
  return {
    async loadPositions(group: string, partitions: readonly (PartitionId & { readonly startAt: number })[]) {
      const values = [group, topicsOf(partitions), numbersOf(partitions), partitions.map(({ startAt }) => startAt)];
      await postgres.query({
        name: "make-positions",
        text: `INSERT INTO consumer_positions (grp, topic, part, next_offset)
               SELECT $1, topic, part, start_at FROM unnest($2::text[], $3::integer[], $4::bigint[]) AS w (topic, part, start_at)
               ORDER BY topic, part
               ON CONFLICT DO NOTHING`,
        values,
      });
      const { rows } = await postgres.query<{ topic: string; part: number; next_offset: number }>({
        name: "load-positions",
        text: `SELECT topic, part, next_offset FROM consumer_positions
               JOIN unnest($2::text[], $3::integer[]) AS w (topic, part) USING (topic, part)
               WHERE grp = $1`,
        values: values.slice(0, 3),
      });
      return rows.map((row) => ({ topic: row.topic, partition: row.part, nextOffset: row.next_offset }));
    },

    async leftovers(
      group: string,
      { topic, partition }: PartitionId,
      limit: number,
      after: { readonly inputOffset: number; readonly n: number } = { inputOffset: -1, n: 0 },
    ): Promise<OutboxRow[]> {
      const { rows } = await postgres.query<StoredRow>({
        name: "load-leftovers",
        text: `SELECT input_offset, n, topic, key, value, headers FROM outbox
               WHERE grp = $1 AND input_topic = $2 AND input_partition = $3 AND (input_offset, n) > ($4, $5)
               ORDER BY input_offset, n LIMIT $6`,
        values: [group, topic, partition, after.inputOffset, after.n, limit],
      });
      return rows.map((row) => ({
        inputTopic: topic,
        inputPartition: partition,
        inputOffset: row.input_offset,
        n: row.n,
        topic: row.topic,
        key: row.key,
        value: row.value,
        headers: JSON.parse(row.headers.toString("utf8")) as Record<string, string>,
      }));
    },

    async commitStep(
      group: string,
      moves: readonly (PartitionId & { readonly from: number; readonly to: number })[],
      published: readonly Published[],
      work: (tx: Tx, reach: () => Promise<GroupReached>) => Promise<readonly OutboxRow[]>,
    ): Promise<"committed" | "moved"> {
      try {
        await inTransaction(
          postgres,
          async (client) => {
            await movePositions(client, group, moves, published);
            return work(openTx(client), () => findReached(client, group));
          },
          (rows) => outboxInsertion(group, rows),
        );
        return "committed";
      } catch (error) {
        if (error instanceof Moved) return "moved";
        throw error;
      }
    },

    async deletePublished(group: string, published: readonly Published[]): Promise<void> {
      await postgres.query({
        name: "delete-published",
        text: deletionOf(2),
        values: [group, topicsOf(published), numbersOf(published), ...rangesOf(published)],
      });
    },

    /** Of the rows that a step wrote those that are still there, byte for byte. */
    async stillWaiting(group: string, rows: readonly OutboxRow[]): Promise<readonly OutboxRow[]> {
      const { rows: found } = await postgres.query<{ nth: number }>({
        name: "find-still-waiting",
        text: `SELECT i.nth FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::integer[], $6::bytea[]) WITH ORDINALITY
                 AS i (topic, part, input_offset, n, digest, nth)
               CROSS JOIN LATERAL (
                 SELECT value FROM outbox
                 WHERE grp = $1 AND input_topic = i.topic AND input_partition = i.part AND input_offset = i.input_offset AND n = i.n
                 OFFSET 0) AS o
               WHERE sha256(o.value) = i.digest`,
        values: [
          group,
          rows.map(({ inputTopic }) => inputTopic),
          rows.map(({ inputPartition }) => inputPartition),
          rows.map(({ inputOffset }) => inputOffset),
          rows.map(({ n }) => n),
          rows.map(({ value }) => createHash("sha256").update(value).digest()),
        ],
      });
      const waiting = new Set(found.map(({ nth }) => nth));
      return rows.filter((_, index) => waiting.has(index + 1));
    },

    loadReached: (group: string) => findReached(postgres, group),

    async loadGeneration(): Promise<number> {
      const { rows } = await postgres.query<{ generation: number }>({
        name: "load-generation",
        text: `SELECT ${generationSql} AS generation`,
      });
      return rows[0]?.generation ?? 0;
    },

    /**
     * Rows of the records that are applied again from `nextOffset` on would stand in the way of the new ones: they are deleted, or, where they must not be
     * lost, `rows-wait` is answered and nothing happens.
     */
    async acceptGap(
      group: string,
      { topic, partition }: PartitionId,
      nextOffset: number,
      waitingRows: "delete" | "refuse" = "delete",
    ): Promise<"accepted" | "rows-wait"> {
      return inTransaction(postgres, async (client) => {
        await client.query({
          text: `INSERT INTO consumer_positions (grp, topic, part, next_offset) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (grp, topic, part) DO UPDATE SET next_offset = EXCLUDED.next_offset`,
          values: [group, topic, partition, nextOffset],
        });
        const { rowCount } = await client.query({
          text: `DELETE FROM outbox WHERE grp = $1 AND input_topic = $2 AND input_partition = $3 AND input_offset >= $4`,
          values: [group, topic, partition, nextOffset],
        });
        if (waitingRows === "refuse" && rowCount !== 0) throw new RowsWait();
        return "accepted" as const;
      }).catch((error: unknown) => {
        if (error instanceof RowsWait) return "rows-wait" as const;
        throw error;
      });
    },
  };
}

/**
 * Deletes the rows of ranges: $1 is the group, four arrays from `$first` on name the ranges.
 *
 * By their places, which a lateral scan finds range by range: as a join, the planner, to whom this table looks empty most of the time, may read the
 * index once for the whole group, remains of all earlier rows included (seen: 1,400 pages a step).
 */
function deletionOf(first: number): string {
  return `DELETE FROM outbox WHERE ctid = ANY (ARRAY(
            SELECT o.ctid
            FROM unnest($${first}::text[], $${first + 1}::integer[], $${first + 2}::bigint[], $${first + 3}::bigint[])
                 AS d (topic, part, from_offset, below)
            CROSS JOIN LATERAL (
              SELECT ctid FROM outbox
              WHERE grp = $1 AND input_topic = d.topic AND input_partition = d.part
                AND input_offset >= d.from_offset AND input_offset < d.below
              OFFSET 0
            ) o))`;
}

interface StoredRow {
  readonly input_offset: number;
  readonly n: number;
  readonly topic: string;
  readonly key: Buffer;
  readonly value: Buffer;
  readonly headers: Buffer;
}

/** Compare-and-set on every position, and the published rows' end, in one round trip. Throws `Moved`. */
async function movePositions(
  client: Queryable,
  group: string,
  moves: readonly (PartitionId & { readonly from: number; readonly to: number })[],
  published: readonly Published[],
): Promise<void> {
  const { rows } = await client.query<{ moved: number }>({
    name: "move-positions",
    text: `WITH moved AS (
             UPDATE consumer_positions p SET next_offset = m.to_offset
             FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[]) AS m (topic, part, from_offset, to_offset)
             WHERE p.grp = $1 AND p.topic = m.topic AND p.part = m.part AND p.next_offset = m.from_offset
               AND ${begun}
             RETURNING 1
           ), deleted AS (
             ${deletionOf(6)}
           )
           SELECT count(*) AS moved FROM moved`,
    values: [
      group,
      topicsOf(moves),
      numbersOf(moves),
      moves.map(({ from }) => from),
      moves.map(({ to }) => to),
      topicsOf(published),
      numbersOf(published),
      ...rangesOf(published),
    ],
  });
  if (rows[0]?.moved !== moves.length) throw new Moved();
}

function outboxInsertion(group: string, rows: readonly OutboxRow[]): QueryConfig | null {
  if (rows.length === 0) return null;
  return {
    name: "write-outbox",
    text: `INSERT INTO outbox (grp, input_topic, input_partition, input_offset, n, topic, key, value, headers)
           SELECT $1, * FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::integer[], $6::text[], $7::bytea[], $8::bytea[], $9::bytea[])`,
    values: [
      group,
      rows.map(({ inputTopic }) => inputTopic),
      rows.map(({ inputPartition }) => inputPartition),
      rows.map(({ inputOffset }) => inputOffset),
      rows.map(({ n }) => n),
      rows.map(({ topic }) => topic),
      rows.map(({ key }) => (typeof key === "string" ? Buffer.from(key, "utf8") : asBuffer(key))),
      rows.map(({ value }) => asBuffer(value)),
      rows.map(({ headers }) => Buffer.from(JSON.stringify(headers), "utf8")),
    ],
  };
}

function topicsOf(partitions: readonly PartitionId[]): string[] {
  return partitions.map(({ topic }) => topic);
}

function numbersOf(partitions: readonly PartitionId[]): number[] {
  return partitions.map(({ partition }) => partition);
}

function rangesOf(published: readonly Published[]): [from: number[], below: number[]] {
  return [published.map(({ from }) => from), published.map(({ below }) => below)];
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
