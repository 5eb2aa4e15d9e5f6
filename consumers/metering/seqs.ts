/**
 * Which places of a mailbox were counted, as ranges. Pure.
 *
 * A set only grows, and adding what is in it changes nothing: so repeats and order do not matter.
 */
import type { SeqRanges } from "../../store/meters.ts";

export interface Added {
  readonly ranges: SeqRanges;
  /** Those that were not there before, each once, from the lowest. */
  readonly fresh: readonly number[];
}

export function addSeqs(ranges: SeqRanges, seqs: Iterable<number>): Added {
  const fresh = [...new Set(seqs)].filter((seq) => !hasSeq(ranges, seq)).sort((a, b) => a - b);
  if (fresh.length === 0) return { ranges, fresh };
  const parts = [...ranges, ...fresh.map((seq) => [seq, seq] as const)].sort(([a], [b]) => a - b);
  const joined: [first: number, last: number][] = [];
  for (const [first, last] of parts) {
    const before = joined.at(-1);
    if (before !== undefined && first === before[1] + 1) before[1] = last;
    else joined.push([first, last]);
  }
  return { ranges: joined, fresh };
}

export function hasSeq(ranges: SeqRanges, seq: number): boolean {
  let [low, high] = [0, ranges.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    const [first, last] = ranges[middle] as SeqRanges[number];
    if (seq < first) high = middle;
    else if (seq > last) low = middle + 1;
    else return true;
  }
  return false;
}
