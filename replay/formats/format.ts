/** The three forms of a file of records. The same rows are the same bytes, today and tomorrow: no clock, no random name, one fixed library each. */
import type { Format } from "../request.ts";
import type { Row } from "../rows.ts";
import { csv } from "./csv.ts";
import { jsonl } from "./jsonl.ts";
import { parquet } from "./parquet.ts";

/** A file that is being written, from its first row to its last. */
export interface RowWriter {
  write(rows: readonly Row[]): Promise<void>;
  /** The file is whole when this resolves. */
  close(): Promise<void>;
}

export interface RowFormat {
  /** Overwrites what is there. */
  create(file: string): Promise<RowWriter>;
  /** What stands there, to be judged by `recordOf`; rejects where the file cannot be read as this format. */
  read(file: string): AsyncIterable<unknown>;
}

export const rowFormats: Readonly<Record<Format, RowFormat>> = { jsonl, csv, parquet };
