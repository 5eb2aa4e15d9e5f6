import { expect, test } from "vitest";
import { crc32c } from "./crc32c.ts";
import { recordsOf } from "./segments.ts";

/** Two batches that a broker 4.1.1 wrote for kafkajs's idempotent producer: a record with headers and one without a value; then one of 300 bytes. */
const first = Buffer.from(
  "00000000000000000000005f00000000025f0fabba000800000001000001a21992beb9000001a21992bec4000000000000000000000000000000000002" +
    "4c000000026b0a68656c6c6f060a63655f6964066f6e650a747769636502610a74776963650262" +
    "0c000002010100",
  "hex",
);
const second = Buffer.concat([
  Buffer.from(
    "00000000000000020000016a0000000002e259d345000800000000000001a21992bf22000001a21992bf2e000000000000000000000000000200000001" +
      "ee04000000086c6f6e67d804",
    "hex",
  ),
  Buffer.alloc(300, "x"),
  Buffer.from("00", "hex"),
]);
/** Its segment: files are longer than they are full. */
const segment = Buffer.concat([first, second, Buffer.alloc(200)]);

test("the check value of the polynomial is the published one", () => {
  expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
});

test("records are read as they were written, the last header of a name counting", () => {
  expect(recordsOf(segment)).toEqual([
    { offset: 0, key: Buffer.from("k"), value: Buffer.from("hello"), headers: { ce_id: "one", twice: "b" } },
    { offset: 1, key: null, value: null, headers: {} },
    { offset: 2, key: Buffer.from("long"), value: Buffer.alloc(300, "x"), headers: {} },
  ]);
});

test("a batch that is cut off is not there; what stands before it is", () => {
  for (const cut of [1, 10, 100, second.length - 1]) {
    expect(recordsOf(segment.subarray(0, first.length + second.length - cut)).length).toBe(2);
  }
});

test("a byte that is not what was written is noticed, wherever it is in what the CRC is about", () => {
  for (let at = 21; at < first.length; at++) {
    const changed = Buffer.from(first);
    changed[at] = (changed[at] as number) ^ 0x10;
    expect(() => recordsOf(changed), `byte ${at}`).toThrow("a wrong CRC");
  }
});
