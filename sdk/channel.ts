/**
 * Events for whoever listens: each subscription is an async iterator with a bounded buffer.
 *
 * A listener that falls behind loses the oldest events, never the newest: what these events tell can be asked for again.
 */

interface ChannelLimits {
  /** Events that a subscription holds for a listener that is slower. */
  readonly bufferedMax: number;
  /** Past events that a new subscription begins with. */
  readonly replayedMax: number;
}

interface Subscription<T> {
  readonly events: T[];
  wake: () => void;
}

export class Channel<T> {
  readonly #limits: ChannelLimits;
  readonly #subscriptions = new Set<Subscription<T>>();
  readonly #past: T[] = [];
  #end: { readonly error: unknown } | null = null;

  constructor(limits: ChannelLimits) {
    this.#limits = limits;
  }

  /** Does somebody listen? */
  get isHeard(): boolean {
    return this.#subscriptions.size > 0;
  }

  emit(event: T): void {
    if (this.#limits.replayedMax > 0) {
      this.#past.push(event);
      if (this.#past.length > this.#limits.replayedMax) this.#past.shift();
    }
    for (const subscription of this.#subscriptions) {
      subscription.events.push(event);
      if (subscription.events.length > this.#limits.bufferedMax) subscription.events.shift();
      subscription.wake();
    }
  }

  /** Iterators end when they have given what is buffered; with an error they throw it then. */
  end(error: unknown = null): void {
    this.#end ??= { error };
    for (const { wake } of this.#subscriptions) wake();
  }

  /** Listens from now on; ends when the signal aborts. */
  subscribe(signal?: AbortSignal): AsyncGenerator<T, void, undefined> {
    const subscription: Subscription<T> = { events: [...this.#past], wake: () => {} };
    this.#subscriptions.add(subscription);
    return this.#iterate(subscription, signal);
  }

  async *#iterate(subscription: Subscription<T>, signal?: AbortSignal): AsyncGenerator<T, void, undefined> {
    const wake = () => subscription.wake();
    signal?.addEventListener("abort", wake);
    try {
      while (signal?.aborted !== true) {
        const event = subscription.events.shift();
        if (event !== undefined) {
          yield event;
          continue;
        }
        if (this.#end !== null) {
          if (this.#end.error !== null) throw this.#end.error;
          return;
        }
        await new Promise<void>((resolve) => {
          subscription.wake = resolve;
        });
      }
    } finally {
      signal?.removeEventListener("abort", wake);
      this.#subscriptions.delete(subscription);
    }
  }
}
