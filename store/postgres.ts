/**
 * The door to PostgreSQL: one pool, transactions, and whose fault an error is.
 *
 * Promise: what leaves this file is `RecordFault` (a value was refused), `CommitUnknown` (the answer to COMMIT was lost),
 * `Unavailable` (anything else the database or the network did), or what the caller's own code threw.
 */
import pg from "pg";
import { CommitUnknown, RecordFault, Unavailable } from "../protocol/refusal.ts";
import { openBreaker } from "./breaker.ts";

/** What a query can be asked of: the pool, or one client inside a transaction. */
export interface Queryable {
  query<Row extends pg.QueryResultRow>(query: pg.QueryConfig): Promise<pg.QueryResult<Row>>;
}

export interface Postgres extends Queryable {
  readonly pool: pg.Pool;
  /** Runs a query or a transaction; fails at once instead, where that was asked for and the server is away. */
  guarded<Result>(work: () => Promise<Result>): Promise<Result>;
  close(): Promise<void>;
}

const int8 = 20;

/** bigint columns hold milliseconds, sequence numbers and offsets, all below 2^53. */
const types = {
  getTypeParser: (oid: number, format?: string) =>
    oid === int8 && format !== "binary" ? Number : pg.types.getTypeParser(oid, format as "text"),
};

/**
 * Every statement of this service finds its rows by key. The planner does not count on partitions being left out at run time, so on
 * statistics of a small or new table it would rather read all partitions through; and a plan made for one set of values is
 * dear where there are a hundred partitions. So: one plan for a prepared statement, made of index lookups.
 */
const planning = ["enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_material"]
  .map((setting) => `-c ${setting}=off`)
  .concat("-c plan_cache_mode=force_generic_plan")
  .join(" ");

/** Of a pool that others wait for: when the last of them is asked, 10 s have passed, and so have their clients. */
const QUESTIONS_MAX = 1_000;

/** Answers to who waits for them are not worth more: most HTTP clients give up after ten seconds. */
const WAITED_FOR_MS_MAX = 9_000;

export interface PostgresOptions {
  readonly connectionsMax?: number;
  readonly applicationName?: string;
  /**
   * For callers that somebody waits for: fewer seconds for an answer, so many questions at a time, and while the server is away none (breaker.ts). Told
   * when that begins and ends. Without it callers wait their turn, and try again as they see fit.
   */
  readonly onAway?: (away: boolean) => void;
}

/**
 * Opens a pool; connects at first use. `connectionsMax` bounds the server's memory, not the callers: those wait their turn.
 *
 * @throws nothing; the first query tells whether the server is there.
 */
export function openPostgres(
  url: string,
  { connectionsMax = 8, applicationName = "sealpost", onAway }: PostgresOptions = {},
): Postgres {
  const pool = new pg.Pool({
    connectionString: url,
    max: connectionsMax,
    application_name: applicationName,
    connectionTimeoutMillis: 5_000,
    // A server that stopped without closing its sockets must not hold a step for ever.
    query_timeout: onAway === undefined ? 30_000 : WAITED_FOR_MS_MAX,
    statement_timeout: onAway === undefined ? 25_000 : WAITED_FOR_MS_MAX - 1_000,
    // A process that is frozen in a transaction holds its rows. Whoever takes its partitions over, or reads what it was sending, waits for them, less
    // long than a statement may take.
    idle_in_transaction_session_timeout: 10_000,
    keepAlive: true,
    options: planning,
    // What is asked without waiting for the answer before it travels with it: each round trip wakes two processes.
    pipeline: true,
    types: types as pg.CustomTypesConfig,
  });
  // An idle connection that dies is replaced at its next use; without a listener it would end the process.
  pool.on("error", () => undefined);
  const breaker =
    onAway === undefined ? null : openBreaker({ door: "postgres", questionsMax: QUESTIONS_MAX, isAway, onAway });
  const guarded: Postgres["guarded"] = (work) => (breaker === null ? work() : breaker.ask(work));
  return {
    pool,
    guarded,
    query: (query) => guarded(() => classified(() => pool.query(query))),
    close: () => pool.end(),
  };
}

/**
 * SQL: is the statement inside a transaction of `inTransaction`? A statement that was sent behind a BEGIN that failed (cancelled by an
 * operator, say) is executed all the same, and committed by itself.
 */
export const begun = "current_setting('sealpost.begun', true) = 'yes'";
const begin = "BEGIN; SET LOCAL sealpost.begun = 'yes'";

/**
 * Runs `work` in one transaction on one connection.
 *
 * With `last`, in fewer round trips: BEGIN is sent with the first statement of `work`, which must change nothing unless `begun`; the
 * statement that `last` makes travels with the COMMIT. It is made before either is sent: nothing can be committed without it.
 *
 * @throws what `work` or `last` throws, after a rollback; `CommitUnknown` when the answer to COMMIT was lost.
 */
export function inTransaction<Result>(
  postgres: Postgres,
  work: (client: Queryable) => Promise<Result>,
  last?: (result: Result) => pg.QueryConfig | null,
): Promise<Result> {
  return postgres.guarded(() => transact(postgres.pool, work, last));
}

async function transact<Result>(
  pool: pg.Pool,
  work: (client: Queryable) => Promise<Result>,
  last: ((result: Result) => pg.QueryConfig | null) | undefined,
): Promise<Result> {
  const client = await classified(() => pool.connect());
  const guarded: Queryable = { query: (query) => classified(() => client.query(query)) };
  // A connection that dies between two queries says so by an event, and an event nobody hears ends the process. The next query tells.
  const ignore = () => undefined;
  client.on("error", ignore);
  let broken: Error | undefined;
  try {
    const beginning = guarded.query({ text: begin });
    if (last === undefined) await beginning;
    const [began, worked] = await Promise.allSettled([beginning, (async () => work(guarded))()]);
    if (began.status === "rejected") throw began.reason;
    if (worked.status === "rejected") throw worked.reason;
    const statement = last?.(worked.value) ?? null;
    const writing = statement === null ? null : guarded.query(statement);
    const [written, committed] = await Promise.allSettled([writing, commit(client)]);
    if (committed.status === "rejected" && committed.reason instanceof CommitUnknown) throw committed.reason;
    // After a statement that failed, COMMIT rolls back and says so.
    if (written.status === "rejected") throw written.reason;
    if (committed.status === "rejected") throw committed.reason;
    return worked.value;
  } catch (error) {
    broken = error instanceof CommitUnknown ? error : await rolledBack(client);
    throw error;
  } finally {
    client.off("error", ignore);
    client.release(broken);
  }
}

async function commit(client: pg.PoolClient): Promise<void> {
  try {
    const { command } = await client.query("COMMIT");
    if (command !== "COMMIT") throw new Unavailable("postgres");
  } catch (error) {
    if (error instanceof Unavailable) throw error;
    const state = sqlStateOf(error);
    // An error report with a SQLSTATE of a constraint or a serialization failure says that nothing was committed.
    if (state !== undefined && !state.startsWith("57") && !state.startsWith("08")) throw faultOf(error);
    throw new CommitUnknown(error);
  }
}

async function rolledBack(client: pg.PoolClient): Promise<Error | undefined> {
  try {
    await client.query("ROLLBACK");
    return undefined;
  } catch (error) {
    return error instanceof Error ? error : new Error("rollback failed");
  }
}

async function classified<Result>(query: () => Promise<Result>): Promise<Result> {
  try {
    return await query();
  } catch (error) {
    throw faultOf(error);
  }
}

function faultOf(error: unknown): Error {
  const state = sqlStateOf(error);
  if (state !== undefined && isRecordFault(state, error)) return new RecordFault(state, error);
  return new Unavailable("postgres", error);
}

/** No answer at all, or one that says that it cannot (08: connection, 53: out of resources, 57P: going away or coming up). */
function isAway(error: unknown): boolean {
  if (!(error instanceof Unavailable) || error.door !== "postgres") return false;
  const state = sqlStateOf(error.cause);
  if (state === undefined) return error.cause !== undefined;
  return state.startsWith("08") || state.startsWith("53") || state.startsWith("57P");
}

/** Classes 22 and 23 are the data's fault, except a missing partition, which is ours to make (architecture §1.2). */
function isRecordFault(state: string, error: unknown): boolean {
  if (isMissingPartition(error)) return false;
  return state.startsWith("22") || state.startsWith("23");
}

/** A row for which its partitioned table has no partition: 23514 without a constraint's name. */
function isMissingPartition(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === "23514" && error.constraint === undefined;
}

function sqlStateOf(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined;
}
