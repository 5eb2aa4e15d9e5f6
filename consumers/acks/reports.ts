/**
 * What a step's receipts say of each item, folded into one change for each. Pure.
 *
 * The first delivery and the first end of an item win; what is reported after its end counts for nothing, and so does that a delivered item could not
 * be announced. What is tried again stands apart: it takes marks that stood before it, and none that come behind.
 */
import { isAgentId } from "../../protocol/identity.ts";
import { Refusal } from "../../protocol/refusal.ts";
import { isTimestamp } from "../../protocol/timestamp.ts";
import type { Door, MessageReceipt, ReceiptItem } from "../../schemas/values.ts";
import type { Change, End } from "../../store/acks.ts";
import type { Inbound } from "../../streams/consumer.ts";
import { RECEIPT_ITEMS_MAX } from "../../streams/receipt-events.ts";

/** A report that won: where it was made, in which record, and its place among all reports of the step. */
export interface Origin {
  readonly record: Inbound<MessageReceipt>;
  readonly place: number;
  readonly door: Door;
}

export interface Report extends Change {
  readonly delivery: Origin | null;
  readonly failure: Origin | null;
  readonly ending: Origin | null;
  /** Where it was set aside. */
  readonly settingAside: Origin | null;
}

/** @throws Refusal */
export function checkReceipt({ key, value }: Inbound<MessageReceipt>): void {
  if (key !== value.recipientId) throw new Refusal("item-mismatch");
  if (Math.max(value.items.length, value.retried?.length ?? 0) > RECEIPT_ITEMS_MAX) throw new Refusal("too-many");
  const { recipientId, items, retried, undeliverable } = value;
  const reports = [...items, ...(retried ?? [])];
  const isSound =
    isAgentId(recipientId) &&
    reports.every(({ senderId, at }) => isAgentId(senderId) && isTimestamp(at)) &&
    (!undeliverable || isTimestamp(undeliverable.at));
  if (!isSound) throw new Refusal("malformed");
}

/** An item that is tried again, and the record that says so. */
export interface RetryReport {
  readonly recipientId: string;
  readonly senderId: string;
  readonly itemId: string;
  readonly at: number;
  readonly record: Inbound<MessageReceipt>;
}

/** Of each item that is tried again the first report. */
export function retriesOf(batch: readonly Inbound<MessageReceipt>[]): readonly RetryReport[] {
  const retries = new Map<string, RetryReport>();
  for (const record of batch) {
    const { recipientId, retried } = record.value;
    for (const item of retried ?? []) {
      const key = `${recipientId}/${item.senderId}/${item.itemId}`;
      if (!retries.has(key)) retries.set(key, { recipientId, ...item, record });
    }
  }
  return [...retries.values()];
}

/**
 * The batch, cut where something is reported behind a retry: a mark from before it goes, one from behind it stays. Rarely more than one part.
 */
export function partsOf(batch: readonly Inbound<MessageReceipt>[]): readonly (readonly Inbound<MessageReceipt>[])[] {
  const parts: Inbound<MessageReceipt>[][] = [];
  let hasRetries = false;
  for (const record of batch) {
    const { items, retried } = record.value;
    if (parts.length === 0 || (hasRetries && items.length > 0)) {
      parts.push([]);
      hasRetries = false;
    }
    parts.at(-1)?.push(record);
    hasRetries ||= (retried?.length ?? 0) > 0;
  }
  return parts;
}

/** One report for each item. */
export function foldReceipts(batch: readonly Inbound<MessageReceipt>[]): readonly Report[] {
  const reports = new Map<string, Report>();
  let place = 0;
  for (const record of batch) {
    const { recipientId, items } = record.value;
    for (const item of items) {
      const key = `${recipientId}/${item.senderId}/${item.itemId}`;
      const before = reports.get(key) ?? blank(recipientId, item);
      const origin = { record, place: place++, door: item.door };
      reports.set(key, before.end === null ? withItem(before, item, origin) : before);
    }
  }
  return [...reports.values()];
}

function blank(recipientId: string, { senderId, itemId }: ReceiptItem): Report {
  const nothing = { deliveredAt: null, undeliverableAt: null, asideAt: null, end: null };
  const origins = { delivery: null, failure: null, ending: null, settingAside: null };
  return { recipientId, senderId, itemId, ...nothing, ...origins };
}

function withItem(report: Report, { outcome, at, code }: ReceiptItem, origin: Origin): Report {
  switch (outcome) {
    case "delivered":
      return report.deliveredAt === null ? { ...report, deliveredAt: at, delivery: origin } : report;
    case "undeliverable":
      if (report.undeliverableAt !== null || report.deliveredAt !== null) return report;
      return { ...report, undeliverableAt: at, failure: origin };
    case "aside":
      return report.asideAt === null ? { ...report, asideAt: at, settingAside: origin } : report;
    default:
      return { ...report, end: { outcome: outcome satisfies End, at, code }, ending: origin };
  }
}
