/**
 * Every column of PostgreSQL that holds values sealed under the key of a day (store/at-rest.ts), declared once: what is sealed anew each day, and
 * must be before a day's key can go. A column that is not in the list is lost with its day: a test compares the list with the tables.
 *
 * Promises: a value is replaced only while it is the one that was read, so that whoever else writes the row loses nothing; nobody waits for a lock
 * here, so that this is in no ring of waiting; a row that is locked is left for another look.
 */
import { dayBytes, isSealedBefore, type Place } from "../at-rest.ts";
import type { Queryable } from "../postgres.ts";
import { contentPlace, prekeyPlace, saidPlace, statePlace } from "./custody-keys.ts";

export interface SealedColumn {
  readonly table: string;
  readonly column: string;
  /** The primary key, in order. An index holds it of the rows whose column is not null. */
  readonly key: readonly (readonly [name: string, type: "text" | "uuid"])[];
  /** The column that grows by one with each write of the value; null where a value is written once. */
  readonly version: string | null;
  /** `version` is 1 where there is no column for it. */
  readonly placeOf: (key: readonly string[], version: number) => Place;
}

export const sealedColumns: readonly SealedColumn[] = [
  {
    table: "messaging_sessions",
    column: "state",
    key: [
      ["owner_id", "text"],
      ["peer_id", "text"],
    ],
    version: "version",
    placeOf: ([ownerId = "", peerId = ""], version) => statePlace(ownerId, peerId, version),
  },
  {
    table: "messaging_prekeys",
    column: "private_key_encrypted",
    key: [
      ["agent_id", "text"],
      ["prekey_id", "uuid"],
    ],
    version: null,
    placeOf: ([agentId = "", prekeyId = ""]) => prekeyPlace(agentId, prekeyId),
  },
  {
    table: "messaging_opened",
    column: "content",
    key: [
      ["recipient_id", "text"],
      ["sender_id", "text"],
      ["message_id", "uuid"],
    ],
    version: null,
    placeOf: ([recipientId = "", senderId = "", messageId = ""]) => contentPlace(recipientId, { senderId, messageId }),
  },
  {
    table: "messaging_commands",
    column: "content",
    key: [
      ["sender_id", "text"],
      ["message_id", "uuid"],
    ],
    version: null,
    placeOf: ([senderId = "", messageId = ""]) => saidPlace({ senderId, messageId }),
  },
];

export interface OldValue {
  readonly key: readonly string[];
  readonly version: number;
  readonly sealed: Uint8Array;
}

export interface NewValue extends OldValue {
  /** For the version after the one that was read, where there is one. */
  readonly anew: Uint8Array;
}

export interface SealedPage {
  /** Those that are sealed under a day before the one asked for. */
  readonly old: readonly OldValue[];
  /** The key of the last row that was looked at; null at the end of the table. */
  readonly last: readonly string[] | null;
}

/** Looks at `limit` rows with a value behind the key `after`, or from the start, in the order of the key. Throws `Unavailable`. */
export async function readSealedPage(
  db: Queryable,
  column: SealedColumn,
  { day, after, limit }: { readonly day: number; readonly after: readonly string[] | null; readonly limit: number },
): Promise<SealedPage> {
  const names = column.key.map(([name]) => name).join(", ");
  const bounds = column.key.map(([, type], index) => `$${index + 3}::${type}`).join(", ");
  const { rows } = await db.query<{ key: string[]; version: number; sealed: Uint8Array | null }>({
    name: `read-sealed-${column.table}-${column.column}${after === null ? "-start" : ""}`,
    text: `SELECT ARRAY[${column.key.map(([name]) => `${name}::text`).join(", ")}] AS key, version,
                  CASE WHEN ${isSealedBefore("sealed", "$1")} THEN sealed END AS sealed
           FROM (SELECT ${names}, ${column.version ?? "1::bigint"} AS version, ${column.column} AS sealed FROM ${column.table}
                 WHERE ${column.column} IS NOT NULL ${after === null ? "" : `AND (${names}) > (${bounds})`}
                 ORDER BY ${names} LIMIT $2) AS page`,
    values: [dayBytes(day), limit, ...(after ?? [])],
  });
  const old = rows.flatMap(({ key, version, sealed }) => (sealed === null ? [] : [{ key, version, sealed }]));
  return { old, last: rows.length < limit ? null : (rows.at(-1)?.key ?? null) };
}

/** Puts new values in the place of those that were read; answers how many: the others are locked, or have changed. Throws `Unavailable`. */
export async function replaceSealed(db: Queryable, column: SealedColumn, values: readonly NewValue[]): Promise<number> {
  if (values.length === 0) return 0;
  const { key, table, column: name, version } = column;
  const arrays = key.map(([, type], index) => `$${index + 3}::${type}[]`).join(", ");
  const parts = key.map((_, index) => `k${index}`);
  const isRow = key.map(([part], index) => `t.${part} = i.k${index}`).join(" AND ");
  const { rowCount } = await db.query({
    name: `replace-sealed-${table}-${name}`,
    text: `WITH mine AS MATERIALIZED (
             SELECT i.* FROM unnest($1::bytea[], $2::bytea[], ${arrays}) AS i (sealed, anew, ${parts.join(", ")})
             JOIN ${table} t ON ${isRow} WHERE t.${name} = i.sealed FOR UPDATE OF t SKIP LOCKED)
           UPDATE ${table} t SET ${name} = i.anew${version === null ? "" : `, ${version} = t.${version} + 1`}
           FROM mine i WHERE ${isRow} AND t.${name} = i.sealed`,
    values: [
      values.map(({ sealed }) => sealed),
      values.map(({ anew }) => anew),
      ...key.map((_, index) => values.map((value) => value.key[index])),
    ],
  });
  return rowCount ?? 0;
}

/**
 * Since when (ms since the epoch) every look has found values that did not open: noted with the first of those looks, forgotten by one that finds none.
 * Throws `Unavailable`.
 */
export async function noteUnopened(db: Queryable, now: number, anyUnopened: boolean): Promise<number> {
  const { rows } = await db.query<{ unopened_since: number | null }>({
    name: "note-unopened",
    text: `INSERT INTO messaging_resealing AS r (unopened_since) VALUES ($1)
           ON CONFLICT (single) DO UPDATE
           SET unopened_since = CASE WHEN excluded.unopened_since IS NULL THEN NULL ELSE coalesce(r.unopened_since, excluded.unopened_since) END
           RETURNING unopened_since`,
    values: [anyUnopened ? now : null],
  });
  return rows[0]?.unopened_since ?? now;
}
