/**
 * An outgoing record as kafkajs takes it. Pure.
 */
import type { Message } from "kafkajs";
import type { Outgoing } from "./consumer.ts";
import { partitionOf } from "./partition.ts";

export interface Unplaced {
  readonly topic: string;
  readonly message: Message;
  /** As it stands in the log. */
  readonly bytes: number;
}

/** The largest topic limit (a dead letter's). A larger record can never be sent: whoever builds one has a bug. */
export const recordBytesMax = 1_100_000;

/** Length fields, offset and timestamp deltas of a record in the log. */
const recordOverheadBytes = 32;

export function toMessage(record: Outgoing): Unplaced {
  const { topic, key, value, headers } = record;
  const message = { key: asBuffer(key), value: asBuffer(value), headers: { ...headers } };
  return { topic, message, bytes: recordBytes(record) };
}

/** As it stands in the log; a little more. */
export function recordBytes({ key, value, headers }: Omit<Outgoing, "topic">): number {
  return recordOverheadBytes + Buffer.byteLength(key) + value.length + headerBytes(headers);
}

export function headerBytes(headers: Outgoing["headers"]): number {
  return Object.entries(headers).reduce(
    (sum, [name, text]) => sum + Buffer.byteLength(name) + Buffer.byteLength(text) + 4,
    0,
  );
}

/** The partition of a record's key among so many; the message names it from then on, so that no retry moves it. */
export function placeIn({ message }: Unplaced, partitions: number): number {
  const partition = partitionOf(message.key as Buffer, partitions);
  message.partition = partition;
  return partition;
}

function asBuffer(bytes: string | Uint8Array): Buffer {
  if (typeof bytes === "string") return Buffer.from(bytes, "utf8");
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
