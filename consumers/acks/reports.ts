/**
 * What a step's receipts say of each item, folded into one change for each. Pure.
 *
 * The first delivery and the first end of an item win; what is reported after its end counts for nothing.
 */
import { Refusal } from "../../protocol/refusal.ts";
import type { Door, MessageReceipt, ReceiptItem } from "../../schemas/values.ts";
import type { Change, End } from "../../store/acks.ts";
import type { Inbound } from "../../streams/consumer.ts";

/** Architecture §3. More, and one record would hold up the partition's step. */
const itemsMax = 256;

/** A report that won: where it was made, and in which record. */
export interface Origin {
  readonly record: Inbound<MessageReceipt>;
  readonly door: Door;
}

export interface Report extends Change {
  readonly delivery: Origin | null;
  readonly ending: Origin | null;
}

/** @throws Refusal */
export function checkReceipt({ key, value }: Inbound<MessageReceipt>): void {
  if (key !== value.recipientId) throw new Refusal("item-mismatch");
  if (value.items.length > itemsMax) throw new Refusal("too-many");
}

/** One report for each item, in the order in which the items first appear. */
export function foldReceipts(batch: readonly Inbound<MessageReceipt>[]): readonly Report[] {
  const reports = new Map<string, Report>();
  for (const record of batch) {
    const { recipientId, items } = record.value;
    for (const item of items) {
      const key = `${recipientId}/${item.senderId}/${item.itemId}`;
      const before = reports.get(key) ?? blank(recipientId, item);
      reports.set(key, before.end === null ? withItem(before, item, { record, door: item.door }) : before);
    }
  }
  return [...reports.values()];
}

function blank(recipientId: string, { senderId, itemId }: ReceiptItem): Report {
  const nothing = { deliveredAt: null, undeliverableAt: null, asideAt: null, end: null, delivery: null, ending: null };
  return { recipientId, senderId, itemId, ...nothing };
}

function withItem(report: Report, { outcome, at, code }: ReceiptItem, origin: Origin): Report {
  switch (outcome) {
    case "delivered":
      return report.deliveredAt === null ? { ...report, deliveredAt: at, delivery: origin } : report;
    case "undeliverable":
      return { ...report, undeliverableAt: report.undeliverableAt ?? at };
    case "aside":
      return { ...report, asideAt: report.asideAt ?? at };
    default:
      return { ...report, end: { outcome: outcome satisfies End, at, code }, ending: origin };
  }
}
