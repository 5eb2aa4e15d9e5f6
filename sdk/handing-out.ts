/**
 * Hands messages out to the application's loops, one after the other.
 *
 * A message is done with when the loop asks for the next one, or by its `ack`. One whose loop is left, or throws, was not handled: it comes again, first.
 */
import { AgentError } from "./errors.ts";
import { InboxMessage } from "./message.ts";
import type { ReceivedMessage } from "./store/inbox.ts";

export class HandingOut {
  readonly #handled: (message: ReceivedMessage) => Promise<void>;
  readonly #onWanted: () => void;
  /** Not with the application. */
  readonly #ready: ReceivedMessage[];
  readonly #wakers = new Set<() => void>();
  #end: { readonly error: unknown } | null = null;

  /** `handled`: the application is done with it. `onWanted`: a loop waits, and there is nothing for it. */
  constructor(
    handled: (message: ReceivedMessage) => Promise<void>,
    ready: readonly ReceivedMessage[] = [],
    onWanted: () => void = () => {},
  ) {
    this.#handled = handled;
    this.#ready = [...ready];
    this.#onWanted = onWanted;
  }

  /** Does a loop wait for a message? */
  get isWanted(): boolean {
    return this.#wakers.size > 0;
  }

  add(message: ReceivedMessage): void {
    this.#ready.push(message);
    this.#wake();
  }

  /** Messages one after the other; what the caller leaves unfinished comes again, first. Several iterators share the messages. */
  async *messages(signal?: AbortSignal): AsyncGenerator<InboxMessage, void, undefined> {
    let fault: unknown = null;
    for (;;) {
      const received = await this.#next(signal);
      if (received === null) return;
      const acked = { promise: null as Promise<void> | null };
      const message = new InboxMessage(received, () => (acked.promise ??= this.#handled(received)));
      let isResumed = false;
      try {
        yield message;
        isResumed = true;
      } finally {
        // A loop that is left by break, return or an error ends the generator here: the message is not done with.
        if (!isResumed && acked.promise === null) this.#putBack(received);
      }
      message.ack().catch((error) => {
        fault ??= error;
      });
      if (fault !== null) throw fault;
    }
  }

  /** Iterators end; with an error they throw it. */
  stop(error: unknown): void {
    this.#end ??= { error: error instanceof AgentError && error.code === "closed" ? null : error };
    this.#wake();
  }

  async #next(signal?: AbortSignal): Promise<ReceivedMessage | null> {
    while (signal?.aborted !== true) {
      if (this.#end !== null) {
        if (this.#end.error !== null) throw this.#end.error;
        return null;
      }
      const message = this.#ready.shift();
      if (message !== undefined) return message;
      await this.#woken(signal);
    }
    return null;
  }

  #woken(signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        this.#wakers.delete(wake);
        signal?.removeEventListener("abort", wake);
        resolve();
      };
      this.#wakers.add(wake);
      signal?.addEventListener("abort", wake);
      this.#onWanted();
    });
  }

  #wake(): void {
    for (const wake of [...this.#wakers]) wake();
  }

  #putBack(message: ReceivedMessage): void {
    this.#ready.unshift(message);
    this.#wake();
  }
}
