/**
 * Where a table and what the log says of it differ. Pure.
 *
 * Promise: a row is judged only where the log still holds every fact of it; all others are counted as outside, and none is passed over in silence.
 */
import type { Topic } from "../streams/topic.ts";
import type { Columns, FoldedTable } from "./folding.ts";

/** A row as the table has it. `since`: as in `FoldedRow`; null where the table does not say. */
export interface TableRow {
  readonly key: string;
  readonly since: number | null;
  readonly columns: Columns;
}

export interface Difference {
  readonly table: string;
  /** The columns of its key, with slashes between. */
  readonly key: string;
  /** `missing`: the log says that there is such a row; `unexpected`: it does not; `different`: what it says is another. */
  readonly what: "missing" | "unexpected" | "different";
  /** The columns that differ; all of a row that stands on one side only. */
  readonly columns: Readonly<Record<string, { readonly log: Columns[string]; readonly table: Columns[string] }>>;
}

export interface Compared {
  readonly table: string;
  /** Rows older than this are outside, ms since the epoch; 0: the log is whole. */
  readonly since: number;
  readonly rows: number;
  readonly outside: number;
  readonly differences: readonly Difference[];
}

/** The jobs that delete, this program, and the clocks of all of them. */
const SLACK_MS = 60 * 60 * 1000;

/** Messages' rows are dropped after 40 days of the time in their ids, up to 7 of which are over when they come; facts of sessions after 60. */
const KEPT_MS = 30 * 24 * 60 * 60 * 1000;

const agingTables: ReadonlySet<string> = new Set([
  "messaging_messages",
  "messaging_discarded",
  "messaging_session_facts",
]);

/**
 * Since when a table's facts are all in the log: for ever as long as none of its topics has lost its beginning; else as long as they keep what they have.
 *
 * @param trimmed the topics whose first record is not there any more
 * @param cutAt when the table was read, ms since the epoch
 */
export function knownSince(
  { reads, table }: Pick<FoldedTable, "reads" | "table">,
  trimmed: ReadonlySet<string>,
  cutAt: number,
): number {
  const kept = reads.filter(({ name }) => trimmed.has(name)).map(keptMs);
  if (agingTables.has(table)) kept.push(KEPT_MS);
  const shortest = Math.min(...kept);
  return shortest === Number.POSITIVE_INFINITY ? 0 : Math.max(0, cutAt - shortest + SLACK_MS);
}

function keptMs({ retention }: Topic<unknown>): number {
  return "keptMs" in retention ? retention.keptMs : retention.trimmedAfterMs;
}

export function compare(folded: FoldedTable, rows: Iterable<TableRow>, since: number): Compared {
  const differences: Difference[] = [];
  const left = new Map(folded.rows);
  let [judged, outside] = [0, 0];
  for (const row of rows) {
    const expected = left.get(row.key);
    left.delete(row.key);
    if (expected === undefined && folded.says === "claims") continue;
    if (!isInside(since, row.since, expected?.since ?? null)) outside += 1;
    else {
      judged += 1;
      const difference = differenceOf(folded.table, row.key, expected?.columns ?? null, row.columns);
      if (difference !== null) differences.push(difference);
    }
  }
  if (folded.says === "claims") return { table: folded.table, since, rows: judged, outside, differences };
  for (const [key, { since: rowSince, columns }] of left) {
    if (!isInside(since, rowSince, null)) outside += 1;
    else {
      judged += 1;
      differences.push({ table: folded.table, key, what: "missing", columns: sides(columns, null) });
    }
  }
  return { table: folded.table, since, rows: judged, outside, differences };
}

/** Both sides must be inside; where only the log knows how old it is, its word counts. */
function isInside(since: number, ...ages: readonly (number | null)[]): boolean {
  if (since === 0) return true;
  const known = ages.filter((age) => age !== null);
  return known.length > 0 && known.every((age) => age >= since);
}

function differenceOf(table: string, key: string, log: Columns | null, row: Columns): Difference | null {
  if (log === null) return { table, key, what: "unexpected", columns: sides(null, row) };
  const columns = sides(log, row);
  const differing = Object.entries(columns).filter(([, { log: one, table: other }]) => one !== other);
  return differing.length === 0 ? null : { table, key, what: "different", columns: Object.fromEntries(differing) };
}

/** A column that one side does not have counts as null there, so that one that is forgotten here is seen. */
function sides(log: Columns | null, row: Columns | null): Difference["columns"] {
  const names = new Set([...Object.keys(log ?? {}), ...Object.keys(row ?? {})]);
  return Object.fromEntries(
    Array.from(names, (name) => [name, { log: log?.[name] ?? null, table: row?.[name] ?? null }]),
  );
}
