/**
 * What is hashed of an audit record: its canonical bytes, the leaf of the Merkle log (docs/audit.md).
 *
 *     leaf  = label("sealpost/v1/audit-record") ‖ event_id(16) ‖ u64(log_index) ‖ text(agent_id) ‖ text(actor)
 *             ‖ u32(links) ‖ for each link of the delegation, from its root: text(issuer_id) ‖ text(token_id)
 *             ‖ text(action) ‖ maybe(text(sender_id)) ‖ maybe(text(recipient_id)) ‖ maybe(message_id(16)) ‖ maybe(u64(size))
 *             ‖ u64(occurred_at, ms) ‖ text(outcome) ‖ maybe(text(subject)) ‖ maybe(text(reason))
 *             ‖ text(source_topic) ‖ u32(source_partition) ‖ u64(source_offset) ‖ source_event_id(16)
 *     text(t)  = u32(bytes) ‖ UTF-8          maybe(x) = 0x00, or 0x01 ‖ x
 *
 * It knows nothing of Avro: a field that a later schema adds is not part of a v1 leaf, so that a leaf stays what it was.
 */
import { ByteWriter, join, label } from "../bytes.ts";
import { Refusal } from "../refusal.ts";
import { encodeUtf8 } from "../utf8.ts";
import { isUuid, uuidToBytes } from "../uuid.ts";

const LEAF_LABEL = label("sealpost/v1/audit-record");
const ABSENT = Uint8Array.of(0);
const PRESENT = Uint8Array.of(1);

/** The fields of an `audit.v1` record that the log vouches for; `AuditRecord` of schemas/values.ts is one. */
export interface LeafRecord {
  readonly eventId: string;
  readonly logIndex: number;
  readonly agentId: string;
  readonly actor: string;
  readonly delegation: readonly { readonly issuerId: string; readonly tokenId: string }[];
  readonly action: string;
  readonly senderId: string | null;
  readonly recipientId: string | null;
  readonly messageId: string | null;
  readonly size: number | null;
  readonly occurredAt: number;
  readonly outcome: string;
  readonly subject: string | null;
  readonly reason: string | null;
  readonly sourceTopic: string;
  readonly sourcePartition: number;
  readonly sourceOffset: number;
  readonly sourceEventId: string;
}

/** Different records have different bytes. Refuses (`malformed`, naming the field) what has none: no UUID, no whole number from 0 on, no UTF-8. */
export function leafBytes(record: LeafRecord): Uint8Array {
  const { delegation, senderId, recipientId, messageId, size, subject, reason } = record;
  return join([
    LEAF_LABEL,
    uuid("event_id", record.eventId),
    u64("log_index", record.logIndex),
    text("agent_id", record.agentId),
    text("actor", record.actor),
    new ByteWriter(4).u32(delegation.length).finish(),
    ...delegation.flatMap(({ issuerId, tokenId }) => [text("delegation", issuerId), text("delegation", tokenId)]),
    text("action", record.action),
    ...maybe(senderId, (value) => text("sender_id", value)),
    ...maybe(recipientId, (value) => text("recipient_id", value)),
    ...maybe(messageId, (value) => uuid("message_id", value)),
    ...maybe(size, (value) => u64("size", value)),
    u64("occurred_at", record.occurredAt),
    text("outcome", record.outcome),
    ...maybe(subject, (value) => text("subject", value)),
    ...maybe(reason, (value) => text("reason", value)),
    text("source_topic", record.sourceTopic),
    u32("source_partition", record.sourcePartition),
    u64("source_offset", record.sourceOffset),
    uuid("source_event_id", record.sourceEventId),
  ]);
}

function maybe<Value>(value: Value | null, bytesOf: (value: Value) => Uint8Array): readonly Uint8Array[] {
  return value === null ? [ABSENT] : [PRESENT, bytesOf(value)];
}

function text(field: string, value: string): Uint8Array {
  const bytes = encodeUtf8(value);
  if (bytes === null) throw malformed(field, "text without lone surrogates");
  return new ByteWriter(4 + bytes.length).u32(bytes.length).bytes(bytes).finish();
}

function uuid(field: string, value: string): Uint8Array {
  if (!isUuid(value)) throw malformed(field, "a UUID in lower case");
  return uuidToBytes(value);
}

function u32(field: string, value: number): Uint8Array {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff) throw malformed(field, "a whole number from 0 on");
  return new ByteWriter(4).u32(value).finish();
}

function u64(field: string, value: number): Uint8Array {
  if (!Number.isSafeInteger(value) || value < 0) throw malformed(field, "a whole number from 0 on");
  return new ByteWriter(8).u64(value).finish();
}

function malformed(field: string, fix: string): Refusal {
  return new Refusal("malformed", { field, fix });
}
