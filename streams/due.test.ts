import { expect, test } from "vitest";
import type { PushRequested } from "../schemas/values.ts";
import { pushRequested } from "./catalogue.ts";
import type { Inbound } from "./consumer.ts";
import { dueWaitMsMax, splitDue } from "./due.ts";
import type { Received } from "./emission.ts";

const appendedAt = 1_000_000;

/** Records of one partition that may be applied so long after their append; null for one that cannot be used. */
function records(waits: readonly (number | null)[]): Received<PushRequested>[] {
  return waits.map((wait, offset) => {
    const message = { key: null, value: null, timestamp: "1", attributes: 0, offset: String(offset), headers: {} };
    const base = { topic: pushRequested, partition: 0, offset, message, bytes: 1, items: 1 };
    if (wait === null) return { ...base, outcome: { code: "undecodable" } };
    const value = { recipientId: "r", seq: wait, requestedAt: 1 };
    const inbound = { topic: pushRequested, partition: 0, offset, key: "r", value, headers: {}, timestamp: appendedAt };
    return { ...base, outcome: { inbound } };
  });
}

const consumer = { dueAt: ({ timestamp, value }: Inbound<PushRequested>) => timestamp + value.seq };

test("a record that is not due holds up what is behind it, due or not", () => {
  const now = appendedAt + 50;
  expect(splitDue(consumer, records([10, 50, 51, 20]), now)).toEqual({ count: 2, nextAt: appendedAt + 51 });
  expect(splitDue(consumer, records([51]), now)).toEqual({ count: 0, nextAt: appendedAt + 51 });
  expect(splitDue(consumer, records([50, 0]), now)).toEqual({ count: 2, nextAt: null });
});

test("a record that cannot be used is due at once", () => {
  expect(splitDue(consumer, records([null, null, 51, null]), appendedAt)).toMatchObject({ count: 2 });
});

test("a consumer that knows no time applies everything at once", () => {
  expect(splitDue({}, records([10, null, 99]), 0)).toEqual({ count: 3, nextAt: null });
});

test("whatever a record says, it does not stop its partition for longer than two minutes", () => {
  const late = records([Number.MAX_SAFE_INTEGER]);
  expect(splitDue(consumer, late, appendedAt)).toEqual({ count: 0, nextAt: appendedAt + dueWaitMsMax });
  expect(splitDue(consumer, late, appendedAt + dueWaitMsMax)).toEqual({ count: 1, nextAt: null });
});
