/**
 * Keys that were unwrapped or derived, kept in memory: not longer than a minute, not more than so many, and not after something was destroyed.
 *
 * Promise: at the latest `DESTRUCTION_SEEN_MS_MAX` after a key was destroyed, by whatever process, nothing is given out that was
 * made of it. While the keyring cannot be asked nothing is given out at all.
 */
import type { Keyring } from "./keyring.ts";

/** How often the keyring is asked whether something was destroyed: a reading of some 20 µs. */
const DESTRUCTION_SEEN_MS_MAX = 1_000;

/** Less, and a token is asked for the keys of a busy agent again and again; more, and a stolen image of the memory holds more of them. */
export const KEPT_MS_MAX = 60_000;

interface Kept<Value> {
  readonly value: Value;
  readonly sinceMs: number;
}

export class KeptKeys<Value> {
  readonly #keyring: Keyring;
  readonly #keptMax: number;
  readonly #now: () => number;
  readonly #timer: NodeJS.Timeout;
  /** In the order in which they were made, which is the order in which they go. */
  readonly #kept = new Map<string, Kept<Value>>();
  #destructions: number;
  #lookedMs: number;

  /** `now`: a clock in milliseconds. */
  constructor(keyring: Keyring, keptMax: number, now: () => number) {
    this.#keyring = keyring;
    this.#keptMax = keptMax;
    this.#now = now;
    this.#destructions = keyring.destructions();
    this.#lookedMs = now();
    // So that keys go also when nobody asks for any.
    this.#timer = setInterval(() => this.#lookQuietly(), DESTRUCTION_SEEN_MS_MAX).unref();
  }

  /** What is kept under this name, or what `make` makes. Throws what `make` throws, and `Unavailable`. */
  get(name: string, make: () => Value): Value {
    const known = this.find(name);
    if (known !== undefined) return known;
    const value = make();
    this.put(name, value);
    return value;
  }

  /** What is kept under this name. Throws `Unavailable`. */
  find(name: string): Value | undefined {
    const nowMs = this.#now();
    if (Math.abs(nowMs - this.#lookedMs) >= DESTRUCTION_SEEN_MS_MAX) this.#look(nowMs);
    const known = this.#kept.get(name);
    return known !== undefined && isFresh(known, nowMs) ? known.value : undefined;
  }

  /** Kept from now on, in the place of what was. */
  put(name: string, value: Value): void {
    this.#kept.delete(name);
    if (this.#kept.size >= this.#keptMax) this.#kept.delete(this.#kept.keys().next().value ?? "");
    this.#kept.set(name, { value, sinceMs: this.#now() });
  }

  /** Nothing is kept any more, from now on what is asked for is made anew. */
  drop(): void {
    this.#kept.clear();
  }

  close(): void {
    clearInterval(this.#timer);
    this.drop();
  }

  #look(nowMs: number): void {
    const destructions = this.#keyring.destructions();
    if (destructions !== this.#destructions) this.drop();
    this.#destructions = destructions;
    this.#lookedMs = nowMs;
    for (const [name, kept] of this.#kept) {
      if (isFresh(kept, nowMs)) break;
      this.#kept.delete(name);
    }
  }

  #lookQuietly(): void {
    try {
      this.#look(this.#now());
    } catch {
      // Whoever asks next is told; until then nothing is kept that might have been destroyed.
      this.drop();
    }
  }
}

/** A clock that was set back makes nothing last longer. */
function isFresh(kept: Kept<unknown>, nowMs: number): boolean {
  return Math.abs(nowMs - kept.sinceMs) < KEPT_MS_MAX;
}
