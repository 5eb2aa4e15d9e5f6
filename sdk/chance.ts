/** Chances that follow from a seed: the same seed, the same fate. For simulations; nothing here is secret or hard to guess. */

const U32 = 2 ** 32;

export class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 32 bits (splitmix32, after Vigna's SplitMix). */
  #u32(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  }

  /** From 0 to below 1. */
  next(): number {
    return this.#u32() / U32;
  }

  /** A whole number from 0 to below `end`. */
  below(end: number): number {
    return Math.floor(this.next() * end);
  }

  /** Does it happen, with this probability? */
  happens(probability: number): boolean {
    return probability > 0 && this.next() < probability;
  }

  /** Null when there is nothing to choose from. */
  choose<Item>(items: readonly Item[]): Item | null {
    return items[this.below(items.length)] ?? null;
  }

  bytes(length: number): Buffer {
    const words = new Uint32Array(Math.ceil(length / 4));
    for (let i = 0; i < words.length; i++) words[i] = this.#u32();
    return Buffer.from(words.buffer, 0, length);
  }
}
