/** Sending, reading and beginning sessions, for agents whose keys the service holds. */
import type { z } from "zod";
import { encodeBase64Url } from "../../../protocol/base64url.ts";
import { formatTimestamp } from "../../../protocol/timestamp.ts";
import type { OpenedMailbox } from "../../../store/custody/open-mailbox.ts";
import { beginSession } from "../../operations/begin-session.ts";
import { ingressKey } from "../../operations/ingress-key.ts";
import { OPEN_MESSAGES_MAX, openMessages } from "../../operations/open-messages.ts";
import { reportDelivered } from "../../operations/report-delivered.ts";
import { type NewMessage, sendMessages } from "../../operations/send-messages.ts";
import {
  beginSessionAnswer,
  beginSessionBody,
  ingressKeyAnswer,
  openAnswer,
  openBody,
  sendMessagesBody,
} from "../custody-schemas.ts";
import { sendAnswer } from "../message-schemas.ts";
import { appliedOf, preferWait, waitApplied, waitOf } from "../prefer.ts";
import { route } from "../route.ts";

const heldKeys = ["custody-mismatch", "custody-unavailable", "keys-destroyed", "keys-unavailable"] as const;

export const sealingKey = route({
  method: "GET",
  path: "/messaging/ingress-key",
  operationId: "ingressKey",
  summary: "The key that content is sealed to today",
  description:
    "For agents of server custody that seal their content themselves (docs/protocol.md §8), so that the API does not see it. The encryption tier, and whoever runs it, can open it all the same.",
  signedBy: "agent",
  request: {},
  answers: { 200: { description: "The key of this epoch, a day of UTC", schema: ingressKeyAnswer } },
  refuses: ["custody-mismatch", "custody-unavailable"],
  handle: async (deps, { caller }) => {
    const { epoch, publicKey, acceptedUntil } = await ingressKey(deps, caller);
    return {
      status: 200,
      json: {
        epoch,
        public_key: encodeBase64Url(publicKey),
        accepted_until: formatTimestamp(acceptedUntil),
        readable_by: "agent-and-operator",
      },
    };
  },
});

export const sendHeld = route({
  method: "POST",
  path: "/messaging/messages",
  operationId: "sendMessages",
  summary: "Send 1 to 100 messages, to be encrypted by the service",
  description:
    "For agents of server custody. Whoever runs the encryption tier can read them. Given as content_type and body the API can, too, for the moment of this call; given as sealed (GET /messaging/ingress-key) it cannot. Kafka and the databases hold ciphertext only. All or nothing; message_id is the idempotency key, also of content that is sealed anew.",
  signedBy: "agent",
  sends: true,
  request: { body: sendMessagesBody, messageIdAt: (body) => (path) => messageIdAt(body, path) },
  answers: { 202: { description: "In the log; what becomes of it: GET /messaging/messages/{id}", schema: sendAnswer } },
  refuses: [
    ...heldKeys,
    "too-many",
    "recipient-unknown",
    "not-allowed",
    "message-id-too-old",
    "message-id-in-future",
    "message-id-reused",
    "epoch-refused",
    "pair-full",
  ],
  handle: async (deps, { caller, body }) => {
    const accepted = await sendMessages(deps, caller, body.messages.map(messageOf));
    return { status: 202, json: { accepted: accepted.map((id) => ({ message_id: id })) } };
  },
});

export const open = route({
  method: "POST",
  path: "/messaging/open",
  operationId: "openMessages",
  summary: "Read up to 100 messages, decrypted by the service",
  description:
    "For agents of server custody: the service opens them, and whoever runs it could read them. The same messages are answered until they are acknowledged (POST /messaging/acknowledge). What does not open stands in failed, until the service has asked its sender to say it anew.",
  signedBy: "agent",
  request: { body: openBody, headers: preferWait },
  answers: { 200: { description: "What waits", schema: openAnswer, headers: waitApplied } },
  refuses: heldKeys,
  handle: async (deps, { caller, body, headers: { prefer }, signal }) => {
    const waitSeconds = waitOf(prefer);
    const opened = await openMessages(deps, caller, {
      afterSeq: Number(body.after ?? "0"),
      limit: body.limit ?? OPEN_MESSAGES_MAX,
      waitMs: (waitSeconds ?? 0) * 1000,
      signal,
    });
    const items = opened.messages.map(({ senderId, messageId }) => ({ senderId, itemId: messageId }));
    return {
      status: 200,
      json: toWire(opened),
      headers: appliedOf(waitSeconds),
      written: () => reportDelivered(deps, caller.agentId, items, "http"),
    };
  },
});

export const begin = route({
  method: "POST",
  path: "/messaging/sessions",
  operationId: "beginSession",
  summary: "Begin a session with a peer ahead of the first message",
  description:
    "For agents of server custody; those that hold their keys begin sessions themselves (POST /messaging/prekeys/{recipient}). Again answers the session there is. The peer learns of it with the first message. Whoever runs the encryption tier can read what is said in it.",
  signedBy: "agent",
  needsRedis: true,
  request: { body: beginSessionBody },
  answers: {
    201: { description: "Begun", schema: beginSessionAnswer },
    200: { description: "There was one to send in", schema: beginSessionAnswer },
  },
  refuses: [...heldKeys, "recipient-unknown", "not-allowed", "prekeys-unavailable"],
  handle: async (deps, { caller, body }) => {
    const { sessionId, isNew, unanswered } = await beginSession(deps, caller, body.peer_id);
    return {
      status: isNew ? 201 : 200,
      json: {
        session_id: encodeBase64Url(sessionId),
        peer_id: body.peer_id,
        answered: unanswered === null,
        ...(unanswered === null
          ? {}
          : { suite: unanswered.suite, initialized_at: formatTimestamp(unanswered.startedAt) }),
        custody: "server",
        readable_by: "agents-and-operator",
      },
    };
  },
});

/** The schema has seen to it that it has the one or the other. */
function messageOf({
  message_id: messageId,
  recipient_id: recipientId,
  content_type: contentType = "",
  body = "",
  sealed,
}: z.output<typeof sendMessagesBody>["messages"][number]): NewMessage {
  const ids = { messageId, recipientId };
  if (sealed !== undefined) return { ...ids, sealed: Buffer.from(sealed, "base64url") };
  return { ...ids, contentType, body: Buffer.from(body, "base64url") };
}

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
