/** Audit records for tests and the bench: any number of them, the same ones each time. */
import { createHash } from "node:crypto";
import type { AuditRecord } from "../schemas/values.ts";

const agents = Array.from({ length: 1_000 }, (_, n) => createHash("sha256").update(`agent ${n}`).digest("base64url"));

/** When the first one happened; each further one a millisecond later, give or take. */
export const RECORDS_BEGIN = Date.UTC(2026, 0, 1);

/** The record at a place in the log. Every seventh has no message, every thirteenth a delegation. */
export function auditRecordAt(logIndex: number): AuditRecord {
  const sender = agents[logIndex % agents.length] ?? "";
  const recipient = agents[(logIndex * 7 + 1) % agents.length] ?? "";
  const isMessage = logIndex % 7 !== 0;
  const delegation = logIndex % 13 === 0 ? [{ issuerId: sender, tokenId: `"token", ${logIndex}` }] : [];
  return {
    eventId: uuidOf(`event ${logIndex}`),
    logIndex,
    agentId: recipient,
    actor: sender,
    delegation,
    action: isMessage ? "message.accepted" : "prekey.claimed",
    senderId: isMessage ? sender : null,
    recipientId: recipient,
    messageId: isMessage ? uuidOf(`message ${logIndex}`) : null,
    size: isMessage ? 200 + (logIndex % 1_000) : null,
    // Not in the log's order: partitions of different topics lag differently.
    occurredAt: RECORDS_BEGIN + logIndex + (logIndex % 5),
    outcome: "ok",
    subject: isMessage ? null : `key ${logIndex % 50}`,
    reason: logIndex % 11 === 0 ? `because, "${logIndex}"` : null,
    sourceTopic: isMessage ? "message.queued.v1" : "prekey.claimed.v1",
    sourcePartition: logIndex % 8,
    sourceOffset: Math.floor(logIndex / 8),
    sourceEventId: uuidOf(`source ${logIndex}`),
  };
}

function uuidOf(text: string): string {
  const hex = createHash("sha256").update(text).digest("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
