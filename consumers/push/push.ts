/**
 * Wakes agents that are not connected, at the devices they have registered.
 *
 * Reads   push.requested.v1 and its own push.retry.10s.v1, .30s.v1, .90s.v1, keyed by recipient: at least once.
 * Writes  wakes, without content and sender: one outstanding at a device until its agent comes, within its budget; once more after a crash or
 *         without Redis' memory. push.retry.* for devices that could not be woken; when none of an agent's is tried again, on message.receipt.v1,
 *         that what waits by then could not be announced. agent.changed.v1 for devices that are gone.
 * Keeps   outstanding wakes and budgets in Redis; takes devices away that their providers no longer know.
 * Refuses records under another key than their recipient, and such whose call is wrong in itself (a bug of ours).
 *
 * An agent without a device, or whose budget is spent, is not woken; its messages wait. While Redis is away nobody is woken: requests wait.
 */
import type { PushRequested, PushRetry } from "../../schemas/values.ts";
import { pushRequested, pushRetry10s, pushRetry30s, pushRetry90s } from "../../streams/catalogue.ts";
import type { PlainConsumer } from "../../streams/consumer.ts";
import { afterFailure, nextRound } from "./retries.ts";
import { createWaking, type WakingDeps } from "./waking.ts";
import { checkWake, stillWaiting, wantedBy } from "./wanted.ts";

export interface PushDeps extends WakingDeps {
  /** 0 to 1, for jitter. */
  readonly random: () => number;
}

/** A step takes 2,000 items: 40 records, so that it ends within seconds although each may stand for ten slow calls. */
const itemsPerRecord = 50;

export function push(deps: PushDeps): PlainConsumer<PushRequested | PushRetry> {
  const wakeAll = createWaking(deps);
  return {
    name: "push",
    reads: [pushRequested, pushRetry10s, pushRetry30s, pushRetry90s],
    check: checkWake,
    itemsOf: () => itemsPerRecord,
    dueAt: ({ value, timestamp }) => timestamp + ("delayMs" in value ? value.delayMs : 0),
    react: async (batch) => {
      const failed = await wakeAll(wantedBy(batch));
      return [
        ...stillWaiting(batch).map(nextRound),
        ...failed.flatMap((failure) => afterFailure(failure, deps.now(), deps.random)),
      ];
    },
  };
}
