/** What became of messages. */
import { encodeBase64Url } from "../../../protocol/base64url.ts";
import { formatTimestamp } from "../../../protocol/timestamp.ts";
import { type MessageStatus, messageStatus, messageStatuses } from "../../operations/message-status.ts";
import { messageAnswer, messagePath, messageQuery, messagesAnswer, messagesBody } from "../message-schemas.ts";
import { route } from "../route.ts";

export const oneStatus = route({
  method: "GET",
  path: "/messaging/messages/{id}",
  operationId: "messageStatus",
  summary: "What became of a message",
  description: "For its sender and its recipient only. Known from when it was stored, for 40 days.",
  signedBy: "agent",
  request: { path: messagePath, query: messageQuery },
  answers: { 200: { description: "Its status", schema: messageAnswer } },
  refuses: ["message-unknown"],
  handle: async (deps, { caller, path, query }) => {
    const key = { messageId: path.id, senderId: query.sender ?? caller.agentId };
    return { status: 200, json: toWire(await messageStatus(deps, caller, key)) };
  },
});

export const manyStatuses = route({
  method: "POST",
  path: "/messaging/messages/status",
  operationId: "messageStatuses",
  summary: "What became of up to 100 messages",
  description: "For their senders and recipients only; of others (and of what nobody knows) the status is unknown.",
  signedBy: "agent",
  request: { body: messagesBody },
  answers: { 200: { description: "Their statuses", schema: messagesAnswer } },
  refuses: ["too-many"],
  handle: async (deps, { caller, body }) => {
    const keys = body.messages.map(({ message_id: messageId, sender_id: senderId }) => ({
      messageId,
      senderId: senderId ?? caller.agentId,
    }));
    const statuses = await messageStatuses(deps, caller, keys);
    const messages = keys.map(({ messageId, senderId }, index) => {
      const status = statuses[index];
      return status ? toWire(status) : { message_id: messageId, sender_id: senderId, status: "unknown" };
    });
    return { status: 200, json: { messages } };
  },
});

function toWire(status: MessageStatus): Record<string, unknown> {
  return {
    message_id: status.messageId,
    sender_id: status.senderId,
    recipient_id: status.recipientId,
    status: status.status,
    digest: status.digest === null ? null : encodeBase64Url(status.digest),
    code: status.code,
    accepted_at: formatTimestamp(status.acceptedAt),
    queued_at: timeOrNull(status.queuedAt),
    undeliverable_at: timeOrNull(status.undeliverableAt),
    delivered_at: timeOrNull(status.deliveredAt),
    ended_at: timeOrNull(status.endedAt),
  };
}

function timeOrNull(time: number | null): string | null {
  return time === null ? null : formatTimestamp(time);
}
