/**
 * Bytes in the notation of protocol.md: big-endian integers, `lp(x)`, `label(s)`, joining.
 *
 * The writer is for structures whose size is known before; the reader refuses (`malformed`) what is cut short.
 */
import { Refusal } from "./refusal.ts";

const TWO_TO_32 = 0x1_0000_0000;

export const EMPTY = new Uint8Array(0);

/** `a ‖ b ‖ …` */
export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  return join(parts);
}

/** The same of a list of any length. */
export function join(parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const joined = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    joined.set(part, offset);
    offset += part.length;
  }
  return joined;
}

/** Equal length and content. Not constant in time: for public values only. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && compareBytes(a, b) === 0;
}

/** Unsigned byte order: negative when `a` comes first. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const shared = Math.min(a.length, b.length);
  for (let i = 0; i < shared; i++) {
    const difference = (a[i] as number) - (b[i] as number);
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

/** The ASCII bytes of a constant or an id. */
export function asciiBytes(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** `label(s)` = `s ‖ 0x00`: what every signed or authenticated structure of the protocol begins with. */
export function label(text: string): Uint8Array {
  return asciiBytes(`${text}\0`);
}

/** Fills an array of a size known before. */
export class ByteWriter {
  readonly #bytes: Uint8Array;
  #offset = 0;

  constructor(size: number) {
    this.#bytes = new Uint8Array(size);
  }

  u8(value: number): this {
    this.#bytes[this.#offset++] = value;
    return this;
  }

  u16(value: number): this {
    return this.u8(value >>> 8).u8(value);
  }

  u32(value: number): this {
    return this.u16(value >>> 16).u16(value);
  }

  /** A whole number of at most 53 bits. */
  u64(value: number): this {
    return this.u32(Math.floor(value / TWO_TO_32)).u32(value % TWO_TO_32);
  }

  bytes(value: Uint8Array): this {
    this.#bytes.set(value, this.#offset);
    this.#offset += value.length;
    return this;
  }

  ascii(text: string): this {
    for (let i = 0; i < text.length; i++) this.#bytes[this.#offset++] = text.charCodeAt(i);
    return this;
  }

  zeros(length: number): this {
    this.#offset += length;
    return this;
  }

  /** `lp(x)` */
  lp(value: Uint8Array): this {
    return this.u16(value.length).bytes(value);
  }

  /** `lp(id)` */
  lpAscii(text: string): this {
    return this.u16(text.length).ascii(text);
  }

  /** What was written. Throws when that is not what was announced: a bug of ours. */
  finish(): Uint8Array {
    if (this.#offset !== this.#bytes.length) throw new Error("the size announced is not the size written");
    return this.#bytes;
  }
}

/** Reads what a `ByteWriter` wrote. The bytes it returns are views, not copies. */
export class ByteReader {
  readonly #bytes: Uint8Array;
  #offset = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  u8(): number {
    const value = this.#bytes[this.#offset++];
    if (value === undefined) throw new Refusal("malformed");
    return value;
  }

  u16(): number {
    return this.u8() * 0x100 + this.u8();
  }

  u32(): number {
    return this.u16() * 0x1_0000 + this.u16();
  }

  u64(): number {
    return this.u32() * TWO_TO_32 + this.u32();
  }

  bytes(length: number): Uint8Array {
    const end = this.#offset + length;
    if (end > this.#bytes.length) throw new Refusal("malformed");
    const value = this.#bytes.subarray(this.#offset, end);
    this.#offset = end;
    return value;
  }

  /** Refuses what is left over. */
  end(): void {
    if (this.#offset !== this.#bytes.length) throw new Refusal("malformed");
  }
}
