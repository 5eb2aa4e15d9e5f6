/**
 * Recipients for whose mailboxes the service has taken all it takes from this agent: their messages wait here until there may be room, and hold up nobody
 * else's. Nobody says when there is room: it is tried again after growing pauses.
 */
import { Backoff } from "./patience.ts";

/** Beside what the service asks to wait. Mail that is read makes room within seconds; a recipient that is away may be so for days. */
const RETRY_MS = { firstMs: 500, lastMs: 30_000 };

interface Full {
  /** From this place on its messages wait; null while they are tried. */
  fromN: number | null;
  readonly backoff: Backoff;
  timer: NodeJS.Timeout | null;
}

export class FullMailboxes {
  readonly #full = new Map<string, Full>();
  readonly #onRetry: (fromN: number) => void;

  /** `onRetry`: the messages from this place on may be tried again. */
  constructor(onRetry: (fromN: number) => void) {
    this.#onRetry = onRetry;
  }

  /** Does this message wait? */
  holds({ recipientId, n }: { readonly recipientId: string; readonly n: number }): boolean {
    const fromN = this.#full.get(recipientId)?.fromN ?? null;
    return fromN !== null && n >= fromN;
  }

  /** There was no room for this message, and so for none behind it; the service asks to wait for so long. */
  add({ recipientId, n }: { readonly recipientId: string; readonly n: number }, askedMs: number): void {
    const full = this.#full.get(recipientId) ?? { fromN: null, backoff: new Backoff(RETRY_MS), timer: null };
    this.#full.set(recipientId, full);
    full.fromN = Math.min(full.fromN ?? n, n);
    full.timer ??= setTimeout(() => this.#retry(full), full.backoff.next(askedMs));
  }

  /** A message to this recipient was taken. */
  hasTaken(recipientId: string): void {
    if (this.#full.get(recipientId)?.fromN === null) this.#full.delete(recipientId);
  }

  /** Nothing waits any more. */
  clear(): void {
    for (const { timer } of this.#full.values()) if (timer !== null) clearTimeout(timer);
    this.#full.clear();
  }

  #retry(full: Full): void {
    const { fromN } = full;
    full.fromN = null;
    full.timer = null;
    if (fromN !== null) this.#onRetry(fromN);
  }
}
