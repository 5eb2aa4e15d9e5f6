/**
 * Tells that items were written to a response to their recipient's client. What is written to a stream, stream/reporter.ts tells.
 *
 * Promise: none is owed; `delivered` is a hint. When Kafka does not take it, it is counted and dropped, all of the response's items: they still wait, the next
 * response that brings them tells it, and an acknowledgement implies it.
 */
import { Unavailable } from "../../protocol/refusal.ts";
import type { Door, ReceiptItem } from "../../schemas/values.ts";
import { receiptEvents } from "../../streams/receipt-events.ts";
import type { Counted } from "./counters.ts";
import { API_SOURCE, type Appender } from "./events.ts";

export interface ReportDeliveredDeps {
  /** For receipts: a few milliseconds of lingering are fine. */
  readonly receipts: Appender;
  readonly counted: Counted;
  /** ms since the epoch. */
  readonly now: () => number;
}

/** Never throws because of Kafka. */
export async function reportDelivered(
  deps: ReportDeliveredDeps,
  recipientId: string,
  items: readonly { readonly senderId: string; readonly itemId: string }[],
  door: Door,
): Promise<void> {
  if (items.length === 0) return;
  const at = deps.now();
  const reports = deliveredItems(items, at, door);
  try {
    await deps.receipts.append(receiptEvents(API_SOURCE, recipientId, reports, at));
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    deps.counted("delivery_reports_lost", items.length);
  }
}

/** Deliveries as *acks* reads them. `at`: ms since the epoch. */
export function deliveredItems(
  items: readonly { readonly senderId: string; readonly itemId: string }[],
  at: number,
  door: Door,
): ReceiptItem[] {
  return items.map(({ senderId, itemId }) => ({ outcome: "delivered", senderId, itemId, at, door, code: null }));
}
