/**
 * `leaves.bin`: every place of the log from the first record of a replay to its last, also those whose records are not in its files (of other agents, of
 * another time). With it a replay can be checked by itself, years later, and the first record that is wrong or missing has a name.
 *
 *     leaves.bin = for each place: kind(1) ‖ leaf hash(32)
 *     kind       = 0: its record is in no file; 1: it is in a file; 2: it was not in Kafka any more, the hash is zeros
 */
import { type FileHandle, open } from "node:fs/promises";
import { HASH_BYTES } from "../protocol/audit/merkle.ts";

export const LEAF_KIND = { left: 0, written: 1, missing: 2 } as const;
export type LeafKind = (typeof LEAF_KIND)[keyof typeof LEAF_KIND];

export interface Leaf {
  readonly kind: number;
  readonly hash: Uint8Array;
}

const ENTRY_BYTES = 1 + HASH_BYTES;
/** Entries read or written at once: 0.5 MB. */
const CHUNK_ENTRIES = 16_384;

export interface LeafWriter {
  add(kind: LeafKind, hash: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

export async function createLeafFile(file: string): Promise<LeafWriter> {
  const handle = await open(file, "w");
  const chunk = Buffer.alloc(CHUNK_ENTRIES * ENTRY_BYTES);
  let used = 0;
  const flush = async () => {
    await handle.write(chunk, 0, used);
    used = 0;
  };
  return {
    async add(kind, hash) {
      chunk[used] = kind;
      chunk.set(hash, used + 1);
      used += ENTRY_BYTES;
      if (used === chunk.length) await flush();
    },
    async close() {
      await flush();
      await handle.close();
    },
  };
}

/** Entries of a file, the first of which is at place `first` of the log; from place `start` up to before `end`. Ends early where the file does. */
export async function* readLeaves(file: string, first: number, start: number, end: number): AsyncGenerator<Leaf> {
  const handle: FileHandle = await open(file);
  try {
    for (let at = start; at < end; ) {
      const wanted = Math.min(CHUNK_ENTRIES, end - at) * ENTRY_BYTES;
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(wanted), 0, wanted, (at - first) * ENTRY_BYTES);
      const entries = Math.floor(bytesRead / ENTRY_BYTES);
      for (let n = 0; n < entries; n++) {
        const offset = n * ENTRY_BYTES;
        yield { kind: buffer[offset] ?? 0, hash: buffer.subarray(offset + 1, offset + ENTRY_BYTES) };
      }
      if (bytesRead < wanted) return;
      at += entries;
    }
  } finally {
    await handle.close();
  }
}
