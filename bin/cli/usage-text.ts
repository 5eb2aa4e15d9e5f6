/** Usage as a table, for agents and operators; and the times they give. */
import { formatTimestamp, parseTimestamp } from "../../protocol/timestamp.ts";
import { WrongWords } from "./terminal.ts";

const COLUMNS = ["sent", "received", "acknowledged", "discarded", "stored"] as const;

/** A day, or an hour of it; minutes only where they are zero. */
const FORM = /^(\d{4}-\d\d-\d\d)(?:T(\d\d)(?::00(?::00(?:\.000)?)?)?Z?)?$/;

/** Ms since the epoch. Throws `WrongWords`. */
export function timeOf(name: string, text: string): number {
  const [, day, hour = "00"] = FORM.exec(text) ?? [];
  const time = day === undefined ? null : parseTimestamp(`${day}T${hour}:00:00.000Z`);
  if (time === null)
    throw new WrongWords(`--${name} takes an hour in UTC, like 2026-08-19T09, or a day, like 2026-08-19`);
  return time;
}

/** As the service takes it. Throws `WrongWords`. */
export function hourText(name: string, text: string): string {
  return formatTimestamp(timeOf(name, text));
}

/** A line for each row: what is in `label`, then messages and bytes. Rows as the service gives them. */
export function usageTable(first: string, label: string, rows: readonly Readonly<Record<string, unknown>>[]): string {
  if (rows.length === 0) return "nothing was counted in this time\n";
  const lines = rows.map((row) => {
    const counts = COLUMNS.map((column) => `${row[`messages_${column}`]} (${row[`bytes_${column}`]} B)`);
    return [String(row[label]), ...counts];
  });
  const table = [[first, ...COLUMNS], ...lines];
  const widths = table[0]?.map((_, column) => Math.max(...table.map((line) => line[column]?.length ?? 0))) ?? [];
  return table
    .map(
      (line) =>
        `${line
          .map((cell, column) => cell.padEnd(widths[column] ?? 0))
          .join("  ")
          .trimEnd()}\n`,
    )
    .join("");
}
