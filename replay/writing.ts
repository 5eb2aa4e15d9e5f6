/**
 * Third part of a replay: the chosen records, in the log's order, into files of so many each. A file has its name when it is whole and on the disk; the
 * state knows it then, and an interrupted replay goes on behind it.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, rename, stat } from "node:fs/promises";
import path from "node:path";
import type { AuditRecord } from "../schemas/values.ts";
import type { Codec } from "../streams/codec.ts";
import type { Topic } from "../streams/topic.ts";
import { InTheWay } from "./finding.ts";
import { type RowWriter, rowFormats } from "./formats/format.ts";
import type { WrittenFile } from "./manifest.ts";
import { rowOf } from "./rows.ts";
import { BUCKET_PLACES, type Spool } from "./spool.ts";
import type { ReplayState } from "./state.ts";

export interface WritingDeps {
  readonly spool: Spool;
  readonly codec: Codec;
  readonly topic: Topic<AuditRecord>;
  readonly folder: string;
  readonly isSelected: (record: AuditRecord) => boolean;
  readonly signal: AbortSignal;
  readonly save: (state: ReplayState) => Promise<void>;
  /** Records, also of files that were there. */
  readonly onWritten: (done: number) => void;
}

interface OpenFile {
  readonly writer: RowWriter;
  readonly first: number;
  last: number;
  records: number;
}

/** The file that is being written has this name: what is found under it was never whole. */
const PART_NAME = "records.part";

export async function writeFiles(begun: ReplayState, deps: WritingDeps): Promise<readonly WrittenFile[]> {
  const { spool, codec, topic, folder, isSelected } = deps;
  const { format, records_per_file: recordsMax } = begun.request;
  const part = path.join(folder, PART_NAME);
  for (const file of begun.files) await checkFile(folder, file);
  let files = begun.files;
  let done = files.reduce((sum, { records }) => sum + records, 0);
  let current: OpenFile | null = null;

  async function finish(file: OpenFile): Promise<void> {
    await file.writer.close();
    const name = `audit-${padded(file.first)}-${padded(file.last)}.${format}`;
    await syncFile(part);
    await rename(part, path.join(folder, name));
    const { sha256, bytes } = await digestOf(path.join(folder, name));
    const { records, first: first_log_index, last: last_log_index } = file;
    files = [...files, { name, sha256, bytes, records, first_log_index, last_log_index }];
    await deps.save({ ...begun, files });
  }

  async function write(records: readonly AuditRecord[]): Promise<void> {
    for (let at = 0; at < records.length; ) {
      const [head] = records.slice(at, at + 1);
      if (head === undefined) return;
      const file: OpenFile = current ?? {
        writer: await rowFormats[format].create(part),
        ...{ first: head.logIndex, last: head.logIndex, records: 0 },
      };
      current = file;
      const some = records.slice(at, at + recordsMax - file.records);
      await file.writer.write(some.map(rowOf));
      file.records += some.length;
      file.last = some.at(-1)?.logIndex ?? file.last;
      at += some.length;
      if (file.records < recordsMax) continue;
      current = null;
      await finish(file);
    }
  }

  const { first, last } = begun;
  const start = Math.max(first ?? 0, (files.at(-1)?.last_log_index ?? -1) + 1);
  const buckets = [...spool.sizes.keys()].filter((bucket) => {
    return last !== null && (bucket + 1) * BUCKET_PLACES > start && bucket * BUCKET_PLACES <= last;
  });
  try {
    for (const bucket of buckets.sort((a, b) => a - b)) {
      deps.signal.throwIfAborted();
      const { records } = await spool.read(bucket);
      await codec.learn(records.map(({ value }) => value));
      const decoded = records.map(({ value }) => codec.decode(topic, value));
      const chosen = decoded.filter((record) => record.logIndex >= start && isSelected(record));
      await write(chosen);
      done += chosen.length;
      deps.onWritten(done);
    }
    const rest = current as OpenFile | null;
    current = null;
    if (rest !== null) await finish(rest);
  } finally {
    await (current as OpenFile | null)?.writer.close();
  }
  return files;
}

/** @throws InTheWay: it is not as it was written */
export async function checkFile(folder: string, { name, sha256 }: Pick<WrittenFile, "name" | "sha256">): Promise<void> {
  const file = path.join(folder, name);
  const is = await digestOf(file).catch((error: { readonly code?: unknown }) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  if (is?.sha256 === sha256) return;
  throw new InTheWay(`${file} is ${is === null ? "gone" : "not as it was written"}: begin anew with --force`);
}

export async function digestOf(file: string): Promise<{ readonly sha256: string; readonly bytes: number }> {
  const { size: bytes } = await stat(file);
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return { sha256: hash.digest("hex"), bytes };
}

async function syncFile(file: string): Promise<void> {
  const handle = await open(file, "r+");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** So that names sort as their records do. */
function padded(logIndex: number): string {
  return String(logIndex).padStart(12, "0");
}
