/** Sending and reading, for agents whose keys the service holds. */
import { formatTimestamp } from "../../../protocol/timestamp.ts";
import type { OpenedMailbox } from "../../../store/custody/open-mailbox.ts";
import { OPEN_MESSAGES_MAX, openMessages } from "../../operations/open-messages.ts";
import { reportDelivered } from "../../operations/report-delivered.ts";
import { sendMessages } from "../../operations/send-messages.ts";
import { route } from "../route.ts";
import { openAnswer, openBody, sendAnswer, sendMessagesBody } from "../schemas.ts";

const heldKeys = ["custody-mismatch", "custody-unavailable", "keys-destroyed", "keys-unavailable"] as const;

export const sendPlain = route({
  method: "POST",
  path: "/messaging/messages",
  operationId: "sendMessages",
  summary: "Send 1 to 100 messages, to be encrypted by the service",
  description:
    "For agents of server custody. Whoever runs the encryption tier can read them, and the API, for the moment of this call, too; Kafka and the databases hold ciphertext only. All or nothing; message_id is the idempotency key.",
  signedBy: "agent",
  request: { body: sendMessagesBody, messageIdAt: (body) => (path) => messageIdAt(body, path) },
  answers: { 202: { description: "In the log; what becomes of it: GET /messaging/messages/{id}", schema: sendAnswer } },
  refuses: [
    ...heldKeys,
    "too-many",
    "recipient-unknown",
    "message-id-too-old",
    "message-id-in-future",
    "message-id-reused",
  ],
  handle: async (deps, { caller, body }) => {
    const messages = body.messages.map((message) => ({
      messageId: message.message_id,
      recipientId: message.recipient_id,
      contentType: message.content_type,
      body: Buffer.from(message.body, "base64url"),
    }));
    const accepted = await sendMessages(deps, caller, messages);
    return { status: 202, json: { accepted: accepted.map((id) => ({ message_id: id })) } };
  },
});

export const open = route({
  method: "POST",
  path: "/messaging/open",
  operationId: "openMessages",
  summary: "Read up to 100 messages, decrypted by the service",
  description:
    "For agents of server custody. The same messages are answered until they are acknowledged (POST /messaging/acknowledge). What does not open stays in the mailbox and stands in failed.",
  signedBy: "agent",
  request: { body: openBody },
  answers: { 200: { description: "What waits", schema: openAnswer } },
  refuses: heldKeys,
  handle: async (deps, { caller, body }) => {
    const opened = await openMessages(deps, caller, {
      afterSeq: Number(body.after ?? "0"),
      limit: body.limit ?? OPEN_MESSAGES_MAX,
    });
    const items = opened.messages.map(({ senderId, messageId }) => ({ senderId, itemId: messageId }));
    return {
      status: 200,
      json: toWire(opened),
      written: () => reportDelivered(deps, caller.agentId, items, "http"),
    };
  },
});

function toWire({ messages, failed, cursor, lastSeq }: OpenedMailbox): Record<string, unknown> {
  return {
    messages: messages.map((message) => ({
      seq: message.seq,
      message_id: message.messageId,
      sender_id: message.senderId,
      content_type: message.contentType,
      body: Buffer.from(message.body).toString("base64url"),
      sent_at: formatTimestamp(message.sentAt),
    })),
    failed: failed.map(({ seq, messageId, senderId, code }) => {
      return { seq, message_id: messageId, sender_id: senderId, code };
    }),
    cursor: String(cursor),
    last_seq: lastSeq,
  };
}

/** The id of the message that `/messages/<n>/…` lies in, as far as it has one. */
function messageIdAt(body: unknown, [member, index]: readonly PropertyKey[]): string | undefined {
  if (member !== "messages" || typeof index !== "number") return undefined;
  const id = (body as { messages: { message_id?: unknown }[] }).messages[index]?.message_id;
  return typeof id === "string" && id.length <= 36 ? id : undefined;
}
