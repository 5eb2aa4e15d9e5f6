/**
 * How many bytes of request bodies this process holds at a time, over all requests and of each agent.
 *
 * Promise: never more than the limit. Bytes count from their arrival until their request has been answered, so that a slow client takes no room for what
 * it has not sent. One agent alone cannot fill it.
 */

interface BodiesHeldLimits {
  /** Of all requests together. */
  readonly bytesMax: number;
  /** Of the requests of one owner. */
  readonly bytesOfOneMax: number;
}

/** What one request holds. */
export interface BodyRoom {
  /** Would so much more fit right now? Takes nothing. */
  fits(bytes: number): boolean;
  /** False, and nothing is taken, when it does not fit. */
  take(bytes: number): boolean;
  /** Of all that was taken. */
  release(): void;
}

export class BodiesHeld {
  readonly #limits: BodiesHeldLimits;
  readonly #ofOwner = new Map<string, number>();
  #bytes = 0;

  constructor(limits: BodiesHeldLimits) {
    this.#limits = limits;
  }

  /** Held right now. */
  get bytes(): number {
    return this.#bytes;
  }

  /** `owner`: the agent, or the address of who is not known yet. */
  roomFor(owner: string): BodyRoom {
    let held = 0;
    const add = (bytes: number) => {
      held += bytes;
      this.#bytes += bytes;
      const ofOwner = (this.#ofOwner.get(owner) ?? 0) + bytes;
      if (ofOwner === 0) this.#ofOwner.delete(owner);
      else this.#ofOwner.set(owner, ofOwner);
    };
    const fits = (bytes: number) =>
      this.#bytes + bytes <= this.#limits.bytesMax &&
      (this.#ofOwner.get(owner) ?? 0) + bytes <= this.#limits.bytesOfOneMax;
    return {
      fits,
      take: (bytes) => {
        if (!fits(bytes)) return false;
        add(bytes);
        return true;
      },
      release: () => add(-held),
    };
  }
}
