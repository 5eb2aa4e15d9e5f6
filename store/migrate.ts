/**
 * Brings a database to this version's schema: the SQL files in `migrations/`, in the order of their numbers, each once.
 *
 * Promise: all of them or none; two processes that start together do not disturb each other (an advisory lock, waited for);
 * running it again changes nothing.
 */
import path from "node:path";
import { runner } from "node-pg-migrate";
import pg from "pg";
import { Unavailable } from "../protocol/refusal.ts";

const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

/**
 * @returns the names of the migrations that were applied now; empty when there was nothing to do.
 * @throws Unavailable when the database cannot be reached; otherwise whatever a migration's SQL failed with.
 */
export async function migrate(url: string): Promise<readonly string[]> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 });
  // A connection that breaks also rejects the query under way; without a listener it would end the process as well.
  client.on("error", () => undefined);
  try {
    await client.connect();
  } catch (error) {
    throw new Unavailable("postgres", error);
  }
  try {
    const applied = await runner({
      dbClient: client,
      dir: path.join(import.meta.dirname, "migrations"),
      direction: "up",
      migrationsTable: "schema_migrations",
      advisoryLockMode: "wait",
      singleTransaction: true,
      logger: silent,
    });
    return applied.map(({ name }) => name);
  } finally {
    await client.end();
  }
}
