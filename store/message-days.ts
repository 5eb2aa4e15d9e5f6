/**
 * The daily partitions of the tables that remember messages: a day is a UTC day of the time in the UUIDv7.
 *
 * Promises: a day that is asked for exists afterwards; days are dropped whole, never row by row, and without making anybody wait.
 */
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";

/** Each has a `message_id` to part by. Dropped in this order: what was discarded goes before what says that it was encrypted after all. */
const TABLES = [
  "messaging_discarded",
  "messaging_messages",
  "messaging_commands",
  "messaging_opened",
  "messaging_failed",
] as const;
type Table = (typeof TABLES)[number];

const dayMs = 24 * 60 * 60 * 1000;

/** A status is kept for 40 days: the 30 a message may wait, and ten in which its end can be asked for. */
const keptDays = 40;

/** One maker at a time, in the whole database. */
const makerLock = 0x5ea1_da75;

export interface MessageDays {
  /** Makes the days of these times (ms since the epoch) where they are missing, on a connection of its own. */
  ensure(times: readonly number[]): Promise<void>;
}

/** Remembers which days are there, so that asking again costs nothing. */
export function openMessageDays(postgres: Postgres): MessageDays {
  const known = new Set<number>();
  return {
    ensure: async (times) => {
      const missing = new Set(times.map(dayOf).filter((day) => !known.has(day)));
      if (missing.size === 0) return;
      await ensureMessageDays(postgres, [...missing]);
      for (const day of missing) known.add(day);
    },
  };
}

/** The number of a time's UTC day since the epoch. */
export function dayOf(time: number): number {
  return Math.floor(time / dayMs);
}

/** Makes the partitions of these days (numbers since the epoch) where they are missing. */
export function ensureMessageDays(postgres: Postgres, days: readonly number[]): Promise<void> {
  return inTransaction(postgres, async (client) => {
    await client.query({ text: "SELECT pg_advisory_xact_lock($1)", values: [makerLock] });
    for (const table of TABLES) await ensureDaysOf(client, table, days);
  });
}

async function ensureDaysOf(client: Queryable, table: Table, days: readonly number[]): Promise<void> {
  const present = new Set((await partitions(client, table)).map(({ day }) => day));
  for (const day of days) {
    if (present.has(day)) continue;
    // Attaching, unlike creating in place, lets readers and writers of the other days go on. A row is updated twice at most:
    // a quarter of each page is left for that.
    await client.query({
      text: `CREATE TABLE ${nameOf(table, day)} (LIKE ${table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)
             WITH (fillfactor = 75)`,
    });
    await client.query({
      text: `ALTER TABLE ${table} ATTACH PARTITION ${nameOf(table, day)}
             FOR VALUES FROM ('${firstIdOf(day)}') TO ('${firstIdOf(day + 1)}')`,
    });
  }
}

/** Drops what is older than `keptDays`. Returns how many days. */
export async function dropOldMessageDays(postgres: Postgres, now: number): Promise<number> {
  const dropped = new Set<number>();
  for (const table of TABLES) {
    const old = (await partitions(postgres, table)).filter(({ day }) => day < dayOf(now) - keptDays);
    for (const { day, halfDetached } of old) {
      const name = nameOf(table, day);
      // An earlier attempt that was cut short is brought to its end first; both wait for readers instead of locking them out.
      await postgres.query({
        text: `ALTER TABLE ${table} DETACH PARTITION ${name} ${halfDetached ? "FINALIZE" : "CONCURRENTLY"}`,
      });
      await postgres.query({ text: `DROP TABLE ${name}` });
      dropped.add(day);
    }
  }
  return dropped.size;
}

interface Partition {
  readonly day: number;
  readonly halfDetached: boolean;
}

async function partitions(db: Queryable, table: Table): Promise<readonly Partition[]> {
  const { rows } = await db.query<{ name: string; pending: boolean }>({
    text: `SELECT c.relname AS name, i.inhdetachpending AS pending FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           WHERE i.inhparent = '${table}'::regclass ORDER BY c.relname`,
  });
  return rows.map(({ name, pending }) => ({ day: dayOfName(name), halfDetached: pending }));
}

function nameOf(table: Table, day: number): string {
  return `${table}_${new Date(day * dayMs).toISOString().slice(0, 10).replaceAll("-", "")}`;
}

function dayOfName(name: string): number {
  const [, year, month, day] = /_(\d{4})(\d\d)(\d\d)$/.exec(name) ?? [];
  return dayOf(Date.UTC(Number(year), Number(month) - 1, Number(day)));
}

function firstIdOf(day: number): string {
  return firstIdAt(day * dayMs);
}

/** The least UUIDv7 of a time, ms since the epoch. */
export function firstIdAt(timeMs: number): string {
  const time = timeMs.toString(16).padStart(12, "0");
  return `${time.slice(0, 8)}-${time.slice(8)}-0000-0000-000000000000`;
}
