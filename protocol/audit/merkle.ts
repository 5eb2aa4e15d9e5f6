/**
 * The Merkle tree of RFC 6962 (RFC 9162 §2.1) over SHA-256: leaf and node hashes, and a tree that grows by its right edge.
 *
 * A leaf's hash begins with 0x00 and a node's with 0x01, so that neither can pass for the other. A tree of n leaves is the row of its perfect subtrees,
 * one for each bit of n, the largest first (its compact range): that is all one needs to keep in order to go on and to say the root.
 */
import { concat } from "../bytes.ts";
import type { Primitives } from "../primitives/primitives.ts";

export type Hashing = Pick<Primitives, "sha256">;

/** Bytes of a hash. */
export const HASH_BYTES = 32;

const LEAF_PREFIX = Uint8Array.of(0);
const NODE_PREFIX = Uint8Array.of(1);

export function hashLeaf(hashing: Hashing, bytes: Uint8Array): Uint8Array {
  return hashing.sha256(concat(LEAF_PREFIX, bytes));
}

export function hashNode(hashing: Hashing, left: Uint8Array, right: Uint8Array): Uint8Array {
  return hashing.sha256(concat(NODE_PREFIX, left, right));
}

/** The hash of a row of perfect subtrees of falling size, joined from the right; of none, the hash of the empty tree. */
export function joinSubtrees(hashing: Hashing, subtrees: readonly Uint8Array[]): Uint8Array {
  if (subtrees.length === 0) return hashing.sha256(new Uint8Array(0));
  return subtrees.reduceRight((right, left) => hashNode(hashing, left, right));
}

/** The root over leaf hashes. */
export function rootOf(hashing: Hashing, leafHashes: Iterable<Uint8Array>): Uint8Array {
  const tree = new GrowingTree(hashing);
  for (const hash of leafHashes) tree.append(hash);
  return tree.root();
}

/** A tree to which leaves are appended; keeps no more than one hash for each bit of its size. */
export class GrowingTree {
  readonly #hashing: Hashing;
  readonly #subtrees: Uint8Array[];
  #size: number;

  /** Empty, or as another was: its size and `subtrees()`. Throws when they do not belong together: a bug of ours. */
  constructor(hashing: Hashing, size = 0, subtrees: readonly Uint8Array[] = []) {
    if (onesOf(size) !== subtrees.length) throw new Error("a tree of this size has another number of perfect subtrees");
    this.#hashing = hashing;
    this.#size = size;
    this.#subtrees = [...subtrees];
  }

  /** Leaves. */
  get size(): number {
    return this.#size;
  }

  /** Answers the hashes of the subtrees that this leaf completes, by their level: first of itself, then of 2, 4, 8 … leaves. */
  append(leafHash: Uint8Array): readonly Uint8Array[] {
    let hash = leafHash;
    const completed = [hash];
    // Each low bit that is set is a subtree as large as the one just completed.
    for (let rest = this.#size; rest % 2 === 1; rest = (rest - 1) / 2) {
      hash = hashNode(this.#hashing, this.#subtrees.pop() as Uint8Array, hash);
      completed.push(hash);
    }
    this.#subtrees.push(hash);
    this.#size += 1;
    return completed;
  }

  /** The perfect subtrees, the largest first. */
  subtrees(): readonly Uint8Array[] {
    return [...this.#subtrees];
  }

  root(): Uint8Array {
    return joinSubtrees(this.#hashing, this.#subtrees);
  }
}

/** Bits that are set, of a whole number of up to 53 bits. */
function onesOf(size: number): number {
  let ones = 0;
  for (let rest = size; rest > 0; rest = Math.floor(rest / 2)) ones += rest % 2;
  return ones;
}
