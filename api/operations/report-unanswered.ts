/**
 * Sets aside what keeps ending its recipient's connections: an item that was the first on five of them, each of which ended without a goodbye and without
 * its answer.
 *
 * Only the first item of a connection counts: a client that fails over it comes no further, and what lies behind is innocent. It still waits, and may be
 * answered, evicted or expire; it is only not handed out any more, so that it does not block the mailbox. The count is a memory that may be lost
 * (Redis): then it takes five more.
 */
import { DAY_MS } from "../../protocol/limits.ts";
import { Unavailable } from "../../protocol/refusal.ts";
import type { Limit, LimitsDoor } from "../../store/limits.ts";
import { unlessAway } from "../../store/redis.ts";
import { receiptEvents } from "../../streams/receipt-events.ts";
import type { Counted } from "./counters.ts";
import { API_SOURCE, type Appender } from "./events.ts";

export interface ReportUnansweredDeps {
  readonly limits: LimitsDoor;
  /** For receipts: a few milliseconds of lingering are fine. */
  readonly receipts: Appender;
  readonly counted: Counted;
  /** ms since the epoch. */
  readonly now: () => number;
}

/** The fifth is one too many. A client that starts once a day and fails each time has its five within the week. */
const UNANSWERED: Limit = { name: "unanswered", points: 4, seconds: (7 * DAY_MS) / 1000 };

/** What was counted of an item is forgotten: it is tried again, and has its five connections again. Never throws because a server is away. */
export async function forgetUnanswered(
  { limits }: Pick<ReportUnansweredDeps, "limits">,
  item: { readonly recipientId: string; readonly senderId: string; readonly itemId: string },
): Promise<void> {
  await limits.forget(UNANSWERED, keyOf(item.recipientId, item));
}

function keyOf(recipientId: string, { senderId, itemId }: { readonly senderId: string; readonly itemId: string }) {
  return `${recipientId}:${senderId}:${itemId}`;
}

/** Never throws because a server is away: the connection after it counts again. */
export async function reportUnanswered(
  deps: ReportUnansweredDeps,
  recipientId: string,
  { senderId, itemId }: { readonly senderId: string; readonly itemId: string },
): Promise<void> {
  const allowance = await unlessAway(deps.limits.consume(UNANSWERED, keyOf(recipientId, { senderId, itemId })));
  if (allowance === null || allowance.allowed) return;
  const at = deps.now();
  const aside = { outcome: "aside", senderId, itemId, at, door: "stream", code: null } as const;
  try {
    await deps.receipts.append(receiptEvents(API_SOURCE, recipientId, [aside], at));
    deps.counted("items_set_aside", 1);
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
  }
}
