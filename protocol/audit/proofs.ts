/**
 * Proofs of the Merkle tree (RFC 9162 §2.1.3 and §2.1.4): that a leaf is in a tree, and that a tree is the beginning of a larger one.
 *
 * A proof is a list of spans of leaves, each by its hash. Which spans, is said here; where their hashes come from (all leaves in memory, or tiles in a
 * table) is the caller's business. The checks never throw: what does not fit proves nothing. Numbers up to 2^53, hence no bit operators.
 */
import { equalBytes } from "../bytes.ts";
import { type Hashing, hashNode, rootOf } from "./merkle.ts";

/** Leaves from `start` on and below `end`. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** A perfect subtree: the 2^level leaves from `index · 2^level` on. */
export interface Subtree {
  readonly level: number;
  readonly index: number;
}

/** Whose hashes prove that leaf `index` is in the tree of `size` leaves; from the leaf upwards. Throws a `RangeError` unless 0 ≤ index < size. */
export function inclusionSpans(index: number, size: number): readonly Span[] {
  if (!isCount(index) || !isCount(size) || index >= size) throw new RangeError("the leaf is not in the tree");
  const spans: Span[] = [];
  for (let start = 0, end = size; end - start > 1; ) {
    const middle = start + splitOf(end - start);
    if (index < middle) {
      spans.push({ start: middle, end });
      end = middle;
    } else {
      spans.push({ start, end: middle });
      start = middle;
    }
  }
  return spans.reverse();
}

/** Whose hashes prove that the tree of `from` leaves is the beginning of the one of `to`. Throws a `RangeError` unless 0 < from ≤ to. */
export function consistencySpans(from: number, to: number): readonly Span[] {
  if (!isCount(from) || !isCount(to) || from === 0 || from > to)
    throw new RangeError("the tree is not the larger one's beginning");
  if (from === to) return [];
  const spans: Span[] = [];
  let start = 0;
  for (let end = to; from !== end; ) {
    const middle = start + splitOf(end - start);
    if (from <= middle) {
      spans.push({ start: middle, end });
      end = middle;
    } else {
      spans.push({ start, end: middle });
      start = middle;
    }
  }
  // The subtree that ends where the old tree ended: whoever checks knows it when it is the whole old tree.
  if (start > 0) spans.push({ start, end: from });
  return spans.reverse();
}

/** The perfect subtrees that a span of a proof is made of, the largest first. */
export function subtreesOf({ start, end }: Span): readonly Subtree[] {
  const subtrees: Subtree[] = [];
  for (let at = start; at < end; ) {
    let [level, leaves] = [0, 1];
    while (at % (leaves * 2) === 0 && at + leaves * 2 <= end) [level, leaves] = [level + 1, leaves * 2];
    subtrees.push({ level, index: at / leaves });
    at += leaves;
  }
  return subtrees;
}

/** The hashes of spans, where all leaf hashes are at hand. */
export function hashesOf(
  hashing: Hashing,
  leafHashes: readonly Uint8Array[],
  spans: readonly Span[],
): readonly Uint8Array[] {
  return spans.map(({ start, end }) => rootOf(hashing, leafHashes.slice(start, end)));
}

export interface InclusionClaim {
  readonly index: number;
  readonly size: number;
  readonly leafHash: Uint8Array;
  readonly proof: readonly Uint8Array[];
  readonly root: Uint8Array;
}

/** Is the leaf there? RFC 9162 §2.1.3.2. */
export function provesInclusion(hashing: Hashing, { index, size, leafHash, proof, root }: InclusionClaim): boolean {
  if (!isCount(index) || !isCount(size) || index >= size) return false;
  let [fn, sn, hash] = [index, size - 1, leafHash];
  for (const sibling of proof) {
    if (sn === 0) return false;
    if (fn % 2 === 1 || fn === sn) {
      hash = hashNode(hashing, sibling, hash);
      while (fn % 2 === 0 && fn !== 0) [fn, sn] = [fn / 2, half(sn)];
    } else {
      hash = hashNode(hashing, hash, sibling);
    }
    [fn, sn] = [half(fn), half(sn)];
  }
  return sn === 0 && equalBytes(hash, root);
}

export interface ConsistencyClaim {
  readonly from: number;
  readonly to: number;
  readonly fromRoot: Uint8Array;
  readonly toRoot: Uint8Array;
  readonly proof: readonly Uint8Array[];
}

/** Is the smaller tree the beginning of the larger one? RFC 9162 §2.1.4.2. Nothing is proved about an empty tree. */
export function provesConsistency(hashing: Hashing, { from, to, fromRoot, toRoot, proof }: ConsistencyClaim): boolean {
  if (!isCount(from) || !isCount(to) || from === 0 || from > to) return false;
  if (from === to) return proof.length === 0 && equalBytes(fromRoot, toRoot);
  const path = isPowerOfTwo(from) ? [fromRoot, ...proof] : proof;
  const [first, ...rest] = path;
  if (first === undefined || proof.length === 0) return false;
  let [fn, sn] = [from - 1, to - 1];
  while (fn % 2 === 1) [fn, sn] = [half(fn), half(sn)];
  let [fromHash, toHash] = [first, first];
  for (const sibling of rest) {
    if (sn === 0) return false;
    if (fn % 2 === 1 || fn === sn) {
      fromHash = hashNode(hashing, sibling, fromHash);
      toHash = hashNode(hashing, sibling, toHash);
      while (fn % 2 === 0 && fn !== 0) [fn, sn] = [fn / 2, half(sn)];
    } else {
      toHash = hashNode(hashing, toHash, sibling);
    }
    [fn, sn] = [half(fn), half(sn)];
  }
  return sn === 0 && equalBytes(fromHash, fromRoot) && equalBytes(toHash, toRoot);
}

/** The largest power of two below `n`, for n > 1: where RFC 9162 §2.1.1 splits a tree. */
function splitOf(n: number): number {
  let k = 1;
  while (k * 2 < n) k *= 2;
  return k;
}

function half(n: number): number {
  return Math.floor(n / 2);
}

function isPowerOfTwo(n: number): boolean {
  return n === 1 || splitOf(n) * 2 === n;
}

function isCount(n: number): boolean {
  return Number.isSafeInteger(n) && n >= 0;
}
