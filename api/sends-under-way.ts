/**
 * How many calls that send are under way in this process, and when there are too many of them to be worth waiting for.
 *
 * A call is refused (`overloaded`) when more are under way than were finished in the last half second, and there have been so many for half a second.
 * So what is accepted waits for about half a second of work, a second at the beginning of a flood, however much more is asked for; and what is refused
 * costs neither a signature nor a question. A burst out of silence is taken, up to two thousand. Few are never refused, however slow everything is: they are how
 * one finds out that it has become fast again.
 */
import { ApiRefusal } from "./problem.ts";

/** Of work under way. Shorter, and a pause of a collector or of Kafka looks like a flood; longer is what everybody then waits. */
const WORK_MS_MAX = 500;

/** The last half second, in so many parts. */
const SLOTS = 5;
const SLOT_MS = WORK_MS_MAX / SLOTS;

/** Always taken. At 30 calls a second, as slow as a process can be that still works, they are two seconds. */
const FEW = 64;

/** Of a burst, before one can know how quickly it is worked off. More would take a process that does a thousand a second longer than two seconds. */
const BURST_MAX = 2_000;

/** Below half of what is too much the flood is over: between the two as many come in as go out. */
const OVER_FACTOR = 0.5;

/** When those who were refused may come back: by then what was under way has long been done. */
const RETRY_AFTER_MS = 1_000;

export interface ShedDeps {
  readonly sends: SendsUnderWay;
}

/** A call that was taken. */
export interface UnderWay {
  /** Once, when it has been answered. */
  end(): void;
  /** Waits for its client: that is no work, and clients that are slow must not look like a flood. */
  waitFor<T>(client: Promise<T>): Promise<T>;
}

export class SendsUnderWay {
  readonly #now: () => number;
  readonly #onShed: () => void;
  readonly #finished = new Array<number>(SLOTS).fill(0);
  #slot = 0;
  #underWay = 0;
  /** Since when there have been too many; null while there are not. */
  #tooManySince: number | null = null;

  /** `now`: a clock that never goes back, in ms. */
  constructor(onShed: () => void = () => undefined, now: () => number = () => performance.now()) {
    this.#onShed = onShed;
    this.#now = now;
  }

  /** Right now. */
  get count(): number {
    return this.#underWay;
  }

  /**
   * Takes a call, or refuses it.
   *
   * @throws ApiRefusal `overloaded`
   */
  begin(): UnderWay {
    const now = this.#now();
    const most = this.#most(now);
    if (this.#underWay >= most) this.#tooManySince ??= now;
    else if (this.#underWay < most * OVER_FACTOR) this.#tooManySince = null;
    const isFlood = this.#tooManySince !== null && now - this.#tooManySince >= WORK_MS_MAX;
    if (this.#underWay >= (isFlood ? most : Math.max(most, BURST_MAX))) {
      this.#onShed();
      throw new ApiRefusal("overloaded", { retryAfterMs: RETRY_AFTER_MS });
    }
    this.#underWay++;
    return {
      end: () => this.#end(),
      waitFor: async (client) => {
        this.#underWay--;
        try {
          return await client;
        } finally {
          // Its signature has held: it is not refused any more.
          this.#underWay++;
        }
      },
    };
  }

  #end(): void {
    this.#underWay--;
    const now = this.#now();
    const most = this.#most(now);
    this.#finished[this.#slot % SLOTS] = (this.#finished[this.#slot % SLOTS] ?? 0) + 1;
    if (this.#underWay < most * OVER_FACTOR) this.#tooManySince = null;
  }

  /** Moves the window up to now. */
  #most(now: number): number {
    const slot = Math.floor(now / SLOT_MS);
    if (slot - this.#slot >= SLOTS) this.#finished.fill(0);
    else for (let passed = this.#slot + 1; passed <= slot; passed++) this.#finished[passed % SLOTS] = 0;
    this.#slot = slot;
    return Math.max(
      FEW,
      this.#finished.reduce((sum, count) => sum + count, 0),
    );
  }
}
