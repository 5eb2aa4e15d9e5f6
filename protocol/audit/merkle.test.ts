import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { noblePrimitives } from "../primitives/noble.ts";
import { nodePrimitives as hashing } from "../primitives/node.ts";
import { GrowingTree, hashLeaf, rootOf } from "./merkle.ts";
import {
  consistencySpans,
  hashesOf,
  inclusionSpans,
  provesConsistency,
  provesInclusion,
  subtreesOf,
} from "./proofs.ts";

/** The known answers of the Certificate Transparency project (google/certificate-transparency, `merkle_tree_test.cc`). */
const leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"].map(
  hex,
);
const roots = [
  "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
  "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
  "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
  "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
  "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
  "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
  "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
  "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
  "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
].map(hex);
const hashes = leaves.map((bytes) => hashLeaf(hashing, bytes));

describe("the known answers of Certificate Transparency", () => {
  test.each(roots.map((root, size) => ({ size, root })))("the root of $size leaves", ({ size, root }) => {
    expect(rootOf(hashing, hashes.slice(0, size))).toEqual(root);
    expect(rootOf(noblePrimitives, hashes.slice(0, size))).toEqual(root);
  });

  test.each([
    {
      ...{ index: 0, size: 8 },
      proof: [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
      ],
    },
    {
      ...{ index: 5, size: 8 },
      proof: [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
      ],
    },
    {
      ...{ index: 2, size: 3 },
      proof: ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    },
  ])("leaf $index is in the tree of $size", ({ index, size, proof }) => {
    expect(hashesOf(hashing, hashes, inclusionSpans(index, size))).toEqual(proof.map(hex));
    const claim = { index, size, leafHash: hashes[index] as Uint8Array, root: roots[size] as Uint8Array };
    expect(provesInclusion(hashing, { ...claim, proof: proof.map(hex) })).toBe(true);
  });

  test.each([
    { ...{ from: 1, to: 1 }, proof: [] },
    {
      ...{ from: 1, to: 8 },
      proof: [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
      ],
    },
    {
      ...{ from: 6, to: 8 },
      proof: [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
      ],
    },
    {
      ...{ from: 2, to: 5 },
      proof: [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
      ],
    },
  ])("the tree of $from is the beginning of the one of $to", ({ from, to, proof }) => {
    expect(hashesOf(hashing, hashes, consistencySpans(from, to))).toEqual(proof.map(hex));
    const claim = { from, to, fromRoot: roots[from] as Uint8Array, toRoot: roots[to] as Uint8Array };
    expect(provesConsistency(hashing, { ...claim, proof: proof.map(hex) })).toBe(true);
  });
});

const SIZE_MAX = 70;
const forest = Array.from({ length: SIZE_MAX }, (_, i) => hashLeaf(hashing, Uint8Array.of(i, i >> 8)));
const forestRoots = Array.from({ length: SIZE_MAX + 1 }, (_, size) => rootOf(hashing, forest.slice(0, size)));
const rootAt = (size: number) => forestRoots[size] as Uint8Array;

test("every root is what RFC 9162's own recursive definition says", () => {
  for (let size = 0; size <= SIZE_MAX; size++) expect(rootAt(size)).toEqual(definedRoot(forest.slice(0, size)));
});

test("a tree goes on from its perfect subtrees as if it had never been put down", () => {
  fc.assert(
    fc.property(fc.nat(SIZE_MAX), fc.nat(SIZE_MAX), (a, b) => {
      const [until, size] = [Math.min(a, b), Math.max(a, b)];
      const first = new GrowingTree(hashing);
      for (const leaf of forest.slice(0, until)) first.append(leaf);
      const second = new GrowingTree(hashing, first.size, first.subtrees());
      for (const leaf of forest.slice(until, size)) second.append(leaf);
      expect(second.size).toBe(size);
      expect(second.root()).toEqual(rootAt(size));
    }),
  );
});

test("every leaf is proved in every tree that holds it, and at no other place, in no other tree, for no other leaf", () => {
  for (let size = 1; size <= 40; size++) {
    for (let index = 0; index < size; index++) {
      const proof = hashesOf(hashing, forest, inclusionSpans(index, size));
      const claim = { index, size, leafHash: forest[index] as Uint8Array, proof, root: rootAt(size) };
      expect(provesInclusion(hashing, claim)).toBe(true);
      const other = (index + 1) % size;
      expect(size > 1 && provesInclusion(hashing, { ...claim, index: other })).toBe(false);
      expect(provesInclusion(hashing, { ...claim, index: size })).toBe(false);
      expect(provesInclusion(hashing, { ...claim, leafHash: forest[size] as Uint8Array })).toBe(false);
      expect(provesInclusion(hashing, { ...claim, root: rootAt(size + 1) })).toBe(false);
      expect(provesInclusion(hashing, { ...claim, proof: [...proof, rootAt(1)] })).toBe(false);
      expect(size > 1 && provesInclusion(hashing, { ...claim, proof: proof.slice(1) })).toBe(false);
    }
  }
});

test("a proof that ends too low proves nothing, though it leads to the root that is claimed", () => {
  const [leafHash, sibling] = forest as [Uint8Array, Uint8Array];
  expect(provesInclusion(hashing, { index: 0, size: 2, leafHash, proof: [sibling], root: rootAt(2) })).toBe(true);
  for (let size = 3; size <= 16; size++) {
    expect(provesInclusion(hashing, { index: 0, size, leafHash, proof: [sibling], root: rootAt(2) })).toBe(false);
    expect(provesInclusion(hashing, { index: 0, size, leafHash, proof: [], root: leafHash })).toBe(false);
  }
});

test("every tree is proved to be the beginning of every larger one, and nothing else is", () => {
  for (let to = 1; to <= 40; to++) {
    for (let from = 1; from <= to; from++) {
      const proof = hashesOf(hashing, forest, consistencySpans(from, to));
      const claim = { from, to, fromRoot: rootAt(from), toRoot: rootAt(to), proof };
      expect(provesConsistency(hashing, claim)).toBe(true);
      expect(provesConsistency(hashing, { ...claim, fromRoot: rootAt(from + 1) })).toBe(false);
      expect(provesConsistency(hashing, { ...claim, toRoot: rootAt(to + 1) })).toBe(false);
      expect(provesConsistency(hashing, { ...claim, proof: [...proof, rootAt(1)] })).toBe(false);
      expect(from < to && provesConsistency(hashing, { ...claim, proof: proof.slice(0, -1) })).toBe(false);
    }
  }
});

test("one bit flipped anywhere in a proof, and it proves nothing", () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: SIZE_MAX }), fc.nat(), fc.nat(), fc.nat(255), (size, a, b, bit) => {
      const index = a % size;
      const inclusion = hashesOf(hashing, forest, inclusionSpans(index, size)).map((hash) => hash.slice());
      flip(inclusion[b % inclusion.length] as Uint8Array, bit);
      const leafHash = forest[index] as Uint8Array;
      expect(provesInclusion(hashing, { index, size, leafHash, proof: inclusion, root: rootAt(size) })).toBe(false);
      const from = 1 + (a % (size - 1));
      const proof = hashesOf(hashing, forest, consistencySpans(from, size)).map((hash) => hash.slice());
      flip(proof[b % proof.length] as Uint8Array, bit);
      const claim = { from, to: size, fromRoot: rootAt(from), toRoot: rootAt(size), proof };
      expect(provesConsistency(hashing, claim)).toBe(false);
    }),
  );
});

test("a span is the perfect subtrees that it is said to be made of, also beyond 32 bits", () => {
  const spans = [
    ...consistencySpans(2 ** 40 + 3, 2 ** 41 + 7),
    ...inclusionSpans(2 ** 40 + 3, 2 ** 41 + 7),
    ...inclusionSpans(37, 70),
  ];
  for (const { start, end } of spans) {
    let at = start;
    for (const { level, index } of subtreesOf({ start, end })) {
      expect(index * 2 ** level).toBe(at);
      at += 2 ** level;
    }
    expect(at).toBe(end);
  }
});

test("what is out of bounds is refused, and proves nothing", () => {
  expect(() => inclusionSpans(3, 3)).toThrow(RangeError);
  expect(() => inclusionSpans(-1, 3)).toThrow(RangeError);
  expect(() => consistencySpans(0, 3)).toThrow(RangeError);
  expect(() => consistencySpans(4, 3)).toThrow(RangeError);
  const empty = { from: 0, to: 3, fromRoot: rootAt(0), toRoot: rootAt(3), proof: [] };
  expect(provesConsistency(hashing, empty)).toBe(false);
});

/** RFC 9162 §2.1.1, word for word, with a hash function of its own. */
function definedRoot(list: readonly Uint8Array[]): Uint8Array {
  const sha256 = (...parts: Uint8Array[]) => {
    const hash = createHash("sha256");
    for (const part of parts) hash.update(part);
    return new Uint8Array(hash.digest());
  };
  if (list.length === 0) return sha256();
  if (list.length === 1) return list[0] as Uint8Array;
  let k = 1;
  while (k * 2 < list.length) k *= 2;
  return sha256(Uint8Array.of(1), definedRoot(list.slice(0, k)), definedRoot(list.slice(k)));
}

function flip(bytes: Uint8Array, bit: number): void {
  bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
}

function hex(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, "hex"));
}
