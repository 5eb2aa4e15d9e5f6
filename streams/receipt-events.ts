/**
 * Commands to acks from outside a step: what became of items of one mailbox, in as few records as there can be.
 */
import { randomUUID } from "node:crypto";
import type { MessageReceipt, ReceiptItem, RetriedItem } from "../schemas/values.ts";
import { messageReceipt } from "./catalogue.ts";
import type { NewEvent } from "./headers.ts";

/** Items of a record: it stays far below the limit of a request, and a step's share of items fair. */
export const RECEIPT_ITEMS_MAX = 256;

/** Each has a random id, kept through retries. `source`: `ce_source`; `time`: ms since the epoch. */
export function receiptEvents(
  source: string,
  recipientId: string,
  items: readonly ReceiptItem[],
  time: number,
): NewEvent<MessageReceipt>[] {
  return receiptRecords(recipientId, items).map((value) => eventOf(source, value, time));
}

/** Commands that the items lose their marks. Otherwise as `receiptEvents`. */
export function retriedEvents(
  source: string,
  recipientId: string,
  items: readonly RetriedItem[],
  time: number,
): NewEvent<MessageReceipt>[] {
  return slices(items).map((retried) => eventOf(source, { recipientId, items: [], retried }, time));
}

function eventOf(source: string, value: MessageReceipt, time: number): NewEvent<MessageReceipt> {
  const { recipientId } = value;
  return { topic: messageReceipt, key: recipientId, id: randomUUID(), source, subject: recipientId, time, value };
}

/** The items, cut into records. */
export function receiptRecords(recipientId: string, items: readonly ReceiptItem[]): MessageReceipt[] {
  return slices(items).map((some) => ({ recipientId, items: some }));
}

function slices<Item>(items: readonly Item[]): readonly (readonly Item[])[] {
  const parts: (readonly Item[])[] = [];
  for (let start = 0; start < items.length; start += RECEIPT_ITEMS_MAX) {
    parts.push(items.slice(start, start + RECEIPT_ITEMS_MAX));
  }
  return parts;
}
