/** Messages of agents that hold their keys, and what became of messages: sending, receiving, answering, asking. */
import { z } from "zod";
import "zod-openapi";
import type { ProtocolCode } from "../../protocol/refusal.ts";
import { MESSAGE_STATES } from "../../store/messages.ts";
import { ANSWERS_MAX } from "../operations/acknowledge.ts";
import { STATUS_MESSAGES_MAX } from "../operations/message-status.ts";
import { RECEIVE_ITEMS_MAX } from "../operations/receive.ts";
import { SEND_ENVELOPES_MAX } from "../operations/send.ts";
import {
  agentId,
  base64url,
  exampleAgent,
  exampleId,
  exampleKey,
  exampleTime,
  longBase64url,
  messageId,
  seq,
  timestamp,
  u32,
  uuid,
  wholeNumber,
} from "./value-schemas.ts";

/** The envelope of protocol.md §6. Its codec decides once more; this is how the decision is explained. */
export const envelope = z
  .strictObject({
    message_id: messageId,
    sender_id: agentId,
    recipient_id: agentId,
    session_id: base64url(16),
    send_counter: u32.min(1),
    previous_counter: u32,
    dh_public_key: base64url(32),
    nonce: base64url(12),
    ciphertext: longBase64url.meta({
      description: "At most 65,536 bytes as base64url, unless the operator sets otherwise",
    }),
    auth_tag: base64url(16),
    timestamp: timestamp.describe("The time in message_id"),
    flags: z.int().min(0).max(255),
    initiation: longBase64url.min(1).optional().describe("Absent when the session is established"),
  })
  .meta({
    id: "Envelope",
    example: {
      message_id: exampleId,
      sender_id: exampleAgent,
      recipient_id: exampleAgent,
      session_id: "AAECAwQFBgcICQoLDA0ODw",
      send_counter: 1,
      previous_counter: 0,
      dh_public_key: exampleKey,
      nonce: "AAECAwQFBgcICQoL",
      ciphertext: "Y2lwaGVydGV4dA",
      auth_tag: "AAECAwQFBgcICQoLDA0ODw",
      timestamp: exampleTime,
      flags: 0,
    },
  });

export const sendBody = z
  .strictObject({ envelopes: z.array(envelope).min(1).max(SEND_ENVELOPES_MAX) })
  .meta({ id: "Send" });

export const sendAnswer = z
  .strictObject({ accepted: z.array(z.strictObject({ message_id: messageId })).describe("In the order of the call") })
  .meta({ id: "Accepted" });

export const receiveQuery = z.strictObject({
  after: wholeNumber
    .refine((text) => Number(text) <= Number.MAX_SAFE_INTEGER, { error: "too large" })
    .optional()
    .meta({ description: "The cursor of the answer before; left out (or 0) at the start of a sweep", example: "0" }),
  limit: wholeNumber
    .refine((text) => Number(text) >= 1 && Number(text) <= RECEIVE_ITEMS_MAX, {
      error: `not between 1 and ${RECEIVE_ITEMS_MAX}`,
    })
    .optional()
    .meta({ description: `Items at most, 1 to ${RECEIVE_ITEMS_MAX} (default ${RECEIVE_ITEMS_MAX})`, example: "100" }),
});

const retryRequest = z
  .strictObject({
    kind: z.literal("retry"),
    sender_id: agentId.describe("Of the failed message"),
    recipient_id: agentId.describe("Of the failed message: who asks"),
    message_id: messageId,
    session_id: base64url(16),
    dh_public_key: base64url(32),
    time: timestamp,
    signature: base64url(64).describe("By the recipient's identity key (protocol.md §4)"),
  })
  .meta({ id: "RetryRequest" });

const item = z
  .strictObject({
    seq: seq.describe("Place in the mailbox; 1, 2, 3 …"),
    kind: z.enum(["message", "retry"]),
    sender_id: agentId,
    item_id: uuid.describe("The message_id of a message"),
    envelope: envelope.optional().describe("Of kind message"),
    retry: retryRequest.optional().describe("Of kind retry"),
  })
  .meta({ id: "Item" });

export const receiveAnswer = z
  .strictObject({
    items: z.array(item).describe("By seq"),
    cursor: z.string().describe("`after` of the next call"),
    last_seq: z.int().min(0).describe("The mailbox's last seq at that moment"),
  })
  .meta({ id: "Received" });

/** protocol.md §7: why a client can never use a message. */
const refusalCodes = [
  "malformed",
  "wrong-recipient",
  "session-unknown",
  "message-key-gone",
  "identity-key-invalid",
  "identity-mismatch",
  "session-mismatch",
  "suite-refused",
  "prekey-unknown",
  "bad-key",
  "counter-too-far",
  "auth-failed",
  "bad-frame",
  "bad-padding",
  "signature-invalid",
  "prekey-stale",
] as const satisfies readonly ProtocolCode[];

const answerItem = z
  .strictObject({
    sender_id: agentId.optional(),
    message_id: uuid.optional().describe("With sender_id"),
    seq: seq.optional().describe("Instead of sender_id and message_id"),
    refused: z.enum(refusalCodes).optional().describe("The message can never be used: why. Left out: it was decrypted"),
  })
  .refine(({ sender_id, message_id, seq: place }) => namesOneItem(sender_id, message_id, place), {
    error: "an answer names its item by sender_id and message_id, or by seq",
  })
  .meta({ id: "Answer", example: { sender_id: exampleAgent, message_id: exampleId } });

function namesOneItem(senderId: string | undefined, id: string | undefined, place: number | undefined): boolean {
  if (place !== undefined) return senderId === undefined && id === undefined;
  return senderId !== undefined && id !== undefined;
}

export const acknowledgeBody = z
  .strictObject({ items: z.array(answerItem).min(1).max(ANSWERS_MAX) })
  .meta({ id: "Acknowledgement" });

export const acknowledgeAnswer = z
  .strictObject({
    accepted: z.int().min(0).describe("Answers taken; an item named by seq that no longer waits is not counted"),
  })
  .meta({ id: "Acknowledged" });

export const messagePath = z.strictObject({ id: messageId });

export const messageQuery = z.strictObject({ sender: agentId.optional().describe("Default: the caller") });

export const messageAnswer = z
  .strictObject({
    message_id: messageId,
    sender_id: agentId,
    recipient_id: agentId,
    status: z
      .enum([...MESSAGE_STATES, "discarded"])
      .describe("discarded: the service, which was to encrypt it, did not; told to its sender only"),
    digest: base64url(32).nullable().describe("SHA-256 of the envelope's canonical bytes; null: there is no envelope"),
    code: z.string().nullable().describe("Why it was refused or discarded"),
    accepted_at: timestamp,
    queued_at: timestamp.nullable(),
    undeliverable_at: timestamp.nullable().describe("When the recipient could not be woken; it may come by itself"),
    delivered_at: timestamp.nullable(),
    ended_at: timestamp.nullable(),
  })
  .meta({ id: "MessageStatus" });

export const messagesBody = z
  .strictObject({
    messages: z
      .array(z.strictObject({ message_id: messageId, sender_id: agentId.optional().describe("Default: the caller") }))
      .min(1)
      .max(STATUS_MESSAGES_MAX),
  })
  .meta({ id: "MessageStatusQuery", example: { messages: [{ message_id: exampleId }] } });

const unknownMessage = z
  .strictObject({ message_id: messageId, sender_id: agentId, status: z.literal("unknown") })
  .meta({ id: "UnknownMessage" });

export const messagesAnswer = z
  .strictObject({ messages: z.array(z.union([messageAnswer, unknownMessage])).describe("In the order of the call") })
  .meta({ id: "MessageStatuses" });

export const retryBody = z
  .strictObject({ item_id: uuid.describe("UUIDv7 made by the caller, the idempotency key"), retry: retryRequest })
  .meta({ id: "RetryCall" });

export const retryAnswer = z.strictObject({ item_id: uuid }).meta({ id: "RetryAccepted" });
