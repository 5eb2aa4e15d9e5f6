/**
 * What a fold of the log is: records in, the rows of tables out. Pure.
 *
 * A fold is handed every record of its topics; those of a partition in their order, the topics in any. It shares with the consumers the schemas and the
 * protocol, and none of their code: what it finds equal was made twice.
 */
import type { Inbound } from "../streams/consumer.ts";
import type { Topic } from "../streams/topic.ts";

/** As columns are compared: binary ones in hexadecimal, bodies by their SHA-256. */
export type Columns = Readonly<Record<string, string | number | null>>;

export interface FoldedRow {
  /** No fact of the row is older than this, ms since the epoch. */
  readonly since: number;
  readonly columns: Columns;
}

/** What the log says that a table holds. */
export interface FoldedTable<Name extends string = string> {
  readonly table: Name;
  readonly reads: readonly Topic<unknown>[];
  /** By the columns of its key, with slashes between. */
  readonly rows: ReadonlyMap<string, FoldedRow>;
  /** `claims`: the log does not say which rows there are, only what must not be in them. */
  readonly says: "rows" | "claims";
}

export interface Handler {
  readonly topic: Topic<unknown>;
  readonly take: (record: Inbound<unknown>) => void;
}

export interface Fold {
  readonly handlers: readonly Handler[];
  /** Of what was handed over until now. */
  readonly tables: () => readonly FoldedTable[];
}

export function on<T>(topic: Topic<T>, take: (record: Inbound<T>) => void): Handler {
  return { topic, take: take as Handler["take"] };
}

/** A fact is told at least once, under one id: true the first time. */
export function onlyOnce(): (record: Inbound<unknown>) => boolean {
  const seen = new Set<string>();
  return ({ headers: { ce_id: id } }) => {
    if (id === undefined || seen.has(id)) return false;
    seen.add(id);
    return true;
  };
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
