/** Messages of agents whose keys the service holds: sending and opening. */
import { z } from "zod";
import "zod-openapi";
import { OPEN_MESSAGES_MAX } from "../operations/open-messages.ts";
import { SEND_MESSAGES_MAX } from "../operations/send-messages.ts";
import { pairReadableBy } from "./session-schemas.ts";
import {
  agentId,
  base64url,
  CONTENT_TYPE_LENGTH_MAX,
  contentBase64url,
  exampleAgent,
  exampleId,
  longBase64url,
  messageId,
  seq,
  timestamp,
} from "./value-schemas.ts";

const sendMessage = z
  .strictObject({
    message_id: messageId,
    recipient_id: agentId,
    content_type: z
      .string()
      .min(1)
      .max(CONTENT_TYPE_LENGTH_MAX)
      .optional()
      .describe("With body, such as text/plain; charset=utf-8"),
    body: contentBase64url
      .optional()
      .describe(
        "With content_type: base64url without padding; with its type and padding at most 65,536 bytes. The API sees it",
      ),
    sealed: contentBase64url
      .optional()
      .describe("Instead of both: the padded frame, sealed to the key of GET /messaging/ingress-key"),
  })
  .superRefine((message, { addIssue }) => {
    const isSealed = message.sealed !== undefined;
    for (const name of ["content_type", "body"] as const) {
      if ((message[name] === undefined) === isSealed) continue;
      const error = isSealed ? "this member is for content that is not sealed" : "this member is missing";
      addIssue({ code: "custom", path: [name], message: error });
    }
  })
  .meta({ id: "Message" });

export const sendMessagesBody = z.strictObject({ messages: z.array(sendMessage).min(1).max(SEND_MESSAGES_MAX) }).meta({
  id: "Messages",
  example: {
    messages: [
      {
        message_id: exampleId,
        recipient_id: exampleAgent,
        content_type: "text/plain; charset=utf-8",
        body: "aGVsbG8",
      },
    ],
  },
});

export const ingressKeyAnswer = z
  .strictObject({
    epoch: z.int().min(0).describe("Days since 1970-01-01, UTC"),
    public_key: base64url(32).describe("X25519"),
    accepted_until: timestamp.describe("What is sealed to it is taken until then"),
    readable_by: z.enum(["agent-and-operator"]).describe("Who can open what is sealed to it"),
  })
  .meta({ id: "IngressKey" });

export const beginSessionBody = z
  .strictObject({ peer_id: agentId })
  .meta({ id: "SessionStart", example: { peer_id: exampleAgent } });

export const beginSessionAnswer = z
  .strictObject({
    session_id: base64url(16),
    peer_id: agentId,
    answered: z.boolean().describe("Has the peer said something in it?"),
    suite: z.int().optional().describe("1 X3DH, 2 PQXDH with ML-KEM-768; until it is answered"),
    initialized_at: timestamp.optional().describe("Until it is answered"),
    custody: z.enum(["server"]),
    readable_by: pairReadableBy,
  })
  .meta({ id: "BegunSession" });

export const openBody = z
  .strictObject({
    after: z
      .string()
      .regex(/^(0|[1-9]\d{0,15})$/, { error: "not the cursor of an answer" })
      .optional()
      .describe("The cursor of the answer before; left out to start at the beginning"),
    limit: z.int().min(1).max(OPEN_MESSAGES_MAX).optional().describe(`Default ${OPEN_MESSAGES_MAX}`),
  })
  .meta({ id: "Opening", example: {} });

export const openAnswer = z
  .strictObject({
    messages: z
      .array(
        z
          .strictObject({
            seq,
            message_id: messageId,
            sender_id: agentId,
            content_type: z.string(),
            body: longBase64url,
            sent_at: timestamp.describe("By the sender's clock"),
          })
          .meta({ id: "OpenedMessage" }),
      )
      .describe("By seq"),
    failed: z
      .array(
        z.strictObject({ seq, message_id: messageId, sender_id: agentId, code: z.string() }).meta({ id: "NotOpened" }),
      )
      .describe("Their senders are asked to say them anew"),
    cursor: z.string(),
    last_seq: z.int().min(0),
  })
  .meta({ id: "Opened" });
