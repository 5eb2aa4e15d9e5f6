import { expect, test } from "vitest";
import { Chance } from "../../sdk/chance.ts";
import { mutated, oddValue } from "./mutations.ts";
import { Tally } from "./tally.ts";

const right = Buffer.from("a right value of some length");

function many<Made>(seed: number, make: (chance: Chance) => Made): Made[] {
  const chance = new Chance(seed);
  return Array.from({ length: 500 }, () => make(chance));
}

test("the same seed, the same inputs; another one, others", () => {
  const made = (seed: number) => many(seed, (chance) => mutated(right, chance).toString("hex"));
  expect(made(1)).toEqual(made(1));
  expect(made(1)).not.toEqual(made(2));
});

test("changed bytes are shorter, longer and of the same length, and what they were made of stays as it was", () => {
  const before = Buffer.from(right);
  const lengths = many(3, (chance) => Math.sign(mutated(right, chance).length - right.length));
  expect(new Set(lengths)).toEqual(new Set([-1, 0, 1]));
  expect(right).toEqual(before);
});

test("no bytes at all can be changed into no error", () => {
  expect(many(4, (chance) => mutated(Buffer.alloc(0), chance).length)).toEqual(new Array(500).fill(0));
});

test("odd values keep the shape, and nearly all of them differ", () => {
  const value = { text: "a", number: 7, list: [{ inner: "b" }], bytes: Buffer.from("c"), none: null };
  const made = many(5, (chance) => oddValue(value, chance, ["somebody"]) as typeof value);
  for (const one of made) expect(Object.keys(one)).toEqual(Object.keys(value));
  const same = made.filter((one) => JSON.stringify(one) === JSON.stringify(value));
  expect(same.length).toBeLessThan(50);
  expect(made.some(({ text }) => text === "somebody")).toBe(true);
});

test("what had no input is a finding", () => {
  const tally = new Tally("http", ["GET /a", "GET /b"]);
  tally.put("GET /a");
  expect(tally.report().findings).toEqual(["GET /b had no input"]);
  tally.put("GET /b", 2);
  expect(tally.report()).toMatchObject({ inputs: 3, findings: [] });
});

test("odd times are tried that Avro takes and no calendar does", () => {
  const made = many(6, (chance) => (oddValue({ at: 1 }, chance, []) as { at: number }).at);
  expect(made.some((at) => at > 8.64e15 && at < Number.MAX_SAFE_INTEGER)).toBe(true);
});
