/**
 * The little of Avro's binary encoding (specification 1.12, "Binary Encoding") that the canonical bytes of an envelope need, with one
 * spelling for each value: numbers take the fewest bytes, as every writer of Avro makes them.
 */
import { ByteReader } from "./bytes.ts";
import { Refusal } from "./refusal.ts";

/** A long of at most 53 bits takes at most this; the schema's fields are all below. */
const LONG_BYTES_MAX = 8;

/** Writes fields in order; numbers are whole and not negative. */
export class AvroWriter {
  readonly #bytes: Uint8Array;
  #offset = 0;

  /** `sizeMax`: the writer does not grow. */
  constructor(sizeMax: number) {
    this.#bytes = new Uint8Array(sizeMax);
  }

  fixed(value: Uint8Array): this {
    this.#bytes.set(value, this.#offset);
    this.#offset += value.length;
    return this;
  }

  bytes(value: Uint8Array): this {
    return this.long(value.length).fixed(value);
  }

  string(ascii: string): this {
    this.long(ascii.length);
    for (let i = 0; i < ascii.length; i++) this.#bytes[this.#offset++] = ascii.charCodeAt(i);
    return this;
  }

  /** Written like a long; the schema tells them apart. */
  int(value: number): this {
    return this.long(value);
  }

  long(value: number): this {
    let zigzag = value * 2;
    while (zigzag >= 0x80) {
      this.#bytes[this.#offset++] = (zigzag % 0x80) | 0x80;
      zigzag = Math.floor(zigzag / 0x80);
    }
    this.#bytes[this.#offset++] = zigzag;
    return this;
  }

  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#offset);
  }
}

/** Refuses (`malformed`) negative numbers, longer spellings and whatever is cut short. Bytes are views. */
export class AvroReader {
  readonly #reader: ByteReader;

  constructor(bytes: Uint8Array) {
    this.#reader = new ByteReader(bytes);
  }

  fixed(length: number): Uint8Array {
    return this.#reader.bytes(length);
  }

  bytes(): Uint8Array {
    return this.fixed(this.long());
  }

  /** A string of exactly this many ASCII characters. */
  asciiString(length: number): string {
    if (this.long() !== length) throw new Refusal("malformed");
    let text = "";
    for (const byte of this.fixed(length)) text += String.fromCharCode(byte);
    return text;
  }

  int(): number {
    return this.long();
  }

  long(): number {
    let zigzag = 0;
    let scale = 1;
    for (let i = 0; i < LONG_BYTES_MAX; i++) {
      const byte = this.#reader.u8();
      zigzag += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        const longer = byte === 0 && i > 0;
        const negative = zigzag % 2 === 1;
        if (longer || negative || zigzag > Number.MAX_SAFE_INTEGER) throw new Refusal("malformed");
        return zigzag / 2;
      }
      scale *= 0x80;
    }
    throw new Refusal("malformed");
  }

  end(): void {
    this.#reader.end();
  }
}
