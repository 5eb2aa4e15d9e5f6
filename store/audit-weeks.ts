/**
 * The weekly partitions of the memory of facts that have their audit record.
 *
 * A week is seven days since the epoch, of the moment at which the log took the fact for the first time: no sender has a say in it. Weeks are dropped whole.
 */
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";

const weekMs = 7 * 24 * 60 * 60 * 1000;

/**
 * A fact may come again for as long as something can publish it again: a message's state is kept for 40 days, the topics keep facts for 30, and a backup that is
 * put back is hardly older than both. Less, and such a repetition would get a second record; a week of a busy service is some GB.
 */
const keptWeeks = 12;

/** One maker at a time, in the whole database. */
const makerLock = 0x5ea1_a0d1;

export interface AuditWeeks {
  /** Makes the weeks of these times (ms since the epoch) where they are missing, on a connection of its own. */
  ensure(times: readonly number[]): Promise<void>;
}

/** Remembers which weeks are there, so that asking again costs nothing; of those that may be dropped meanwhile it is asked each time. */
export function openAuditWeeks(postgres: Postgres): AuditWeeks {
  const known = new Set<number>();
  return {
    ensure: async (times) => {
      const missing = new Set(times.map(weekOf).filter((week) => !known.has(week) || mayBeDropped(week)));
      if (missing.size === 0) return;
      await ensureAuditWeeks(postgres, [...missing]);
      for (const week of missing) known.add(week);
    },
  };
}

/** One week early: clocks differ, and a week lasts longer than any step. */
function mayBeDropped(week: number): boolean {
  return week <= weekOf(Date.now()) - keptWeeks;
}

/** The number of a time's week. */
export function weekOf(time: number): number {
  return Math.floor(time / weekMs);
}

/** Makes the partitions of these weeks where they are missing. */
export function ensureAuditWeeks(postgres: Postgres, weeks: readonly number[]): Promise<void> {
  return inTransaction(postgres, async (client) => {
    await client.query({ text: "SELECT pg_advisory_xact_lock($1)", values: [makerLock] });
    const present = new Set((await partitions(client)).map(({ week }) => week));
    for (const week of weeks) {
      if (present.has(week)) continue;
      // Attaching, unlike creating in place, lets readers and writers of the other weeks go on.
      await client.query({ text: `CREATE TABLE ${nameOf(week)} (LIKE audit_seen INCLUDING DEFAULTS)` });
      await client.query({ text: `ALTER TABLE audit_seen ATTACH PARTITION ${nameOf(week)} FOR VALUES IN (${week})` });
    }
  });
}

/** Drops the weeks that ended `keptWeeks` ago and more. Returns how many. */
export async function dropOldAuditWeeks(postgres: Postgres, now: number): Promise<number> {
  const old = (await partitions(postgres)).filter(({ week }) => week < weekOf(now) - keptWeeks);
  for (const { week, halfDetached } of old) {
    // An earlier attempt that was cut short is brought to its end first; both wait for readers instead of locking them out.
    await postgres.query({
      text: `ALTER TABLE audit_seen DETACH PARTITION ${nameOf(week)} ${halfDetached ? "FINALIZE" : "CONCURRENTLY"}`,
    });
    await postgres.query({ text: `DROP TABLE ${nameOf(week)}` });
  }
  return old.length;
}

async function partitions(
  db: Queryable,
): Promise<readonly { readonly week: number; readonly halfDetached: boolean }[]> {
  const { rows } = await db.query<{ name: string; pending: boolean }>({
    text: `SELECT c.relname AS name, i.inhdetachpending AS pending FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           WHERE i.inhparent = 'audit_seen'::regclass ORDER BY c.relname`,
  });
  return rows.map(({ name, pending }) => ({ week: Number(name.replace("audit_seen_", "")), halfDetached: pending }));
}

function nameOf(week: number): string {
  return `audit_seen_${week}`;
}
