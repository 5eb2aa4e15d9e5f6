/** A record as it stands in a file: names as on the wire, times as text that people read. One row is one record, and comes back as the same. */
import { z } from "zod";
import { formatTimestamp, parseTimestamp } from "../protocol/timestamp.ts";
import type { AuditRecord } from "../schemas/values.ts";

const count = z.int().nonnegative();

const row = z.strictObject({
  log_index: count,
  event_id: z.string(),
  agent_id: z.string(),
  actor: z.string(),
  delegation: z.array(z.strictObject({ issuer_id: z.string(), token_id: z.string() })),
  action: z.string(),
  sender_id: z.string().nullable(),
  recipient_id: z.string().nullable(),
  message_id: z.string().nullable(),
  size: count.nullable(),
  occurred_at: z.string(),
  outcome: z.string(),
  subject: z.string().nullable(),
  reason: z.string().nullable(),
  source_topic: z.string(),
  source_partition: count,
  source_offset: count,
  source_event_id: z.string(),
});

export type Row = z.infer<typeof row>;

/** The columns, in their order in every format. */
export const COLUMNS = Object.keys(row.shape) as readonly (keyof Row)[];

export function rowOf(record: AuditRecord): Row {
  return {
    log_index: record.logIndex,
    event_id: record.eventId,
    agent_id: record.agentId,
    actor: record.actor,
    delegation: record.delegation.map(({ issuerId, tokenId }) => ({ issuer_id: issuerId, token_id: tokenId })),
    action: record.action,
    sender_id: record.senderId,
    recipient_id: record.recipientId,
    message_id: record.messageId,
    size: record.size,
    occurred_at: formatTimestamp(record.occurredAt),
    outcome: record.outcome,
    subject: record.subject,
    reason: record.reason,
    source_topic: record.sourceTopic,
    source_partition: record.sourcePartition,
    source_offset: record.sourceOffset,
    source_event_id: record.sourceEventId,
  };
}

/** The record a row was made of; null for what is no row. */
export function recordOf(value: unknown): AuditRecord | null {
  const parsed = row.safeParse(value);
  if (!parsed.success) return null;
  const { data } = parsed;
  const occurredAt = parseTimestamp(data.occurred_at);
  if (occurredAt === null) return null;
  return {
    eventId: data.event_id,
    logIndex: data.log_index,
    agentId: data.agent_id,
    actor: data.actor,
    delegation: data.delegation.map(({ issuer_id, token_id }) => ({ issuerId: issuer_id, tokenId: token_id })),
    action: data.action,
    senderId: data.sender_id,
    recipientId: data.recipient_id,
    messageId: data.message_id,
    size: data.size,
    occurredAt,
    outcome: data.outcome,
    subject: data.subject,
    reason: data.reason,
    sourceTopic: data.source_topic,
    sourcePartition: data.source_partition,
    sourceOffset: data.source_offset,
    sourceEventId: data.source_event_id,
  };
}
