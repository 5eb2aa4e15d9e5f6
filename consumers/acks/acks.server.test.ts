import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import type {
  MessageAcknowledged,
  MessageDelivered,
  MessageDiscarded,
  MessageReceipt,
  Outcome,
  ReceiptItem,
} from "../../schemas/values.ts";
import { findMessages } from "../../store/messages.ts";
import type { Postgres } from "../../store/postgres.ts";
import type { Arrival } from "../../store/queuing.ts";
import { messageReceipt } from "../../streams/catalogue.ts";
import type { Emit, Inbound } from "../../streams/consumer.ts";
import { inStep, openSampleDatabase, placeAll, sampleAgentId, sampleArrival } from "../../tests/messaging.ts";
import { acks } from "./acks.ts";

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

function receipt(offset: number, recipientId: string, items: readonly ReceiptItem[]): Inbound<MessageReceipt> {
  const value = { recipientId, items };
  return {
    topic: messageReceipt,
    partition: 0,
    offset,
    key: recipientId,
    value,
    headers: {},
    timestamp: 1_000 + offset,
  };
}

function report(outcome: Outcome, { senderId, itemId }: Arrival, at: number, code: string | null = null): ReceiptItem {
  return { outcome, senderId, itemId, at, door: at % 2 === 0 ? "http" : "stream", code };
}

function apply(batch: readonly Inbound<MessageReceipt>[]): Promise<readonly Emit[]> {
  return inStep(postgres, (tx) => acks.step(batch, tx));
}

/** One step for each item. */
async function applyEach(recipientId: string, items: readonly ReceiptItem[]): Promise<readonly Emit[]> {
  const told: Emit[] = [];
  for (const [offset, item] of items.entries()) told.push(...(await apply([receipt(offset, recipientId, [item])])));
  return told;
}

type Told = Partial<MessageDelivered & MessageAcknowledged & MessageDiscarded>;

/** Short words for what was told, in order. */
function words(told: readonly Emit[]): string[] {
  return told.map((emit) => {
    const value = emit.value("00000000-0000-0000-0000-000000000000") as Told;
    if (value.code !== undefined) return `${value.code}@${value.discardedAt}`;
    if (value.acknowledgedAt !== undefined) return `acknowledged@${value.acknowledgedAt}`;
    return `delivered@${value.deliveredAt}`;
  });
}

async function waiting(recipientId: string): Promise<number> {
  const { rowCount } = await postgres.query({
    text: "SELECT FROM messaging_queue WHERE recipient_id = $1",
    values: [recipientId],
  });
  return rowCount ?? 0;
}

async function ended(recipientId: string): Promise<{ items: number; bytes: number }> {
  const { rows } = await postgres.query<{ items: number; bytes: number }>({
    text: "SELECT ended_items AS items, ended_bytes AS bytes FROM messaging_mailbox_ends WHERE recipient_id = $1",
    values: [recipientId],
  });
  return rows[0] ?? { items: 0, bytes: 0 };
}

const table: [law: string, reports: [Outcome, number][], told: string[], status: string][] = [
  ["a delivery is told, and the item waits", [["delivered", 1]], ["delivered@1"], "delivered"],
  [
    "a second delivery is no news",
    [
      ["delivered", 1],
      ["delivered", 2],
    ],
    ["delivered@1"],
    "delivered",
  ],
  [
    "an acknowledgement ends a delivered message",
    [
      ["delivered", 1],
      ["acknowledged", 2],
    ],
    ["delivered@1", "acknowledged@2"],
    "acknowledged",
  ],
  [
    "an acknowledgement alone counts as the delivery as well",
    [["acknowledged", 2]],
    ["delivered@2", "acknowledged@2"],
    "acknowledged",
  ],
  [
    "a delivery after the acknowledgement is no news",
    [
      ["acknowledged", 2],
      ["delivered", 1],
    ],
    ["delivered@2", "acknowledged@2"],
    "acknowledged",
  ],
  [
    "a second acknowledgement is no news",
    [
      ["acknowledged", 2],
      ["acknowledged", 3],
    ],
    ["delivered@2", "acknowledged@2"],
    "acknowledged",
  ],
  ["a refusal ends a message and does not make it delivered", [["refused", 2]], ["refused@2"], "refused"],
  [
    "a delivered message can be refused",
    [
      ["delivered", 1],
      ["refused", 2],
    ],
    ["delivered@1", "refused@2"],
    "refused",
  ],
  [
    "the first end wins: refused",
    [
      ["refused", 2],
      ["acknowledged", 3],
    ],
    ["refused@2"],
    "refused",
  ],
  [
    "the first end wins: acknowledged",
    [
      ["acknowledged", 2],
      ["refused", 3],
      ["expired", 4],
    ],
    ["delivered@2", "acknowledged@2"],
    "acknowledged",
  ],
  [
    "eviction ends a message",
    [
      ["evicted", 2],
      ["acknowledged", 3],
    ],
    ["evicted@2"],
    "evicted",
  ],
  [
    "expiry ends a message",
    [
      ["delivered", 1],
      ["expired", 2],
    ],
    ["delivered@1", "expired@2"],
    "expired",
  ],
  [
    "deletion ends a message",
    [
      ["deleted", 2],
      ["evicted", 3],
    ],
    ["deleted@2"],
    "deleted",
  ],
  [
    "undeliverable and aside are marks: the message goes on",
    [
      ["undeliverable", 1],
      ["aside", 2],
      ["acknowledged", 3],
    ],
    ["delivered@3", "acknowledged@3"],
    "acknowledged",
  ],
];

for (const [law, reports, told, status] of table) {
  test(`${law}, in one step or in several`, async () => {
    for (const steps of ["one", "several"]) {
      const message = sampleArrival();
      await placeAll(postgres, [message]);
      const items = reports.map(([outcome, at]) => report(outcome, message, at));
      const emits =
        steps === "one"
          ? await apply(items.map((item, offset) => receipt(offset, message.recipientId, [item])))
          : await applyEach(message.recipientId, items);
      expect(words(emits)).toEqual(told);
      const [found] = await findMessages(postgres, [{ senderId: message.senderId, messageId: message.itemId }]);
      expect(found?.status).toBe(status);
      const hasEnded = status !== "delivered";
      expect(await waiting(message.recipientId)).toBe(hasEnded ? 0 : 1);
      expect(await ended(message.recipientId)).toEqual(
        hasEnded ? { items: 1, bytes: message.body.length } : { items: 0, bytes: 0 },
      );
    }
  });
}

test("delivered and acknowledged carry the message's facts, each with its own door and cause", async () => {
  const message = sampleArrival({ sendCounter: 7, size: 33, custody: "server", acceptedAt: 5 });
  const [placement] = await placeAll(postgres, [message]);
  if (placement?.outcome !== "stored") throw new Error("the message was not stored");
  const batch = [
    receipt(10, message.recipientId, [report("delivered", message, 1)]),
    receipt(11, message.recipientId, [report("acknowledged", message, 2)]),
  ];
  const [delivered, acknowledged, ...others] = await apply(batch);
  expect(others).toEqual([]);
  const facts = {
    eventId: "some-event",
    messageId: message.itemId,
    senderId: message.senderId,
    recipientId: message.recipientId,
    sessionId: Buffer.from(message.sessionId),
    sendCounter: 7,
    seq: 1,
    size: 33,
    acceptedAt: 5,
    queuedAt: placement.at,
    deliveredAt: 1,
    custody: "server",
  };
  const subject = `${message.senderId}/${message.itemId}`;
  expect(delivered).toMatchObject({ key: message.recipientId, cause: { offset: 10 }, time: 1, subject });
  expect(delivered?.value("some-event")).toEqual({ ...facts, door: "stream" });
  expect(acknowledged).toMatchObject({ key: message.recipientId, cause: { offset: 11 }, time: 2, subject });
  expect(acknowledged?.value("some-event")).toEqual({ ...facts, door: "http", acknowledgedAt: 2 });
});

test("a refusal is discarded with the recipient's code as detail", async () => {
  const message = sampleArrival();
  await placeAll(postgres, [message]);
  const [discarded] = await apply([receipt(3, message.recipientId, [report("refused", message, 4, "auth-failed")])]);
  expect(discarded?.value("some-event")).toEqual({
    eventId: "some-event",
    messageId: message.itemId,
    senderId: message.senderId,
    recipientId: message.recipientId,
    code: "refused",
    detail: "auth-failed",
    digest: null,
    discardedAt: 4,
  });
  const [found] = await findMessages(postgres, [{ senderId: message.senderId, messageId: message.itemId }]);
  expect(found).toMatchObject({ status: "refused", code: "auth-failed", endedAt: 4, deliveredAt: null });
});

test("somebody else's answer changes nothing", async () => {
  const message = sampleArrival();
  await placeAll(postgres, [message]);
  const other = sampleAgentId();
  expect(
    await apply([receipt(1, other, [report("delivered", message, 1), report("acknowledged", message, 2)])]),
  ).toEqual([]);
  expect(await waiting(message.recipientId)).toBe(1);
  expect(await ended(other)).toEqual({ items: 0, bytes: 0 });
});

test("an answer to what was never stored changes nothing", async () => {
  const message = sampleArrival();
  expect(await apply([receipt(1, message.recipientId, [report("acknowledged", message, 2)])])).toEqual([]);
  expect(await ended(message.recipientId)).toEqual({ items: 0, bytes: 0 });
});

test("a retry request ends without a word on the public topics", async () => {
  const retry = sampleArrival({ kind: "retry" });
  await placeAll(postgres, [retry]);
  const told = await applyEach(retry.recipientId, [report("delivered", retry, 1), report("acknowledged", retry, 2)]);
  expect(told).toEqual([]);
  expect(await waiting(retry.recipientId)).toBe(0);
  expect(await ended(retry.recipientId)).toEqual({ items: 1, bytes: retry.body.length });
});

test("marks are kept: aside in the mailbox, undeliverable with the message, the first of each", async () => {
  const message = sampleArrival();
  await placeAll(postgres, [message]);
  await applyEach(message.recipientId, [
    report("aside", message, 1),
    report("aside", message, 2),
    report("undeliverable", message, 3),
    report("undeliverable", message, 4),
  ]);
  const { rows } = await postgres.query({
    text: `SELECT q.aside_at, m.undeliverable_at, m.outcome FROM messaging_queue q
           JOIN messaging_messages m ON m.sender_id = q.sender_id AND m.message_id = q.item_id WHERE q.recipient_id = $1`,
    values: [message.recipientId],
  });
  expect(rows).toEqual([{ aside_at: 1, undeliverable_at: 3, outcome: null }]);
});

test("however receipts fall into records and steps, the same is told of each message, and the mailbox adds up", async () => {
  const outcomes = ["delivered", "acknowledged", "refused", "evicted", "undeliverable", "aside"] as const;
  const item = fc.record({ message: fc.nat({ max: 5 }), outcome: fc.constantFrom(...outcomes) });
  const steps = fc.array(fc.array(fc.array(item, { minLength: 1, maxLength: 4 }), { maxLength: 4 }), { maxLength: 5 });
  await fc.assert(
    fc.asyncProperty(steps, async (script) => {
      const recipients = [sampleAgentId(), sampleAgentId()] as const;
      const messages = Array.from({ length: 6 }, (_, n) => sampleArrival({ recipientId: recipients[n < 3 ? 0 : 1] }));
      await placeAll(postgres, messages);
      const model = messages.map((): { delivered: boolean; told: string[]; end: string | null } => ({
        delivered: false,
        told: [],
        end: null,
      }));
      const told = messages.map((): string[] => []);
      let at = 0;
      for (const step of script) {
        const batch: Inbound<MessageReceipt>[] = [];
        for (const record of step) {
          for (const recipientId of recipients) {
            const items = record.filter(({ message }) => messages[message]?.recipientId === recipientId);
            if (items.length === 0) continue;
            const reports = items.map(({ message, outcome }) => {
              at += 1;
              expectInModel(model[message], outcome, at);
              return report(outcome, messages[message] ?? sampleArrival(), at);
            });
            batch.push(receipt(batch.length, recipientId, reports));
          }
        }
        for (const emit of await apply(batch)) {
          const index = messages.findIndex(({ senderId, itemId }) => emit.subject === `${senderId}/${itemId}`);
          told[index]?.push(...words([emit]));
        }
      }
      expect(told).toEqual(model.map((message) => message.told));
      for (const recipientId of recipients) {
        const gone = messages.filter((message, n) => message.recipientId === recipientId && model[n]?.end !== null);
        expect(await waiting(recipientId)).toBe(3 - gone.length);
        expect(await ended(recipientId)).toEqual({
          items: gone.length,
          bytes: gone.reduce((bytes, { body }) => bytes + body.length, 0),
        });
      }
    }),
    { numRuns: 60 },
  );
});

/** What must come of a report, item by item. */
function expectInModel(
  message: { delivered: boolean; told: string[]; end: string | null } | undefined,
  outcome: Outcome,
  at: number,
): void {
  if (message === undefined || message.end !== null || outcome === "undeliverable" || outcome === "aside") return;
  if ((outcome === "delivered" || outcome === "acknowledged") && !message.delivered) {
    message.delivered = true;
    message.told.push(`delivered@${at}`);
  }
  if (outcome === "delivered") return;
  message.end = outcome;
  message.told.push(`${outcome}@${at}`);
}
