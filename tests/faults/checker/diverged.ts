/** What the tables hold is what the log folds to, row by row; what the log does not hold, secrets above all, is left out (docs/rebuild.md). */
import type { History } from "./history.ts";

export function diverged({ snapshot }: History): readonly string[] {
  return snapshot.tables.flatMap(({ table, differences }) => differences.map((line) => `${table} ${line}`));
}
