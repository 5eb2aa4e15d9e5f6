import { expect, test } from "vitest";
import { Refusal } from "../protocol/refusal.ts";
import type { PushRequested } from "../schemas/values.ts";
import { pushRequested } from "./catalogue.ts";
import type { Codec } from "./codec.ts";
import type { Emit } from "./consumer.ts";
import { letterOf } from "./dead-letters.ts";
import { deadLetterRows, emittedRows, type Received } from "./emission.ts";
import { recordBytesMax, toMessage } from "./outgoing.ts";
import type { ReadRecord } from "./read-topic.ts";

/** JSON instead of Avro: what a value is encoded as is not the point here. */
const codec: Codec = {
  encode: (_, value) => Buffer.from(JSON.stringify(value)),
  decode: () => {
    throw new Error("not used");
  },
  learn: () => null,
};

function received(partition: number, offset: number): Received<PushRequested> {
  const value = { recipientId: "r", seq: offset, requestedAt: 1 };
  const message = {
    key: Buffer.from([0, 255]),
    value: Buffer.from("raw"),
    timestamp: "1700000000000",
    attributes: 0,
    offset: String(offset),
    headers: { ce_id: Buffer.from("in"), traceparent: Buffer.from("00-t") },
  };
  const inbound = { topic: pushRequested, partition, offset, key: "r", value, headers: {}, timestamp: 1 };
  return { topic: pushRequested, partition, offset, message, bytes: 5, items: 1, outcome: { inbound } };
}

function emit(cause: Received, text: string): Emit {
  return { topic: pushRequested, key: text, cause, time: 1, subject: text, value: (id) => ({ id, text }) };
}

test("what is emitted is numbered for each cause and stands in the order of the causes", () => {
  const [a, b, c] = [received(1, 5), received(0, 9), received(0, 8)];
  const rows = emittedRows(codec, "g", [emit(a, "a0"), emit(b, "b0"), emit(a, "a1"), emit(c, "c0")], [a, b, c]);
  expect(rows.map(({ key, n, inputPartition, inputOffset }) => [key, n, inputPartition, inputOffset])).toEqual([
    ["c0", 0, 0, 8],
    ["b0", 0, 0, 9],
    ["a0", 0, 1, 5],
    ["a1", 1, 1, 5],
  ]);
  expect(rows[0]?.headers).toMatchObject({ ce_source: "/sealpost/g", traceparent: "00-t", ce_subject: "c0" });
  expect(JSON.parse(`${rows[0]?.value}`)).toEqual({ id: rows[0]?.headers["ce_id"], text: "c0" });
});

test("the same record gives the same rows in whatever company", () => {
  const [a, b] = [received(1, 5), received(0, 9)];
  const alone = emittedRows(codec, "g", [emit(a, "x")], [a]);
  const together = emittedRows(codec, "g", [emit(b, "y"), emit(a, "x")], [b, a]);
  expect(together[1]).toEqual(alone[0]);
});

test("an event whose cause is not in the step is a bug", () => {
  expect(() => emittedRows(codec, "g", [emit(received(0, 1), "x")], [received(0, 2)])).toThrow();
});

test("a dead letter keeps bytes, event headers and trace, says where it came from and why, and its lament follows", () => {
  const refused = received(3, 7);
  const rows = deadLetterRows(codec, "g", refused, "undecodable", (record, code) => {
    expect(record).toMatchObject({ topic: pushRequested.name, partition: 3, offset: 7, headers: { ce_id: "in" } });
    return [emit(refused, code)];
  });
  expect(rows).toHaveLength(2);
  expect(rows[0]).toMatchObject({
    topic: "push.requested.v1.dlq",
    n: 0,
    key: Buffer.from([0, 255]),
    value: Buffer.from("raw"),
    headers: {
      ce_id: "in",
      traceparent: "00-t",
      "x-orig-topic": "push.requested.v1",
      "x-orig-partition": "3",
      "x-orig-offset": "7",
      "x-orig-timestamp": "1700000000000",
      "x-error-code": "undecodable",
      "x-consumer-group": "g",
    },
  });
  expect(rows[1]).toMatchObject({ n: 1, key: "undecodable", inputOffset: 7 });
});

test("a topic without dead letters has none", () => {
  const refused = { ...received(0, 0), topic: { ...pushRequested, deadLetters: false } };
  expect(deadLetterRows(codec, "g", refused, "undecodable")).toEqual([]);
});

type Message = Received["message"];

function refusedWith(message: Partial<Message>): Received {
  const base = received(3, 7);
  return { ...base, message: { ...base.message, ...message } as Message };
}

const noise = (bytes: number) => Buffer.alloc(bytes, 0xff);

test.each<[what: string, message: Partial<Message>, cut: string]>([
  ["a header that is three times as long as text", { headers: { ce_id: "in", big: noise(400_000) } }, "headers"],
  ["more headers than a letter has room for", { headers: headersOf(60_000) }, "headers"],
  ["a value that was small while it was compressed", { value: noise(5_000_000) }, "value"],
  ["a key that was", { key: noise(5_000_000) }, "key"],
  [
    "all of it",
    { key: noise(2_000_000), value: noise(5_000_000), headers: { ce_id: "in", big: noise(2_000_000) } },
    "headers key value",
  ],
])("%s becomes a letter that can be sent, says what it does not hold, and is not put back", (_, message, cut) => {
  const [letter] = deadLetterRows(codec, "g", refusedWith(message), "undecodable");
  if (letter === undefined) throw new Error("there is no letter");
  expect(toMessage(letter).bytes).toBeLessThanOrEqual(recordBytesMax);
  expect(letter.headers).toMatchObject({ "x-cut": cut, "x-orig-offset": "7", "x-error-code": "undecodable" });
  const value = (message.value ?? Buffer.from("raw")) as Buffer;
  expect(value.subarray(0, letter.value.length).equals(letter.value)).toBe(true);
  if (cut.includes("value")) expect(toMessage(letter).bytes).toBeGreaterThan(recordBytesMax - 20);
  const headers = Object.fromEntries(Object.entries(letter.headers).map(([name, text]) => [name, Buffer.from(text)]));
  const read = { ...letter, headers, partition: 1, offset: "3", timestamp: "1" } as unknown as ReadRecord;
  expect(letterOf(pushRequested, read)).toMatchObject({ code: "undecodable", record: null });
});

function headersOf(count: number): Record<string, Buffer> {
  return Object.fromEntries(Array.from({ length: count }, (_, n) => [`name-${n}`, Buffer.from("a value")]));
}

test("what fits is whole, and nobody else says that it is cut", () => {
  const message = { value: noise(1_000_000), headers: { "x-cut": Buffer.from("value"), big: noise(10_000) } };
  const [letter] = deadLetterRows(codec, "g", refusedWith(message), "undecodable");
  expect(letter?.value).toHaveLength(1_000_000);
  expect(letter?.headers["x-cut"]).toBeUndefined();
  expect(letter?.headers["big"]).toHaveLength(10_000);
});

test("what a record makes a consumer say that no topic takes is the record's fault; a lament of that kind is left out", () => {
  const cause = received(1, 5);
  expect(() => emittedRows(codec, "g", [emit(cause, "x".repeat(600_000))], [cause])).toThrow(Refusal);
  const rows = deadLetterRows(codec, "g", cause, "too-large", () => [
    emit(cause, "x".repeat(600_000)),
    emit(cause, "y"),
  ]);
  expect(rows.map(({ n }) => n)).toEqual([0, 2]);
});
