/**
 * The same thing again while the world is at fault: nothing advances, nothing is lost, and readiness says so.
 */
import type pino from "pino";
import { Unavailable } from "../protocol/refusal.ts";
import { backoffMs, pause } from "./backoff.ts";

/** The wait was ended from outside: the caller gives up what it was about, quietly. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
}

export interface Patience {
  /** Has somebody found a server to be away, and not come through since? While the same is tried again, too. */
  readonly waiting: boolean;
  /** When a server was last found to be away, as `performance.now()` tells it; 0 when none ever was. */
  readonly awayAt: number;
  /**
   * Runs `work` until it does not throw `Unavailable`; other errors leave at once. Rejects with `Interrupted` when `signal` is aborted
   * while it waits.
   */
  persist<Result>(work: () => Promise<Result>, signal: AbortSignal): Promise<Result>;
}

export function createPatience(
  log: pino.Logger,
  onRetry: (door: string) => void,
  waitMs: (attempt: number) => number = backoffMs,
): Patience {
  let waiting = 0;
  let awayAt = 0;
  return {
    get waiting() {
      return waiting > 0;
    },
    get awayAt() {
      return awayAt;
    },
    async persist(work, signal) {
      let hasFailed = false;
      try {
        for (let attempt = 0; ; attempt++) {
          try {
            return await work();
          } catch (error) {
            if (!(error instanceof Unavailable)) throw error;
            awayAt = performance.now();
            if (signal.aborted) throw new Interrupted();
            log.warn({ err: error, attempt }, "a server is away; the same again after a pause");
            onRetry(error.door);
          }
          if (!hasFailed) waiting++;
          hasFailed = true;
          await pause(waitMs(attempt), signal);
          if (signal.aborted) throw new Interrupted();
        }
      } finally {
        if (hasFailed) waiting--;
      }
    },
  };
}
