/**
 * Time and randomness of a simulation: real agents run through days in milliseconds, and the same seed gives the same life, byte for byte.
 *
 * While it lasts, timers, clocks and every source of randomness of this process are simulated (docs/decisions/0017-simulated-lives.md).
 * Nothing that does real I/O works meanwhile.
 */
import crypto from "node:crypto";
import { syncBuiltinESMExports } from "node:module";
import { vi } from "vitest";
import { Chance } from "./chance.ts";

const FAKED = [
  "setTimeout",
  "clearTimeout",
  "setInterval",
  "clearInterval",
  "setImmediate",
  "clearImmediate",
  "Date",
  "performance",
] as const;

const realImmediate = setImmediate;

/** Far more than a long life has: what does not end by itself is to end. */
const THINGS_MAX = 200_000;

export class SimulatedTime {
  readonly #restore: () => void;
  #things = 0;

  private constructor(restore: () => void) {
    this.#restore = restore;
  }

  static begin({ now, seed }: { readonly now: number; readonly seed: number }): SimulatedTime {
    vi.useFakeTimers({ now, toFake: [...FAKED] });
    neverAtOnce();
    return new SimulatedTime(replaceRandomness(new Chance(seed)));
  }

  end(): void {
    this.#restore();
    vi.useRealTimers();
  }

  /** Lets what was begun go on for so long; everything happens at its time. */
  async run(ms: number): Promise<void> {
    let isOver = false;
    setTimeout(() => {
      isOver = true;
    }, ms);
    while (!isOver) await this.#next();
    await turn();
  }

  /** At most so many things happen, within `msMax`. For what is to be interrupted in the middle. */
  async runThings(count: number, msMax: number): Promise<void> {
    let isOver = false;
    const timer = setTimeout(() => {
      isOver = true;
    }, msMax);
    for (let left = count; left > 0 && !isOver; left--) await this.#next();
    clearTimeout(timer);
    await turn();
  }

  /** The machine sleeps: the clock goes on, and timers do not. */
  sleep(ms: number): void {
    vi.setSystemTime(Date.now() + ms);
  }

  async #next(): Promise<void> {
    this.#things += 1;
    if (this.#things > THINGS_MAX) throw new Error("it goes round in circles");
    await turn();
    vi.advanceTimersToNextTimer();
  }
}

/** Everything that waits for no time has happened. */
function turn(): Promise<void> {
  return new Promise((resolve) => realImmediate(resolve));
}

/** As in Node, a timer takes a millisecond at least: what waits for the rest of one would wait for ever where no time passes. */
function neverAtOnce(): void {
  const { setTimeout: simulated } = globalThis;
  const atLeast = (work: () => void, ms = 1) => simulated(work, Math.max(1, Math.trunc(ms)));
  globalThis.setTimeout = Object.assign(atLeast, simulated);
}

/** Until the function it gives is called. */
function replaceRandomness(chance: Chance): () => void {
  const { randomBytes, randomUUID } = crypto;
  const { random } = Math;
  const keys = new Chance(chance.below(2 ** 32));
  const replacement = {
    randomBytes: (size: number) => keys.bytes(size),
    randomUUID: () => uuidOf(keys.bytes(16)),
  };
  Object.assign(crypto, replacement);
  Math.random = () => chance.next();
  syncBuiltinESMExports();
  return () => {
    Object.assign(crypto, { randomBytes, randomUUID });
    Math.random = random;
    syncBuiltinESMExports();
  };
}

/** Version 4. */
function uuidOf(bytes: Buffer): string {
  bytes[6] = 0x40 | ((bytes[6] as number) & 0x0f);
  bytes[8] = 0x80 | ((bytes[8] as number) & 0x3f);
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
