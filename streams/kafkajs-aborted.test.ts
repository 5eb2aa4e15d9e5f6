import { expect, test } from "vitest";
import { type FetchedRecord, markAborted } from "./kafkajs-aborted.ts";

function data(offset: number, producerId: string, inTransaction = true): FetchedRecord {
  const batchContext = { producerId, inTransaction };
  return { offset: String(offset), key: Buffer.from("k"), isControlRecord: false, batchContext };
}

function end(offset: number, producerId: string, type: "abort" | "commit"): FetchedRecord {
  const key = Buffer.from([0, 0, 0, type === "abort" ? 0 : 1]);
  return { ...data(offset, producerId), key, isControlRecord: true };
}

function shown(messages: readonly FetchedRecord[], aborted: readonly (readonly [string, number])[]): string[] {
  const abortedTransactions = aborted.map(([producerId, first]) => ({ producerId, firstOffset: String(first) }));
  markAborted({ messages, abortedTransactions });
  return messages.filter(({ isControlRecord }) => !isControlRecord).map(({ offset }) => offset);
}

test("transactions that were aborted in another order than they began are hidden", () => {
  const log = [data(5, "a"), data(6, "b"), end(7, "b", "abort"), data(8, "a"), end(9, "a", "abort"), data(10, "b")];
  expect(shown(log, [["b", 6], ["a", 5]])).toEqual(["10"]); // biome-ignore format: a list of pairs
});

test("a fetch that begins in the middle of several aborted transactions shows none of them", () => {
  expect(shown([data(20, "b"), data(21, "a"), data(22, "c")], [["a", 1], ["b", 2]])).toEqual(["22"]); // biome-ignore format: a list of pairs
});

test("what a producer commits after an aborted transaction is shown, and what is in no transaction always", () => {
  const log = [
    data(1, "a"),
    end(2, "a", "abort"),
    data(3, "a"),
    end(4, "a", "commit"),
    data(5, "a"),
    end(6, "a", "abort"),
  ];
  expect(shown([...log, data(7, "a", false)], [["a", 1], ["a", 5]])).toEqual(["3", "7"]); // biome-ignore format: a list of pairs
});
