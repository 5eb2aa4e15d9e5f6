/** The first contact with a service that may be starting beside its agents. */
import { ServiceUnavailable } from "./errors.ts";
import { Backoff, delay } from "./patience.ts";

/** So often, over some ten seconds. */
const TRIES_MAX = 6;
const RETRY_MS = { firstMs: 250, lastMs: 5_000 };

/** Tries again while the service cannot be reached. Throws what `contact` throws, and the signal's reason. */
export async function firstContact<T>(contact: () => Promise<T>, signal: AbortSignal): Promise<T> {
  const backoff = new Backoff(RETRY_MS);
  for (let tries = 1; ; tries++) {
    try {
      return await contact();
    } catch (error) {
      if (!(error instanceof ServiceUnavailable) || tries === TRIES_MAX) throw error;
      await delay(backoff.next(error.retryAfterMs ?? 0), signal);
    }
  }
}
