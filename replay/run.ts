/** Which places of the log a replay proves: all that must stand in what was read, chosen or not. */
import type { ReplayState } from "./state.ts";

export interface Run {
  readonly first: number;
  readonly last: number;
}

type Read = Pick<ReplayState, "size_max" | "before" | "behind" | "trimmed" | "lowest" | "first" | "last">;

/**
 * From the edge before the window to the edge behind it, both with it. Where nothing is before it, from the log's beginning, or from what retention has left;
 * where nothing signed is behind it, to the end of the checkpoint.
 *
 * Null: no checkpoint has anything of it. Where no log is asked, the run of the chosen records: nothing is proven then.
 */
export function runOf({ size_max: size, before, behind, trimmed, lowest, first, last }: Read): Run | null {
  if (size === null) return first === null || last === null ? null : { first, last };
  if (size === 0 || (before !== null && before >= size)) return null;
  const end = behind === null || behind >= size ? size - 1 : behind;
  // Of a window that has nothing left, the place before its end is missing: taken by retention, or by somebody.
  const kept = lowest !== null && lowest < end ? lowest : Math.max(0, end - 1);
  const begin = before ?? (trimmed.length === 0 ? 0 : kept);
  const places = [begin, end, first ?? begin, last ?? end];
  return { first: Math.min(...places), last: Math.max(...places) };
}

/**
 * Will another replay of the range be the same? Then everything that was read is signed, and so is a record behind it, which happened later than the range:
 * the audit was not away.
 */
export function isClosed({
  size_max: size,
  behind,
  newer,
}: Pick<ReplayState, "size_max" | "behind" | "newer">): boolean {
  return behind !== null && newer === 0 && (size === null || behind < size);
}
