/**
 * Facts born in the API or a job, written in the transaction that makes them true, and read by the relay, which publishes them.
 *
 * Promises: a fact is in the table exactly when what it says was committed; those of one key have an order; there is one reader at a
 * time.
 */
import pg from "pg";
import { Unavailable } from "../protocol/refusal.ts";
import type { Queryable } from "./postgres.ts";

/** A record on its way to Kafka. */
export interface Fact {
  /** `ce_id`; the row's key: the same fact again changes nothing. */
  readonly id: string;
  readonly topic: string;
  readonly key: string;
  readonly value: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
}

/**
 * Writes a fact. The caller holds a lock on the row the fact is about (it has just written or locked it): that makes the order of facts
 * with the same key the order of their commits.
 */
export async function addFact(client: Queryable, fact: Fact, now = Date.now()): Promise<void> {
  await client.query(addingFacts([fact], now));
}

/** The statement that writes facts of one key, in their order; what `addFact` says goes for it, too. */
export function addingFacts(facts: readonly [Fact, ...Fact[]], now: number): pg.QueryConfig {
  return {
    name: "add-facts",
    text: `INSERT INTO facts (id, topic, key, counter, value, headers, created_at)
           SELECT i.id, i.topic, $2::text, coalesce((SELECT max(counter) FROM facts WHERE key = $2::text), 0) + i.n,
                  i.value, i.headers::jsonb, $6::bigint
           FROM unnest($1::uuid[], $3::text[], $4::bytea[], $5::text[]) WITH ORDINALITY AS i (id, topic, value, headers, n)
           ON CONFLICT (id) DO NOTHING`,
    values: [
      facts.map(({ id }) => id),
      facts[0].key,
      facts.map(({ topic }) => topic),
      facts.map(({ value }) => value),
      facts.map(({ headers }) => JSON.stringify(headers)),
      now,
    ],
  };
}

/** The facts, in the hands of the one process that may publish them. Methods throw `Unavailable`. */
export interface HeldFacts {
  /** False as soon as the connection is gone, and the lock with it, and when it may be gone: nothing was asked for 20 s. */
  held(): boolean;
  /** Unpublished facts, in order for each key; at most `limit`. */
  unpublished(limit: number): Promise<readonly Fact[]>;
  markPublished(ids: readonly string[], now: number): Promise<void>;
  /** Deletes what was published before `time`, ms; answers how many. */
  forgetPublished(time: number): Promise<number>;
  release(): Promise<void>;
}

/** Any number, the same in every process. */
const relayLock = 7_231_944;

/**
 * The lock is gone with the session, and PostgreSQL does not hear of a host that lost its power, nor of a process that is frozen: it ends a session that asks nothing for half a
 * minute. The relay asks four times a second, and waits 8 s at most for Kafka to take a page. The rest is for an answer that a dead host does not take.
 */
const sessionEnds = [
  "idle_session_timeout=30000",
  "tcp_keepalives_idle=10",
  "tcp_keepalives_interval=5",
  "tcp_keepalives_count=3",
  "tcp_user_timeout=25000",
]
  .map((setting) => `-c ${setting}`)
  .join(" ");

/** So long after a question the lock is still held for certain: PostgreSQL counts from its answer on. A process that was frozen for longer must not believe that it has it. */
const heldForMs = 20_000;

/** Takes the relay's lock on a connection of its own; null when another process has it. Throws `Unavailable`. */
export async function holdFacts(postgresUrl: string): Promise<HeldFacts | null> {
  const client = new pg.Client({
    connectionString: postgresUrl,
    connectionTimeoutMillis: 5_000,
    query_timeout: 15_000,
    application_name: "sealpost relay",
    keepAlive: true,
    options: sessionEnds,
  });
  let held = true;
  let askedAt = performance.now();
  client.on("error", () => {
    held = false;
  });
  client.on("end", () => {
    held = false;
  });
  async function ask<Row extends pg.QueryResultRow>(query: pg.QueryConfig): Promise<pg.QueryResult<Row>> {
    const at = performance.now();
    try {
      const result = await client.query<Row>(query);
      askedAt = at;
      return result;
    } catch (error) {
      throw new Unavailable("postgres", error);
    }
  }
  async function release(): Promise<void> {
    held = false;
    await client.end().catch(() => undefined);
  }

  try {
    await client.connect();
  } catch (error) {
    await release();
    throw new Unavailable("postgres", error);
  }
  try {
    const { rows } = await ask<{ taken: boolean }>({
      text: "SELECT pg_try_advisory_lock($1) AS taken",
      values: [relayLock],
    });
    if (rows[0]?.taken !== true) {
      await release();
      return null;
    }
  } catch (error) {
    await release();
    throw error;
  }

  return {
    held: () => held && performance.now() - askedAt < heldForMs,
    async unpublished(limit) {
      const { rows } = await ask<Fact & pg.QueryResultRow>({
        name: "unpublished-facts",
        text: `SELECT id, topic, key, value, headers FROM facts WHERE published_at IS NULL ORDER BY key, counter LIMIT $1`,
        values: [limit],
      });
      return rows;
    },
    async markPublished(ids, now) {
      await ask({
        name: "mark-facts-published",
        text: "UPDATE facts SET published_at = $2 WHERE id = ANY($1::uuid[])",
        values: [ids, now],
      });
    },
    async forgetPublished(time) {
      const { rowCount } = await ask({ text: "DELETE FROM facts WHERE published_at < $1", values: [time] });
      return rowCount ?? 0;
    },
    release,
  };
}
