import { expect, test } from "vitest";
import { Refusal } from "../../protocol/refusal.ts";
import type { MessageReceipt, ReceiptItem } from "../../schemas/values.ts";
import { messageReceipt } from "../../streams/catalogue.ts";
import type { Inbound } from "../../streams/consumer.ts";
import { sampleAgentId, sampleItemId } from "../../tests/messaging.ts";
import { checkReceipt } from "./reports.ts";

const now = Date.UTC(2026, 5, 1);
const recipientId = sampleAgentId();
const item: ReceiptItem = {
  ...{ outcome: "delivered", senderId: sampleAgentId(), itemId: sampleItemId(now), at: now, door: "http", code: null },
};
const again = { senderId: item.senderId, itemId: item.itemId, at: now };
const range = { afterSeq: 0, untilSeq: 9, at: now };

function receipt(fields: Partial<MessageReceipt>, key = fields.recipientId ?? recipientId): Inbound<MessageReceipt> {
  const value = { recipientId, items: [item], undeliverable: range, retried: [again], ...fields };
  return { topic: messageReceipt, partition: 0, offset: 0, key, value, headers: {}, timestamp: now };
}

test("a report is of a mailbox, of senders and of times", () => {
  expect(() => checkReceipt(receipt({}))).not.toThrow();
  expect(() => checkReceipt(receipt({ undeliverable: null, retried: null }))).not.toThrow();
});

const late = 8_640_000_000_000_001;
const nobody = item.senderId.repeat(70);

test.each<[what: string, fields: Partial<MessageReceipt>]>([
  ["a time of an item", { items: [item, { ...item, at: late }] }],
  ["a time before there were any", { items: [{ ...item, at: -1 }] }],
  ["the time of a range", { undeliverable: { ...range, at: late } }],
  ["the time of a retry", { retried: [{ ...again, at: late }] }],
  ["a sender of an item", { items: [{ ...item, senderId: nobody }] }],
  ["a sender of a retry", { retried: [{ ...again, senderId: "" }] }],
  ["a recipient", { recipientId: nobody }],
])("%s that is none is refused, and the record with it", (_, fields) => {
  expect(() => checkReceipt(receipt(fields))).toThrow(Refusal);
});
