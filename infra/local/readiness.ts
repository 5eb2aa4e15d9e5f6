/**
 * Asks each server a real question, because an open port is not yet a server that answers.
 *
 * Promises: a check returns when the server answered, throws when it did not, and leaves no connection open.
 */
import { Redis } from "ioredis";
import pg from "pg";

const answerMsMax = 3_000;

export async function askRegistry(url: string): Promise<void> {
  const { origin, pathname, username, password } = new URL(url);
  const headers: Record<string, string> = {};
  if (username !== "") {
    const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
    headers["authorization"] = `Basic ${Buffer.from(credentials).toString("base64")}`;
  }
  const answer = await fetch(`${origin}${pathname.replace(/\/$/, "")}/subjects`, {
    headers,
    signal: AbortSignal.timeout(answerMsMax),
  });
  await answer.arrayBuffer();
  if (!answer.ok) throw new Error(`The registry answered with status ${answer.status}.`);
}

export async function askPostgres(url: string): Promise<void> {
  await withPostgres(url, (client) => client.query("SELECT 1"));
}

/** Creates the database once the server answers; one that is already there is left alone. */
export async function ensureDatabase(adminUrl: string, name: string): Promise<void> {
  await withPostgres(adminUrl, async (client) => {
    const found = await client.query("SELECT 1 FROM pg_database WHERE datname = $1", [name]);
    if (found.rowCount === 0) await client.query(`CREATE DATABASE ${client.escapeIdentifier(name)}`);
  });
}

export async function askRedis(url: string): Promise<void> {
  const redis = new Redis(url, {
    lazyConnect: true,
    connectTimeout: answerMsMax,
    commandTimeout: answerMsMax,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  });
  redis.on("error", () => undefined);
  try {
    await redis.connect();
    await redis.ping();
  } finally {
    redis.disconnect();
  }
}

async function withPostgres(url: string, ask: (client: pg.Client) => Promise<unknown>): Promise<void> {
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: answerMsMax,
    query_timeout: answerMsMax,
  });
  client.on("error", () => undefined);
  try {
    await client.connect();
    await ask(client);
  } finally {
    await client.end().catch(() => undefined);
  }
}
