import fc from "fast-check";
import { expect, test } from "vitest";
import { generationOf, isBehind, noteOf } from "./witness.ts";

const at = (generation: number, nextOffset: number) => ({ generation, nextOffset });

const cases: [law: string, here: ReturnType<typeof at>, told: ReturnType<typeof at> | null, behind: boolean][] = [
  ["what Kafka was told last is what is there", at(0, 7), at(0, 7), false],
  ["a step was committed and Kafka was not told yet", at(0, 9), at(0, 7), false],
  ["Kafka was told more than the database knows", at(0, 6), at(0, 7), true],
  ["more was told in an earlier generation, which is settled", at(1, 6), at(0, 7), false],
  ["the database is from before a recovery", at(0, 9), at(1, 7), true],
  ["it went back once more after a recovery", at(1, 6), at(1, 7), true],
  ["the beginning of a group", at(0, 3), null, false],
  ["Kafka has forgotten the group", at(0, 4), null, true],
];

test.each(cases)("%s", (_, here, told, behind) => {
  expect(isBehind(here, told, 3)).toBe(behind);
});

test("a generation is read as it was written, and anything else is from before there were any", () => {
  fc.assert(fc.property(fc.nat(), (generation) => generationOf(noteOf(generation)) === generation));
  for (const note of [null, "", "generation", "generation 1 ", "generation -1", "generation 99999999999999999999"]) {
    expect(generationOf(note)).toBe(0);
  }
});

test("of two histories of one database only the longer one is not behind", () => {
  const reached = fc.record({ generation: fc.nat(3), nextOffset: fc.nat(9) });
  fc.assert(
    fc.property(reached, reached, (one, other) => {
      const isSame = one.generation === other.generation && one.nextOffset === other.nextOffset;
      expect(isBehind(one, other, 0) && isBehind(other, one, 0)).toBe(false);
      expect(isBehind(one, other, 0) || isBehind(other, one, 0)).toBe(!isSame);
    }),
  );
});
