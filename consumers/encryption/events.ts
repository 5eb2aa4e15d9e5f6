/**
 * What encryption tells the world. Pure.
 */
import { messageIdTime } from "../../protocol/message-id.ts";
import type { MessageDiscarded, MessageEncrypted, MessageSend } from "../../schemas/values.ts";
import { messageDiscarded, messageEncrypted } from "../../streams/catalogue.ts";
import type { Emit, Inbound, Rejected } from "../../streams/consumer.ts";

/** `envelope`: canonical bytes. A repeat has the same, and another `ce_id`: queuing knows it by its digest. */
export function encryptedEvent(record: Inbound<MessageSend>, envelope: Uint8Array): Emit<MessageEncrypted> {
  const { messageId: itemId, senderId, recipientId } = record.value;
  return {
    topic: messageEncrypted,
    key: recipientId,
    cause: record,
    time: messageIdTime(itemId) ?? record.timestamp,
    subject: `${senderId}/${itemId}`,
    value: () => ({ kind: "message", itemId, senderId, recipientId, custody: "server", body: envelope }),
  };
}

export function discardedEvent(record: Inbound<MessageSend>, code: string): Emit<MessageDiscarded> {
  const { messageId, senderId, recipientId } = record.value;
  return discarded(record, { messageId, senderId, recipientId }, code);
}

const subject = /^([A-Za-z0-9_-]{43})\/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$/;
const pairKey = /^([A-Za-z0-9_-]{43}):([A-Za-z0-9_-]{43})$/;

/** The sender of a dead letter was told that it was accepted. Who and what is known from key and subject; they must agree. */
export function toLament(record: Rejected, code: string): readonly Emit[] {
  const [, subjectId, messageId] = subject.exec(record.headers["ce_subject"] ?? "") ?? [];
  const [, senderId, recipientId] = pairKey.exec(record.key) ?? [];
  if (messageId === undefined || senderId === undefined || recipientId === undefined) return [];
  if (subjectId !== senderId) return [];
  const { topic, partition, offset, timestamp } = record;
  const cause = { topic: { name: topic }, partition, offset };
  return [discarded({ ...cause, timestamp }, { messageId, senderId, recipientId }, code)];
}

function discarded(
  cause: Emit["cause"] & { readonly timestamp: number },
  ids: Pick<MessageDiscarded, "messageId" | "senderId" | "recipientId">,
  code: string,
): Emit<MessageDiscarded> {
  const at = cause.timestamp;
  return {
    topic: messageDiscarded,
    key: ids.recipientId,
    cause,
    time: at,
    subject: `${ids.senderId}/${ids.messageId}`,
    value: (eventId) => ({ eventId, ...ids, code, detail: null, digest: null, discardedAt: at }),
  };
}
