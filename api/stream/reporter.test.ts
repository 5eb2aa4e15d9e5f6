import { expect, test, vi } from "vitest";
import { Unavailable } from "../../protocol/refusal.ts";
import type { StreamItemId } from "../../protocol/stream-frames.ts";
import type { MessageReceipt } from "../../schemas/values.ts";
import type { NewEvent } from "../../streams/headers.ts";
import type { Answer } from "../operations/acknowledge.ts";
import type { Counter } from "../operations/counters.ts";
import { Reporter } from "./reporter.ts";

/** Kafka that takes records, or does not. */
class Records {
  away = false;
  /** What an append waits for before it is answered, by agent. */
  readonly slow = new Map<string, Promise<void>>();
  readonly taken: MessageReceipt[] = [];
  readonly refused: MessageReceipt[] = [];
  readonly bugs: unknown[] = [];
  readonly receipts = {
    append: async (events: readonly NewEvent<unknown>[]) => {
      const records = events.map(({ value }) => value as MessageReceipt);
      const { away } = this;
      (away ? this.refused : this.taken).push(...records);
      for (const { recipientId } of records) await this.slow.get(recipientId);
      if (away) throw new Unavailable("kafka");
    },
  };
  readonly counts = new Map<Counter, number>();
  readonly counted = (counter: Counter, count: number) => {
    this.counts.set(counter, (this.counts.get(counter) ?? 0) + count);
  };
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

function deliveries(count: number, from = 0): StreamItemId[] {
  return answers(count, from).map(({ senderId, messageId: itemId }) => ({ senderId, itemId }));
}

const ids = (count: number) => answers(count).map(({ messageId }) => messageId);

test("reports of one turn leave in one record for each agent, in the order in which they were made", async () => {
  const records = new Records();
  const reporter = new Reporter(records);
  reporter.delivered("bob", deliveries(20));
  for (const answer of answers(20)) reporter.answered("bob", [answer]);
  reporter.delivered("bob", deliveries(2, 20));
  reporter.answered("carol", answers(1));
  await reporter.close();
  expect(records.taken.map(({ recipientId, items }) => [recipientId, items.length])).toEqual([
    ["bob", 42],
    ["carol", 1],
  ]);
  const outcomes = records.taken[0]?.items.map(({ outcome }) => outcome);
  expect(outcomes).toEqual([
    ...Array.from({ length: 20 }, () => "delivered"),
    ...Array.from({ length: 20 }, () => "acknowledged"),
    ...["delivered", "delivered"],
  ]);
  expect(records.ids("delivered")).toEqual(ids(22));
  expect(records.counts.get("answers_accepted")).toBe(21);
});

test("a record has at most 256 items and an append four of them, and a full one does not linger", async () => {
  const records = new Records();
  const reporter = new Reporter(records);
  reporter.answered("bob", answers(1_200));
  expect(records.taken.map(({ items }) => items.length)).toEqual([256, 256, 256, 256]);
  await reporter.close();
  expect(records.taken.map(({ items }) => items.length)).toEqual([256, 256, 256, 256, 176]);
  expect(records.ids("acknowledged")).toEqual(ids(1_200));
});

test("a delivery that Kafka does not take at once is told before everything that is said of the agent's items later", async () => {
  const records = new Records();
  const reporter = new Reporter(records);
  records.away = true;
  reporter.delivered("bob", deliveries(2));
  await vi.waitFor(() => expect(records.refused).not.toEqual([]));
  records.away = false;
  reporter.delivered("bob", deliveries(1, 2));
  // To and fro once more, now with an answer between the deliveries.
  reporter.answered("bob", answers(1));
  await vi.waitFor(() => expect(records.taken).not.toEqual([]));
  records.away = true;
  reporter.delivered("bob", deliveries(1, 3));
  await vi.waitFor(() => expect(records.refused).toHaveLength(2));
  records.away = false;
  reporter.answered("bob", answers(3, 1));
  await reporter.close();
  const said = records.taken.flatMap(({ items }) => items.map(({ outcome, itemId }) => `${outcome} ${itemId}`));
  expect(said).toEqual([
    ...["delivered 0", "delivered 1", "delivered 2", "acknowledged 0", "delivered 3"],
    ...["acknowledged 1", "acknowledged 2", "acknowledged 3"],
  ]);
});

test("what was said tells when it was said, not when Kafka took it", async () => {
  const records = new Records();
  let now = 1_000;
  const reporter = new Reporter({ ...records, now: () => now });
  records.away = true;
  reporter.delivered("bob", deliveries(1));
  await vi.waitFor(() => expect(records.refused).not.toEqual([]));
  [now, records.away] = [2_000, false];
  await reporter.close();
  expect(records.taken.map(({ items }) => items[0]?.at)).toEqual([1_000]);
});

test("an agent's answers reach Kafka in the order in which they came, also those that it did not take at once", async () => {
  const records = new Records();
  const reporter = new Reporter(records);
  records.away = true;
  reporter.answered("bob", answers(300));
  await vi.waitFor(() => expect(records.refused).not.toEqual([]));
  records.away = false;
  reporter.answered("bob", [{ senderId: "sender", messageId: "0", outcome: "refused", code: "auth-failed" }]);
  reporter.answered("carol", answers(1));
  // Longer than answers linger, shorter than what failed waits.
  await vi.waitFor(() => expect(records.taken.map(({ recipientId }) => recipientId)).toContain("carol"));
  reporter.answered("bob", answers(300, 300));
  await reporter.close();
  const bobs = records.taken.filter(({ recipientId }) => recipientId === "bob").flatMap(({ items }) => items);
  expect(bobs.map(({ itemId }) => itemId)).toEqual([...ids(300), "0", ...ids(600).slice(300)]);
  expect(bobs.find(({ itemId }) => itemId === "0")?.outcome).toBe("acknowledged");
});

test("while an append is under way the agent's next ones wait, and nobody else's", async () => {
  const records = new Records();
  const reporter = new Reporter(records);
  const answered = Promise.withResolvers<void>();
  records.slow.set("bob", answered.promise);
  reporter.answered("bob", answers(256));
  reporter.answered("bob", answers(256, 256));
  reporter.answered("carol", answers(1));
  reporter.delivered("bob", deliveries(1));
  await vi.waitFor(() => expect(records.taken).toHaveLength(2));
  await new Promise((resolve) => setTimeout(resolve, 60));
  expect(records.taken.map(({ recipientId, items }) => [recipientId, items[0]?.outcome])).toEqual([
    ["bob", "acknowledged"],
    ["carol", "acknowledged"],
  ]);
  answered.resolve();
  await reporter.close();
  expect(records.taken.map(({ items }) => items.length)).toEqual([256, 1, 256, 1]);
});

test("what Kafka does not take is tried again, together", async () => {
  const records = new Records();
  const reporter = new Reporter(records);
  records.away = true;
  for (const answer of answers(30)) {
    reporter.answered("bob", [answer]);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  reporter.delivered("bob", deliveries(1, 30));
  records.away = false;
  await vi.waitFor(() => expect(records.ids("delivered")).toEqual(["30"]), 2_000);
  expect(records.ids("acknowledged")).toEqual(ids(30));
  expect(records.taken.length).toBeLessThan(4);
  await reporter.close();
});

test("what waits for Kafka is bounded, deliveries to half of it; what is lost is counted, and room that is free again is used", async () => {
  const records = new Records();
  const reporter = new Reporter(records, 100);
  records.away = true;
  expect(reporter.delivered("bob", deliveries(40))).toBe(true);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(reporter.delivered("bob", deliveries(11, 40))).toBe(false);
  reporter.answered("bob", answers(60));
  reporter.answered("bob", answers(1, 60));
  expect(records.counts.get("delivery_reports_lost")).toBe(11);
  expect(reporter.dropped).toBe(1);
  records.away = false;
  await reporter.close();
  expect(records.ids("delivered")).toEqual(ids(40));
  expect(records.ids("acknowledged")).toEqual(ids(60));
  expect(reporter.delivered("bob", deliveries(50))).toBe(true);
  reporter.answered("bob", answers(50));
  await reporter.close();
  expect(records.ids("acknowledged")).toHaveLength(110);
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
  reporter.delivered("carol", deliveries(1));
  await reporter.close();
  expect(records.bugs).toHaveLength(2);
});
