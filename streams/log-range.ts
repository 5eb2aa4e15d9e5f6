/**
 * Is a position still in the log, and may a batch be applied at it? Pure.
 */

/** A partition's log, from its first offset to the one after its last. */
export interface LogRange {
  readonly low: number;
  readonly high: number;
}

/** A position equal to `high` waits for the next record. One outside means that records are gone: cut, expired, or another log. */
export function isInside(position: number, { low, high }: LogRange): boolean {
  return low <= position && position <= high;
}

/**
 * What to do with a batch whose fetch started at `fetched`, when `position` is the next offset to apply.
 *
 * - `apply`: it starts where it should.
 * - `seek`: kafkajs started earlier, from a committed offset or after it jumped to the log's start.
 * - `ask`: it started later. Either it skipped records that are no data (control records of transactions), or it jumped over a gap
 *   without a word, as kafkajs does when an offset is out of range: the log's range tells.
 * - `outside`: the log ends before the position.
 */
export function admit(position: number, fetched: number, high: number): "apply" | "seek" | "ask" | "outside" {
  if (fetched === position) return "apply";
  if (fetched > position) return "ask";
  return position <= high ? "seek" : "outside";
}
