/**
 * The real servers of this test run, and names in them that nobody else uses.
 */
import { randomBytes } from "node:crypto";
import pg from "pg";
import { inject } from "vitest";

export interface StackUrls {
  readonly kafkaBrokers: readonly string[];
  readonly registryUrl: string;
  readonly postgresUrl: string;
  readonly redisUrl: string;
}

declare module "vitest" {
  export interface ProvidedContext {
    stackUrls: StackUrls;
  }
}

export function useStack(): StackUrls {
  return inject("stackUrls");
}

/** A suffix for topics, groups, databases and key prefixes: lower-case letters and digits. */
export function uniqueName(prefix: string): string {
  return `${prefix}_${randomBytes(5).toString("hex")}`;
}

/** Makes an empty database on the shared server and answers its URL. */
export async function createDatabase(prefix = "test"): Promise<string> {
  const url = new URL(useStack().postgresUrl);
  const name = uniqueName(prefix);
  const client = new pg.Client({ connectionString: url.href });
  await client.connect();
  try {
    await client.query(`CREATE DATABASE ${name}`);
  } finally {
    await client.end();
  }
  url.pathname = `/${name}`;
  return url.href;
}
