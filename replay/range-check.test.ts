import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { hashLeaf, rootOf } from "../protocol/audit/merkle.ts";
import { hashesOf, inclusionSpans } from "../protocol/audit/proofs.ts";
import { nodePrimitives as hashing } from "../protocol/primitives/node.ts";
import { firstWrong, RunCheck, sidesOf } from "./range-check.ts";

const leafOf = (n: number) => hashLeaf(hashing, Buffer.from(`leaf ${n}`));
const log = (size: number) => Array.from({ length: size }, (_, n) => leafOf(n));

function sides(all: readonly Uint8Array[], index: number) {
  const found = sidesOf(index, all.length, hashesOf(hashing, all, inclusionSpans(index, all.length)));
  if (found === null) throw new Error("a proof of ours has the right length");
  return found;
}

/** A log, a run in it, and another run put in its place. */
const runs = fc.integer({ min: 1, max: 70 }).chain((size) =>
  fc.tuple(fc.nat(size - 1), fc.nat(size - 1)).map(([one, other]) => {
    return { size, start: Math.min(one, other), end: Math.max(one, other) + 1 };
  }),
);

function isProven(all: readonly Uint8Array[], start: number, run: readonly Uint8Array[], end: number): boolean {
  const check = new RunCheck(hashing, start, sides(all, start).before);
  for (const leaf of run) check.append(leaf);
  return check.proves(all.length, rootOf(hashing, all), sides(all, end - 1).behind);
}

describe("a run of records", () => {
  test("is proven where it is the log's", () => {
    fc.assert(
      fc.property(runs, ({ size, start, end }) => {
        const all = log(size);
        expect(isProven(all, start, all.slice(start, end), end)).toBe(true);
      }),
    );
  });

  test("is not proven with a record changed, removed, added, or two of them exchanged", () => {
    fc.assert(
      fc.property(runs, fc.nat(), ({ size, start, end }, pick) => {
        const all = log(size);
        const run = all.slice(start, end);
        const at = pick % run.length;
        const forged = leafOf(1_000 + pick);
        expect(isProven(all, start, run.with(at, forged), end)).toBe(false);
        expect(isProven(all, start, run.toSpliced(at, 1), end)).toBe(false);
        expect(isProven(all, start, run.toSpliced(at, 0, forged), end)).toBe(false);
        if (run.length < 2) return;
        const other = (at + 1) % run.length;
        const exchanged = run.with(at, run[other] as Uint8Array).with(other, run[at] as Uint8Array);
        expect(isProven(all, start, exchanged, end)).toBe(false);
      }),
    );
  });

  test("that is wrong from some record on is told by the place of that record", async () => {
    await fc.assert(
      fc.asyncProperty(runs, fc.nat(), fc.nat(), async ({ size, start, end }, pick, more) => {
        const all = log(size);
        const at = start + (pick % (end - start));
        const also = at + (more % (end - at));
        const own = all.with(at, leafOf(5_000)).with(also, leafOf(5_001));
        const wrong = await firstWrong({
          ...{ hashing, start, end, size, root: rootOf(hashing, all), before: sides(all, start).before },
          behind: async (index) => sides(all, index).behind,
          leaves: async function* (from, to) {
            yield* own.slice(from, to);
          },
        });
        expect(wrong).toBe(at);
      }),
    );
  });
});

test("a proof of another length has no sides", () => {
  expect(sidesOf(2, 5, [leafOf(0)])).toBeNull();
});
