/**
 * Records on their way from Kafka to files, put in the log's order on disk: a bucket for each so many places in the log, one file a bucket.
 *
 * Partitions interleave, and two processes that publish at once mix what each has in order; so records are not merged but dealt into buckets, and a
 * bucket is sorted in memory. Whatever the disorder, memory holds one bucket.
 *
 *     bucket = any number of: u32 bytes of value ‖ u32 partition ‖ u64 offset ‖ u64 log_index ‖ value
 *
 * `sizes` says how far each bucket was written; opened again with the sizes of a moment, the spool is as it was then.
 */

import { createReadStream } from "node:fs";
import { appendFile, mkdir, readdir, rm, truncate } from "node:fs/promises";
import path from "node:path";

/** Places of a bucket: with records of 300 bytes, 15 MB as objects; fewer would be more files than a folder likes (1 M records: 40). */
export const BUCKET_PLACES = 25_000;

const HEAD_BYTES = 24;

export interface SpooledRecord {
  readonly logIndex: number;
  readonly partition: number;
  readonly offset: number;
  /** As it stands in Kafka. */
  readonly value: Buffer;
}

/** A bucket in the log's order. Where records with the same place differ, the first read is in `records`, the others in `conflicts`. */
export interface Bucket {
  readonly records: readonly SpooledRecord[];
  /** Identical repeats that were left out. */
  readonly repeats: number;
  readonly conflicts: readonly SpooledRecord[];
}

export interface Spool {
  /** Bytes by bucket. */
  readonly sizes: ReadonlyMap<number, number>;
  add(records: readonly SpooledRecord[]): Promise<void>;
  /** Empty where there is none. */
  read(bucket: number): Promise<Bucket>;
  remove(): Promise<void>;
}

export async function openSpool(folder: string, sizes: ReadonlyMap<number, number> = new Map()): Promise<Spool> {
  const written = new Map(sizes);
  await mkdir(folder, { recursive: true });
  for (const name of await readdir(folder)) {
    if (!written.has(Number(name))) await rm(path.join(folder, name));
  }
  for (const [bucket, size] of written) await truncate(path.join(folder, String(bucket)), size);

  return {
    sizes: written,

    async add(records) {
      const byBucket = Map.groupBy(records, ({ logIndex }) => Math.floor(logIndex / BUCKET_PLACES));
      for (const [bucket, some] of byBucket) {
        const bytes = Buffer.concat(some.flatMap((record) => [headOf(record), record.value]));
        await appendFile(path.join(folder, String(bucket)), bytes);
        written.set(bucket, (written.get(bucket) ?? 0) + bytes.length);
      }
    },

    async read(bucket) {
      const places = new Map<number, SpooledRecord>();
      const conflicts: SpooledRecord[] = [];
      let repeats = 0;
      if (written.has(bucket)) {
        for await (const record of recordsOf(path.join(folder, String(bucket)))) {
          const first = places.get(record.logIndex);
          if (first === undefined) places.set(record.logIndex, record);
          else if (!first.value.equals(record.value)) conflicts.push(record);
          else {
            repeats += 1;
            // Whichever came first: the manifest names the same offsets on every run.
            if (isBefore(record, first)) places.set(record.logIndex, record);
          }
        }
      }
      const records = Array.from(places.values()).sort((a, b) => a.logIndex - b.logIndex);
      return { records, repeats, conflicts };
    },

    remove: () => rm(folder, { recursive: true, force: true }),
  };
}

function isBefore(one: SpooledRecord, other: SpooledRecord): boolean {
  return one.partition === other.partition ? one.offset < other.offset : one.partition < other.partition;
}

function headOf({ logIndex, partition, offset, value }: SpooledRecord): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt32BE(value.length, 0);
  head.writeUInt32BE(partition, 4);
  head.writeBigUInt64BE(BigInt(offset), 8);
  head.writeBigUInt64BE(BigInt(logIndex), 16);
  return head;
}

async function* recordsOf(file: string): AsyncGenerator<SpooledRecord> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of createReadStream(file, { highWaterMark: 1024 * 1024 })) {
    const bytes: Buffer = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    while (bytes.length - at >= HEAD_BYTES) {
      const end = at + HEAD_BYTES + bytes.readUInt32BE(at);
      if (end > bytes.length) break;
      yield {
        partition: bytes.readUInt32BE(at + 4),
        offset: Number(bytes.readBigUInt64BE(at + 8)),
        logIndex: Number(bytes.readBigUInt64BE(at + 16)),
        value: bytes.subarray(at + HEAD_BYTES, end),
      };
      at = end;
    }
    rest = bytes.subarray(at);
  }
  if (rest.length > 0) throw new Error("a bucket of the spool ends in the middle of a record");
}
