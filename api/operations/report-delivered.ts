/**
 * Tells that items were written to an open connection or response of their recipient's client.
 *
 * Promise: none is owed; `delivered` is a hint. When Kafka does not take it, it is counted and dropped: the item still waits, and its
 * acknowledgement implies its delivery.
 */
import { Unavailable } from "../../protocol/refusal.ts";
import type { Door } from "../../schemas/values.ts";
import type { Counted } from "./counters.ts";
import { type Appender, receiptEvents } from "./events.ts";

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
  const reports = items.map(({ senderId, itemId }) => ({
    outcome: "delivered" as const,
    senderId,
    itemId,
    at,
    door,
    code: null,
  }));
  try {
    await deps.receipts.append(receiptEvents(recipientId, reports, at));
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    deps.counted("delivery_reports_lost", items.length);
  }
}
