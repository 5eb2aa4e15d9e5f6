/**
 * One repair of kafkajs 2.2.4, whose request queue sets a timer with a negative delay after every answer although nothing waits: Node 24
 * and later print a TimeoutNegativeWarning for it (tulios/kafkajs#1751), and the timer costs more than the answer.
 */
import { createRequire } from "node:module";

interface RequestQueue {
  readonly pending: readonly unknown[];
  readonly throttledUntil: number;
  throttleCheckTimeoutId: NodeJS.Timeout | null;
  checkPendingRequests(): void;
  scheduleCheckPendingRequests(): void;
}

/** How soon a waiting request is looked at again; kafkajs's own figure. */
const checkAgainMs = 10;

/** Idempotent. */
export function quietRequestQueue(): void {
  const load = createRequire(import.meta.url);
  const queue: { readonly prototype: RequestQueue } = load("kafkajs/src/network/requestQueue");
  queue.prototype.scheduleCheckPendingRequests = schedule;
}

/** What the original does, where there is something to do. */
function schedule(this: RequestQueue): void {
  if (this.throttleCheckTimeoutId !== null || this.pending.length === 0) return;
  const throttledMs = this.throttledUntil - Date.now();
  this.throttleCheckTimeoutId = setTimeout(
    () => {
      this.throttleCheckTimeoutId = null;
      this.checkPendingRequests();
    },
    throttledMs > 0 ? throttledMs : checkAgainMs,
  );
}
