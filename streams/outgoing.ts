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

/** Length fields, offset and timestamp deltas of a record in the log. */
const recordOverheadBytes = 32;

export function toMessage({ topic, key, value, headers }: Outgoing): Unplaced {
  const message = { key: asBuffer(key), value: asBuffer(value), headers: { ...headers } };
  let bytes = recordOverheadBytes + message.key.length + message.value.length;
  for (const [name, text] of Object.entries(headers)) bytes += name.length + Buffer.byteLength(text) + 4;
  return { topic, message, bytes };
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
