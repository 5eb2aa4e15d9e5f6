/** Waiting that can be called off, and how long to wait before trying again. */
import { ServiceRefused, ServiceUnavailable } from "./errors.ts";

/** Resolves after `ms`; rejects with the signal's reason. Keeps the process alive no longer than something else does. */
export function delay(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, ms);
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    signal?.addEventListener("abort", abort, { once: true });
  });
}

/** Exponential backoff with full jitter (so that a thousand agents that lost one gateway do not come back in step). */
export class Backoff {
  readonly #firstMs: number;
  readonly #lastMs: number;
  #failures = 0;

  constructor(limits: { readonly firstMs: number; readonly lastMs: number }) {
    this.#firstMs = limits.firstMs;
    this.#lastMs = limits.lastMs;
  }

  /** Milliseconds to wait after one more failure, at least `askedMs`. */
  next(askedMs = 0): number {
    const ceiling = Math.min(this.#lastMs, this.#firstMs * 2 ** this.#failures++);
    return askedMs + ceiling * 0.1 + jitter(ceiling * 0.9);
  }

  reset(): void {
    this.#failures = 0;
  }
}

/** What the service asked to wait, milliseconds; 0 when it did not. */
export function retryAfterOf(error: unknown): number {
  return error instanceof ServiceUnavailable || error instanceof ServiceRefused ? (error.retryAfterMs ?? 0) : 0;
}

/** A random part of `ms`, whole: so that many that wait for the same thing do not come back in step. */
export function jitter(ms: number): number {
  return Math.floor(ms * Math.random());
}

/** Settles like `promise`, or rejects with the signal's reason if that comes first; the promise goes on by itself. */
export function abandonable<T>(promise: Promise<T>, signal?: AbortSignal): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

/**
 * Looks after something again and again: when it is told that there may be work, and when the time has come that the last look named. One look at a
 * time, one timer.
 */
export class Watch {
  readonly #look: () => Promise<number>;
  readonly #background: (work: Promise<unknown>) => void;
  #timer: NodeJS.Timeout | null = null;
  #isLooking = false;
  #lookAgain = false;
  #isStopped = false;

  /** `look`: does what is to be done now, and answers in how many milliseconds there is more; infinite when there is nothing. */
  constructor(look: () => Promise<number>, background: (work: Promise<unknown>) => void) {
    this.#look = look;
    this.#background = background;
  }

  /** There may be work. */
  wake(): void {
    this.#lookAgain = true;
    if (!this.#isLooking && !this.#isStopped) this.#background(this.#run());
  }

  stop(): void {
    this.#isStopped = true;
    this.#sleep(Number.POSITIVE_INFINITY);
  }

  get isStopped(): boolean {
    return this.#isStopped;
  }

  async #run(): Promise<void> {
    this.#isLooking = true;
    try {
      while (this.#lookAgain && !this.#isStopped) {
        this.#lookAgain = false;
        this.#sleep(await this.#look());
      }
    } finally {
      // In the turn of the last look: nobody can have called in between.
      this.#isLooking = false;
    }
  }

  #sleep(ms: number): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    if (ms === Number.POSITIVE_INFINITY || this.#isStopped) return;
    this.#timer = setTimeout(() => this.wake(), Math.min(ms, TIMER_MS_MAX));
  }
}

/** Longer ones fire at once (Node). */
const TIMER_MS_MAX = 2 ** 31 - 1;
