/**
 * The generation of the database: how often it was put back from a backup, and an operator said so (docs/restore.md).
 *
 * Promise: it only grows, in one statement, which is the last of a recovery. What was written in an earlier generation may be older than what has left
 * this service since; each reader of such rows decides what that means.
 */
import type { Queryable } from "./postgres.ts";

/** SQL: the generation now. */
export const generationSql = "(SELECT generation FROM database_generation WHERE single)";

/** SQL: was this group told to stand, whatever the generation? */
export const heldSql = (group: string) => `EXISTS (SELECT 1 FROM held_groups WHERE grp = ${group})`;

/** Raises it above everything that was there before, `seen` included. Answers what it is now. */
export async function beginGeneration(db: Queryable, seen: number): Promise<number> {
  const { rows } = await db.query<{ generation: number }>({
    name: "begin-generation",
    text: "UPDATE database_generation SET generation = greatest(generation, $1) + 1 WHERE single RETURNING generation",
    values: [seen],
  });
  if (rows[0] === undefined) throw new Error("the database has no generation");
  return rows[0].generation;
}

/** From here on this group stands, whatever the generation. */
export async function holdGroup(db: Queryable, group: string): Promise<void> {
  await db.query({ text: "INSERT INTO held_groups (grp) VALUES ($1) ON CONFLICT DO NOTHING", values: [group] });
}

/** Where it was held, it goes on. */
export async function releaseGroup(db: Queryable, group: string): Promise<void> {
  await db.query({ text: "DELETE FROM held_groups WHERE grp = $1", values: [group] });
}
