import { expect, test, vi } from "vitest";
import { Unavailable } from "../../protocol/refusal.ts";
import type { MessageReceipt } from "../../schemas/values.ts";
import type { NewEvent } from "../../streams/headers.ts";
import type { Answer } from "../operations/acknowledge.ts";
import { Reporter } from "./reporter.ts";

/** Kafka that takes records, or does not. */
class Records {
  away = false;
  readonly taken: MessageReceipt[] = [];
  readonly refused: MessageReceipt[] = [];
  readonly bugs: unknown[] = [];
  readonly receipts = {
    append: async (events: readonly NewEvent<unknown>[]) => {
      const records = events.map(({ value }) => value as MessageReceipt);
      (this.away ? this.refused : this.taken).push(...records);
      if (this.away) throw new Unavailable("kafka");
    },
  };
  readonly counted = () => undefined;
  readonly now = () => 1;
  readonly onBug = (error: unknown) => this.bugs.push(error);

  /** Message ids of everything taken, by outcome. */
  ids(outcome: string): string[] {
    return this.taken.flatMap(({ items }) =>
      items.filter((item) => item.outcome === outcome).map(({ itemId }) => itemId),
    );
  }
}

function answers(count: number, from = 0): Answer[] {
  return Array.from({ length: count }, (_, index) => ({
    senderId: "sender",
    messageId: String(from + index),
    outcome: "acknowledged",
  }));
}

const ids = (count: number) => answers(count).map(({ messageId }) => messageId);

test("reports of one turn leave in one record for each agent and kind", async () => {
  const records = new Records();
  const reporter = new Reporter(records);
  for (const answer of answers(20)) reporter.answered("bob", [answer]);
  for (const answer of answers(20)) reporter.delivered("bob", [{ senderId: "sender", itemId: answer.messageId }]);
  reporter.answered("carol", answers(1));
  await reporter.close();
  expect(records.taken.map(({ recipientId, items }) => [recipientId, items.length])).toEqual([
    ["bob", 20],
    ["bob", 20],
    ["carol", 1],
  ]);
  expect(records.ids("delivered")).toEqual(ids(20));
});

test("a record has at most 256 items, and a full one does not linger", async () => {
  const records = new Records();
  const reporter = new Reporter(records);
  reporter.answered("bob", answers(600));
  expect(records.taken.map(({ items }) => items.length)).toEqual([256, 256, 88]);
  await reporter.close();
});

test("answers that Kafka does not take are tried again, together", async () => {
  const records = new Records();
  const reporter = new Reporter(records);
  records.away = true;
  for (const answer of answers(30)) {
    reporter.answered("bob", [answer]);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  reporter.delivered("bob", [{ senderId: "sender", itemId: "0" }]);
  await vi.waitFor(() => expect(records.refused.map(({ items }) => items[0]?.outcome)).toContain("delivered"));
  records.away = false;
  await new Promise((resolve) => setTimeout(resolve, 800));
  expect(records.ids("acknowledged").toSorted()).toEqual(ids(30).toSorted());
  expect(records.ids("delivered")).toEqual([]);
  expect(records.taken.length).toBeLessThan(4);
  await reporter.close();
});

test("what waits for Kafka is bounded, what is lost is counted, and room that is free again is used", async () => {
  const records = new Records();
  const reporter = new Reporter(records, 100);
  records.away = true;
  reporter.answered("bob", answers(60));
  await new Promise((resolve) => setTimeout(resolve, 20));
  reporter.answered("bob", answers(60));
  reporter.delivered(
    "bob",
    answers(60).map(({ senderId, messageId: itemId }) => ({ senderId, itemId })),
  );
  expect(reporter.dropped).toBe(60);
  records.away = false;
  await reporter.close();
  expect(records.ids("acknowledged")).toEqual(ids(60));
  reporter.answered("bob", answers(100));
  await reporter.close();
  expect(records.ids("acknowledged")).toHaveLength(160);
});

test("a failure that is no outage is reported as a bug and not tried again", async () => {
  const records = new Records();
  const broken = { append: () => Promise.reject(new Error("broken")) };
  const reporter = new Reporter({
    ...records,
    receipts: broken,
    onBug: records.onBug,
    now: () => 1,
    counted: () => undefined,
  });
  reporter.answered("bob", answers(1));
  reporter.delivered("bob", [{ senderId: "sender", itemId: "0" }]);
  await reporter.close();
  expect(records.bugs).toHaveLength(2);
});
