import fc from "fast-check";
import { Partitioners } from "kafkajs";
import { expect, test } from "vitest";
import { partitionOf } from "./partition.ts";

test("a key goes where kafkajs's default partitioner, and so Kafka's Java clients, would put it", () => {
  const theirs = Partitioners.DefaultPartitioner();
  const key = fc.oneof(fc.string({ unit: "binary" }), fc.uint8Array({ maxLength: 80 }).map(Buffer.from));
  fc.assert(
    fc.property(key, fc.integer({ min: 1, max: 64 }), (key, partitions) => {
      const partitionMetadata = Array.from({ length: partitions }, (_, partitionId) => ({
        partitionErrorCode: 0,
        partitionId,
        leader: 1,
        replicas: [],
        isr: [],
      }));
      const message = { key, value: null };
      return partitionOf(key, partitions) === theirs({ topic: "t", partitionMetadata, message });
    }),
  );
});

test("known keys stay where they are: moving one would break its order", () => {
  const keys = ["", "a", "ab", "abc", "abcd", "21", "foobar", "a-little-bit-long-string"];
  expect(keys.map((key) => partitionOf(key, 64))).toMatchInlineSnapshot(`
    [
      25,
      60,
      42,
      27,
      52,
      44,
      62,
      32,
    ]
  `);
});
