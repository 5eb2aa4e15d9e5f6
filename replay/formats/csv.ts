/**
 * RFC 4180: a header, lines that end in CRLF, quotes where they are needed. An empty field is null; `delegation` is JSON.
 *
 * Nothing is altered for spreadsheets: an agent id may begin with `-`, and there is to be imported as text.
 */
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { parse } from "csv-parse";
import { stringify } from "csv-stringify/sync";
import { COLUMNS, type Row } from "../rows.ts";
import type { RowFormat } from "./format.ts";

const NUMBERS: ReadonlySet<string> = new Set(["log_index", "size", "source_partition", "source_offset"]);
const NULLABLE: ReadonlySet<string> = new Set(["sender_id", "recipient_id", "message_id", "size", "subject", "reason"]);

export const csv: RowFormat = {
  async create(file) {
    const handle = await open(file, "w");
    await handle.write(linesOf([COLUMNS]));
    return {
      write: async (rows) => void (await handle.write(linesOf(rows.map(fieldsOf)))),
      close: () => handle.close(),
    };
  },

  async *read(file) {
    const fields = createReadStream(file).pipe(parse({ columns: true }));
    for await (const read of fields) yield readCells(read as Readonly<Record<string, string>>);
  },
};

function linesOf(rows: readonly (readonly unknown[])[]): string {
  return stringify(rows as unknown[][], { record_delimiter: "windows" });
}

function fieldsOf(row: Row): readonly unknown[] {
  return COLUMNS.map((column) => (column === "delegation" ? JSON.stringify(row.delegation) : row[column]));
}

function readCells(fields: Readonly<Record<string, string>>): unknown {
  const values = Object.entries(fields).map(([name, text]) => [name, readCell(name, text)]);
  return Object.fromEntries(values);
}

function readCell(name: string, text: string): unknown {
  if (text === "" && NULLABLE.has(name)) return null;
  if (NUMBERS.has(name)) return Number(text);
  return name === "delegation" ? JSON.parse(text) : text;
}
