/**
 * Ends what has waited for 30 days.
 *
 * Reads   mailbox items that have expired, the oldest first, a page at a time.
 * Writes  message.receipt.v1: `expired` for each. Acks ends it, unless it has ended otherwise before.
 * Keeps   nothing: what was asked for and has not ended yet is asked for again in the next turn, which changes nothing.
 */
import type { MessageReceipt, ReceiptItem } from "../schemas/values.ts";
import { type ExpiredItem, type ExpiryPlace, findExpired } from "../store/expiry.ts";
import type { Postgres } from "../store/postgres.ts";
import type { NewEvent } from "../streams/headers.ts";
import { receiptEvents } from "../streams/receipt-events.ts";

/** Every minute. */
export const expiryCron = "* * * * *";

/** A page: a statement of a few milliseconds, and some 60 KB of receipts. */
const PAGE_MAX = 1_000;

export interface ExpiryDeps {
  readonly postgres: Postgres;
  /** Resolves when Kafka has them. Throws `Unavailable`. */
  readonly append: (events: readonly NewEvent<MessageReceipt>[]) => Promise<void>;
}

/** One turn of the clock. `now` in ms since the epoch. Throws `Unavailable`: the next turn begins again. */
export async function expireItems({ postgres, append }: ExpiryDeps, now: number, signal: AbortSignal): Promise<void> {
  let after: ExpiryPlace | null = null;
  while (!signal.aborted) {
    const { items, next }: Awaited<ReturnType<typeof findExpired>> = await findExpired(postgres, now, after, PAGE_MAX);
    if (items.length > 0) await append(eventsOf(items, now));
    if (next === null) return;
    after = next;
  }
}

function eventsOf(items: readonly ExpiredItem[], now: number): NewEvent<MessageReceipt>[] {
  const ofMailbox = Map.groupBy(items, ({ recipientId }) => recipientId);
  return [...ofMailbox].flatMap(([recipientId, expired]) =>
    receiptEvents(
      "/sealpost/jobs",
      recipientId,
      expired.map((item) => reportOf(item, now)),
      now,
    ),
  );
}

function reportOf({ senderId, itemId }: ExpiredItem, at: number): ReceiptItem {
  return { outcome: "expired", senderId, itemId, at, door: "none", code: null };
}
