/**
 * What a record says, decoded without our codec: by avsc alone, and the schema in `schemas/` by the topic's name.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import avro from "avsc";
import type { AuditEntry, LogItem, LogRecord } from "../checker/history.ts";
import type { RawRecord } from "./segments.ts";

const folder = path.resolve(import.meta.dirname, "../../../schemas");

/** What Confluent's wire format puts before the value. */
const HEADER_BYTES = 5;

/** Where messages go; of the other topics only the bytes are compared. */
const aboutMessages = new Set([
  "message.send.v1",
  "message.encrypted.v1",
  "message.queued.v1",
  "message.delivered.v1",
  "message.acknowledged.v1",
  "message.discarded.v1",
  "message.undeliverable.v1",
  "message.set-aside.v1",
]);

const auditTopic = "audit.v1";

const types = new Map(
  readdirSync(folder)
    .filter((file) => [...aboutMessages, auditTopic].includes(path.basename(file, ".avsc")))
    .map((file) => {
      const schema = JSON.parse(readFileSync(path.join(folder, file), "utf8")) as avro.Schema;
      return [path.basename(file, ".avsc"), avro.Type.forSchema(schema)] as const;
    }),
);

export function logRecord({ topic, partition, offset, key, value, headers }: RawRecord): LogRecord {
  return {
    topic,
    partition,
    offset,
    key: key?.toString("base64") ?? "",
    eventId: headers["ce_id"] ?? null,
    digest: digestOf(value ?? Buffer.alloc(0)),
    item: aboutMessages.has(topic) ? itemOf(topic, value) : null,
    audit: topic === auditTopic ? auditEntryOf(value) : null,
  };
}

export function digestOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex").slice(0, 32);
}

interface Decoded {
  readonly kind?: string;
  readonly custody?: string;
  readonly item_id?: Buffer;
  readonly message_id?: Buffer;
  readonly sender_id: string;
  readonly recipient_id: string;
  readonly session_id?: Buffer;
  readonly seq?: number;
  readonly code?: string;
  readonly body?: Buffer;
  readonly hmac?: Buffer;
  readonly delivered_at?: number;
  readonly acknowledged_at?: number;
  readonly queued_at?: number;
  readonly discarded_at?: number;
  readonly size?: number | null;
}

interface DecodedAudit {
  readonly log_index: number;
  readonly action: string;
  readonly source_event_id: Buffer;
  readonly source_topic: string;
  readonly source_partition: number;
  readonly source_offset: number;
}

/** Null: poison. */
function decode<Value>(topic: string, value: Buffer | null): Value | null {
  const type = types.get(topic);
  if (type === undefined || value === null || value[0] !== 0) return null;
  try {
    return type.fromBuffer(value.subarray(HEADER_BYTES)) as Value;
  } catch {
    return null;
  }
}

function auditEntryOf(value: Buffer | null): AuditEntry | null {
  const decoded = decode<DecodedAudit>(auditTopic, value);
  if (decoded === null) return null;
  const { log_index, action, source_event_id, source_topic, source_partition, source_offset } = decoded;
  return {
    logIndex: log_index,
    action,
    sourceEventId: uuid(source_event_id),
    sourceTopic: source_topic,
    sourcePartition: source_partition,
    sourceOffset: source_offset,
  };
}

function itemOf(topic: string, value: Buffer | null): LogItem | null {
  const decoded = decode<Decoded>(topic, value);
  if (decoded === null) return null;
  const { kind = "message", item_id, message_id, sender_id, recipient_id, session_id, seq, code, body, hmac } = decoded;
  const content = body ?? hmac;
  return {
    kind,
    custody: decoded.custody ?? null,
    messageId: uuid(item_id ?? message_id),
    senderId: sender_id,
    recipientId: recipient_id,
    sessionId: session_id?.toString("hex") ?? null,
    seq: seq ?? null,
    code: code ?? null,
    deliveredAt: decoded.delivered_at ?? null,
    acknowledgedAt: decoded.acknowledged_at ?? null,
    queuedAt: decoded.queued_at ?? null,
    discardedAt: decoded.discarded_at ?? null,
    size: decoded.size ?? null,
    bodyDigest: content === undefined ? null : digestOf(content),
    body: topic === "message.encrypted.v1" ? (body?.toString("base64") ?? null) : null,
  };
}

function uuid(bytes: Buffer | undefined): string {
  const hex = bytes?.toString("hex") ?? "";
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
