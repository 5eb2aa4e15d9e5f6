/**
 * How long to wait before the same thing is tried again.
 */

const firstMs = 100;
/** Longer would show after an outage: everybody waits for the slowest. */
const lastMs = 5_000;

/** Doubles from 100 ms to 5 s, each between half and whole, so that those who failed together do not come back together. */
export function backoffMs(attempt: number, random: () => number = Math.random): number {
  const whole = Math.min(lastMs, firstMs * 2 ** Math.min(attempt, 16));
  return whole * (0.5 + 0.5 * random());
}

/** Sleeps; ends early when `signal` is aborted. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal?.addEventListener("abort", end);
  });
}

/** Resolves when the signal is aborted. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/**
 * Waits for `work` or until the signal is aborted. Leaves nothing behind on the signal, which may outlive many waits. Rejects as `work` does; how it ends when it is not waited
 * for any more is nobody's business.
 */
export async function unlessAborted(work: Promise<unknown>, signal: AbortSignal): Promise<void> {
  if (signal.aborted) {
    work.catch(() => undefined);
    return;
  }
  const over = Promise.withResolvers<void>();
  const end = () => over.resolve();
  signal.addEventListener("abort", end);
  try {
    await Promise.race([work, over.promise]);
  } finally {
    signal.removeEventListener("abort", end);
  }
}

/** Waits for `work`, but not longer than `ms`; what it does after that is not waited for. Rejects as `work` does. */
export async function within(ms: number, work: Promise<unknown>): Promise<void> {
  const done = new AbortController();
  try {
    await Promise.race([work, pause(ms, done.signal)]);
  } finally {
    done.abort();
  }
}
