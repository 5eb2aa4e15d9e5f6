/** Wrong inputs made of right ones, by a seed: bytes that were changed, and values in which some fields are odd. Pure. */
import type { Chance } from "../../sdk/chance.ts";

/** Places at which lengths, counts and signs are decided. */
const ODD_BYTES = [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff];
const ODD_NUMBERS = [
  ...[0, 1, -1, 2 ** 31, -(2 ** 31), 2 ** 32 - 1, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER],
  // Larger than any time of a `Date`, and than any that has four digits for its year; the last is the largest that Avro takes here.
  ...[253_402_300_800_000, 8_640_000_000_000_001, 9_000_000_000_000_000, Number.MAX_SAFE_INTEGER - 1],
];
const ODD_TEXTS = [
  "",
  "\0",
  "a",
  "A".repeat(43),
  "\u{1F4EE}",
  "constructor",
  "__proto__",
  "x".repeat(1_000),
  "../..",
  "'",
];

const changes: readonly ((bytes: Buffer, chance: Chance) => Buffer)[] = [
  function flipBit(bytes, chance) {
    const at = chance.below(bytes.length);
    bytes.writeUInt8((bytes[at] ?? 0) ^ (1 << chance.below(8)), at);
    return bytes;
  },
  function setByte(bytes, chance) {
    bytes.writeUInt8(chance.choose(ODD_BYTES) ?? 0, chance.below(bytes.length));
    return bytes;
  },
  function cut(bytes, chance) {
    return bytes.subarray(0, chance.below(bytes.length));
  },
  function prolong(bytes, chance) {
    return Buffer.concat([bytes, chance.bytes(1 + chance.below(40))]);
  },
  function remove(bytes, chance) {
    const at = chance.below(bytes.length);
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + chance.below(8))]);
  },
  function repeat(bytes, chance) {
    const at = chance.below(bytes.length);
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at, at + 16), bytes.subarray(at)]);
  },
  function insertLength(bytes, chance) {
    const at = chance.below(bytes.length);
    const length = chance.happens(0.5) ? chance.bytes(4) : Buffer.alloc(1 + chance.below(10), 0xff);
    return Buffer.concat([bytes.subarray(0, at), length, bytes.subarray(at + length.length)]);
  },
];

/** The bytes with one to three changes; they may by chance mean something again. */
export function mutated(bytes: Uint8Array, chance: Chance): Buffer {
  let result: Buffer = Buffer.from(bytes);
  for (let left = 1 + chance.below(3); left > 0 && result.length > 0; left--) {
    result = (chance.choose(changes) as (typeof changes)[number])(result, chance);
  }
  return result;
}

/** A copy in which some leaves are odd values of their kind; `ids` are texts that mean somebody. */
export function oddValue(value: unknown, chance: Chance, ids: readonly string[]): unknown {
  if (Array.isArray(value)) {
    const items = value.map((item) => oddValue(item, chance, ids));
    return chance.happens(0.1) ? Array.from({ length: chance.below(60) }, () => items[0]).filter(isThere) : items;
  }
  if (value instanceof Uint8Array) return chance.happens(0.5) ? chance.bytes(chance.below(600)) : value;
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, oddValue(inner, chance, ids)]));
  }
  if (typeof value === "string" && chance.happens(0.5)) return chance.choose(ids);
  if (!chance.happens(0.3)) return value;
  if (typeof value === "number") return chance.choose(ODD_NUMBERS);
  if (typeof value === "boolean") return !value;
  return typeof value === "string" ? chance.choose(ODD_TEXTS) : value;
}

function isThere(item: unknown): boolean {
  return item !== undefined;
}
