/**
 * `manifest.json`: what a replay is, so that it can be checked without anybody who made it. Nothing in it depends on when or where it ran: the same range
 * of the same log is the same manifest to the last byte.
 */
import { z } from "zod";
import { formatTimestamp } from "../protocol/timestamp.ts";
import { FORMATS, type ReplayRequest } from "./request.ts";

const count = z.int().nonnegative();
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
/** A name, no path: a manifest must not make its reader open anything elsewhere. */
const fileName = z.string().regex(/^[a-z0-9-]+\.(jsonl|csv|parquet|bin)$/);
const base64 = z.base64();

export const writtenFile = z.strictObject({
  name: fileName,
  sha256,
  bytes: count,
  records: count,
  first_log_index: count,
  last_log_index: count,
});
export type WrittenFile = z.infer<typeof writtenFile>;

const offsetsOfPartition = z.strictObject({ partition: count, from: count, to: count });
export type OffsetsOfPartition = z.infer<typeof offsetsOfPartition>;

const signed = z.strictObject({
  verifier_key: z.string(),
  /** The signed note. */
  checkpoint: z.string(),
  /** What is before the first place: perfect subtrees, the largest first. */
  before: z.array(base64),
  /** What is behind the last place: from the leaf upwards. */
  behind: z.array(base64),
});

export const manifest = z.strictObject({
  format_version: z.literal(1),
  topic: z.string(),
  from: z.string(),
  to: z.string(),
  late_ms: count,
  /** False: nothing signed is known behind what was read, so that more of the range may come; another replay may find it. */
  closed: z.boolean(),
  /** Partitions whose beginning is gone, in the time that was read: older records of the range may have been there. */
  trimmed: z.array(count),
  agents: z.array(z.string()),
  actions: z.array(z.string()),
  format: z.enum(FORMATS),
  records_per_file: count,
  records: count,
  by_action: z.record(z.string(), count),
  /** The places of the log that were checked, from the record before what was read to the one behind it. Null where no checkpoint has any. */
  places: z.strictObject({ first: count, last: count }).nullable(),
  /** The records in the files stand in Kafka at these offsets, from the first up to before `to`. */
  offsets: z.array(offsetsOfPartition),
  files: z.array(writtenFile),
  leaves: z.strictObject({ name: z.literal("leaves.bin"), sha256, bytes: count }).nullable(),
  /** Null: it was not verified, and `unverified` says why. */
  verified: signed.nullable(),
  unverified: z.string().nullable(),
});
export type Manifest = z.infer<typeof manifest>;

export const MANIFEST_NAME = "manifest.json";
export const LEAVES_NAME = "leaves.bin";

export function requestLines(request: ReplayRequest) {
  const { from, to, late_ms, agents, actions, format, records_per_file } = request;
  return {
    ...{ from: formatTimestamp(from), to: formatTimestamp(to), late_ms },
    ...{ agents, actions, format, records_per_file },
  };
}

export function manifestText(value: Manifest): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
