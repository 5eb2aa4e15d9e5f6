/**
 * What stands in a topic, read from the broker's own files: by no client of ours, and past nothing that a client leaves out.
 *
 * Record batches of format 2 (https://kafka.apache.org/documentation/#recordbatch), uncompressed, as our producer writes them. Each batch's CRC-32C is
 * checked. A batch at the end that is cut off is not there, as for the broker. The files may be read while the broker runs.
 */
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { crc32c } from "./crc32c.ts";

export interface RawRecord {
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
  readonly key: Buffer | null;
  readonly value: Buffer | null;
  /** The last one of a name counts. */
  readonly headers: Readonly<Record<string, string>>;
}

/** Offset, length, epoch, format, CRC: what stands before the bytes that the CRC is about. */
const CRC_STARTS_AT = 21;
const RECORDS_START_AT = 61;
/** Offset and length are not counted in the length. */
const UNCOUNTED_BYTES = 12;

/** Every record of every topic whose name fits, one file in memory at a time. `folder`: the broker's `log.dirs`. */
export async function* readSegments(
  folder: string,
  isWanted: (topic: string) => boolean,
): AsyncGenerator<RawRecord, void, undefined> {
  for (const name of await readdir(folder)) {
    const [, topic = "", partition = ""] = /^(.+)-(\d+)$/.exec(name) ?? [];
    if (topic === "" || !isWanted(topic)) continue;
    const files = (await readdir(path.join(folder, name))).filter((file) => file.endsWith(".log")).sort();
    for (const file of files) {
      const bytes = await readFile(path.join(folder, name, file));
      for (const record of recordsOf(bytes)) yield { topic, partition: Number(partition), ...record };
    }
  }
}

/** @throws Error for what is no batch that our producer writes. */
export function recordsOf(segment: Buffer): readonly Omit<RawRecord, "topic" | "partition">[] {
  const records: Omit<RawRecord, "topic" | "partition">[] = [];
  let at = 0;
  while (at + RECORDS_START_AT <= segment.length) {
    const end = at + UNCOUNTED_BYTES + segment.readInt32BE(at + 8);
    // Files are made longer than they are full, with zeros.
    if (end > segment.length || end === at + UNCOUNTED_BYTES) break;
    records.push(...batch(segment.subarray(at, end)));
    at = end;
  }
  return records;
}

function batch(bytes: Buffer): readonly Omit<RawRecord, "topic" | "partition">[] {
  if (bytes.readInt8(16) !== 2) throw new Error("a batch of another format than 2");
  if (crc32c(bytes.subarray(CRC_STARTS_AT)) !== bytes.readUInt32BE(17)) throw new Error("a batch with a wrong CRC");
  const attributes = bytes.readInt16BE(21);
  if ((attributes & 0b111) !== 0) throw new Error("a compressed batch");
  const isControl = (attributes & 0b100000) !== 0;
  const baseOffset = Number(bytes.readBigInt64BE(0));
  const count = bytes.readInt32BE(57);
  const cursor = new Cursor(bytes, RECORDS_START_AT);
  const records = Array.from({ length: count }, () => record(cursor, baseOffset));
  return isControl ? [] : records;
}

function record(cursor: Cursor, baseOffset: number): Omit<RawRecord, "topic" | "partition"> {
  cursor.varint();
  cursor.skip(1);
  cursor.varint();
  const offset = baseOffset + cursor.varint();
  const key = cursor.bytes();
  const value = cursor.bytes();
  const headers: Record<string, string> = {};
  for (let left = cursor.varint(); left > 0; left--) {
    const name = cursor.bytes()?.toString("utf8") ?? "";
    headers[name] = cursor.bytes()?.toString("utf8") ?? "";
  }
  return { offset, key, value, headers };
}

class Cursor {
  readonly #bytes: Buffer;
  #at: number;

  constructor(bytes: Buffer, at: number) {
    this.#bytes = bytes;
    this.#at = at;
  }

  skip(count: number): void {
    this.#at += count;
  }

  /** Zigzag, seven bits a byte, the lowest first. Timestamps' deltas fit into a number as well. */
  varint(): number {
    let value = 0;
    let scale = 1;
    for (;;) {
      const byte = this.#bytes.readUInt8(this.#at++);
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) break;
      scale *= 128;
    }
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
  }

  /** Null for the length −1. */
  bytes(): Buffer | null {
    const length = this.varint();
    if (length < 0) return null;
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }
}
