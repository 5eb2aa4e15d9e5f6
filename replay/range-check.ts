/**
 * Is a run of records, in its order, part of the log whose root was signed?
 *
 * Of the leaves before the run only the perfect subtrees are needed (the left siblings in the inclusion proof of its first leaf), and of those behind it
 * the right siblings in the proof of its last. With these and the run's own leaves the root can be computed, and nothing but the true run, whole and in
 * order, makes the root of the checkpoint. Of a run that does not, the first wrong leaf is found by the same check over beginnings of it.
 */
import { GrowingTree, type Hashing } from "../protocol/audit/merkle.ts";
import { inclusionSpans, provesInclusion } from "../protocol/audit/proofs.ts";

type Hashes = readonly Uint8Array[];

/** The hashes of an inclusion proof, by side. */
export interface Sides {
  /** Of what is before the leaf: the perfect subtrees, the largest first. */
  readonly before: Hashes;
  /** Of what is behind it: from the leaf upwards. */
  readonly behind: Hashes;
}

/** Null for a proof that has not as many hashes as it must. */
export function sidesOf(index: number, size: number, proof: Hashes): Sides | null {
  const spans = inclusionSpans(index, size);
  if (spans.length !== proof.length) return null;
  const isBefore = (_: unknown, n: number) => (spans[n]?.end ?? 0) <= index;
  return {
    before: proof.filter(isBefore).reverse(),
    behind: proof.filter((hash, n) => !isBefore(hash, n)),
  };
}

/** The log up to some leaf of the run. */
export class RunCheck {
  readonly #hashing: Hashing;
  /** All but the last leaf. */
  readonly #tree: GrowingTree;
  #last: Uint8Array | null;

  /** @throws Error when `before` is not as many subtrees as `start` leaves have: a bug, or a proof that `sidesOf` did not see. */
  constructor(hashing: Hashing, start: number, before: Hashes, last: Uint8Array | null = null) {
    this.#hashing = hashing;
    this.#tree = new GrowingTree(hashing, start, before);
    this.#last = last;
  }

  /** Leaves of the log up to the last one. */
  get size(): number {
    return this.#tree.size + (this.#last === null ? 0 : 1);
  }

  append(leafHash: Uint8Array): void {
    if (this.#last !== null) this.#tree.append(this.#last);
    this.#last = leafHash;
  }

  copy(): RunCheck {
    return new RunCheck(this.#hashing, this.#tree.size, this.#tree.subtrees(), this.#last);
  }

  /** Is everything up to the last leaf as in the tree with this root? `behind`: what is right of the last leaf. False for a run without a leaf. */
  proves(size: number, root: Uint8Array, behind: Hashes): boolean {
    const index = this.#tree.size;
    if (this.#last === null || index >= size) return false;
    const [own, others] = [this.#tree.subtrees().toReversed().values(), behind.values()];
    const proof = inclusionSpans(index, size).map(({ end }) => (end <= index ? own : others).next().value);
    if (proof.includes(undefined) || others.next().done !== true) return false;
    return provesInclusion(this.#hashing, { index, size, leafHash: this.#last, proof: proof as Hashes, root });
  }
}

export interface WrongRun {
  readonly hashing: Hashing;
  readonly start: number;
  readonly end: number;
  readonly before: Hashes;
  readonly size: number;
  readonly root: Uint8Array;
  /** The run's own leaf hashes from one place up to before another. */
  readonly leaves: (start: number, end: number) => AsyncIterable<Uint8Array>;
  /** The right siblings of a leaf, by whoever keeps the log; null where nobody says. */
  readonly behind: (index: number) => Promise<Hashes | null>;
}

/**
 * The place of the first leaf of a run that does not prove to be as in the log. Null where that cannot be found out: nobody says what is behind.
 *
 * Asks once for each halving, and hashes each leaf about once.
 */
export async function firstWrong(run: WrongRun): Promise<number | null> {
  let [low, high] = [run.start, run.end];
  let proven = new RunCheck(run.hashing, run.start, run.before);
  while (low < high) {
    // Everything before `low` is proven; the first wrong leaf is before `high`.
    const middle = Math.floor((low + high) / 2);
    const tried = proven.copy();
    for await (const leaf of run.leaves(low, middle + 1)) tried.append(leaf);
    const behind = await run.behind(middle);
    if (behind === null) return null;
    if (tried.proves(run.size, run.root, behind)) {
      proven = tried;
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}
