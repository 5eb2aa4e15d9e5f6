import { describe, expect, test } from "vitest";
import { avroType } from "./avro.ts";
import { catalogue, messageReceipt } from "./catalogue.ts";
import { schemaText } from "./codec.ts";
import { samples } from "./samples.ts";

describe("every topic", () => {
  test("has a sample", () => {
    expect(samples.map(({ topic }) => topic.name)).toEqual(catalogue.map(({ name }) => name));
  });

  for (const { topic, value } of samples) {
    test(`${topic.name}: what is written is what is read, and every field of the value has a place in the schema`, async () => {
      const type = avroType(await schemaText(topic));
      const read = type.fromBuffer(type.toBuffer(value));
      expect(plain(read)).toEqual(plain(value));
    });
  }
});

describe("a value", () => {
  const record = (fields: unknown[]) => avroType(JSON.stringify({ type: "record", name: "R", fields }));
  const uuid = { name: "an_id", type: { type: "fixed", name: "Uuid", size: 16, logicalType: "uuid" } };
  const text = "01890a5d-ac96-774b-bcce-b302099a8057";

  test("holds a uuid as 16 bytes on the wire and as lower-case text in the code", () => {
    const type = record([uuid]);
    expect(type.toBuffer({ anId: text }).toString("hex")).toBe(text.replaceAll("-", ""));
    expect(type.fromBuffer(Buffer.from(text.replaceAll("-", ""), "hex"))).toEqual({ anId: text });
    expect(() => type.toBuffer({ anId: text.toUpperCase() })).toThrow();
  });

  test("hands out its bytes as a view of what it was read from", () => {
    const type = record([{ name: "body", type: "bytes" }]);
    const bytes = type.toBuffer({ body: new Uint8Array([1, 2, 3]) });
    const { body } = type.fromBuffer(bytes) as { body: Buffer };
    expect(body.buffer).toBe(bytes.buffer);
    expect([...body]).toEqual([1, 2, 3]);
  });

  test("written with an older or newer schema is read with ours, arrays and uuids included", () => {
    const list = (fields: unknown[]) => [
      { name: "the_list", type: { type: "array", items: { type: "record", name: "I", fields } } },
    ];
    const older = record(list([uuid]));
    const newer = record(list([uuid, { name: "code", type: ["null", "string"], default: null }]));
    const written = older.toBuffer({ theList: [{ anId: text }] });
    expect(newer.fromBuffer(written, newer.createResolver(older))).toEqual({ theList: [{ anId: text, code: null }] });
    const writtenNewer = newer.toBuffer({ theList: [{ anId: text, code: "x" }] });
    expect(older.fromBuffer(writtenNewer, older.createResolver(newer))).toEqual({ theList: [{ anId: text }] });
  });

  test("that claims more items or bytes than there is room for is refused before room is made", async () => {
    const type = avroType(await schemaText(messageReceipt));
    // recipient "" and a count of 2^40 items.
    const poison = Buffer.from([0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40, 1, 2, 3]);
    expect(() => type.fromBuffer(poison)).toThrow();
    const bytes = record([{ name: "body", type: "bytes" }]);
    expect(() => bytes.fromBuffer(Buffer.from([0x80, 0x80, 0x80, 0x80, 0x40, 1]))).toThrow();
  });
});

/** Plain objects and plain byte arrays: the classes differ, the values must not. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return Array.from(value);
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, plain(inner)]));
}
