/**
 * What stands in requests and answers, in zod: the same schemas check what arrives and make `/openapi.json`.
 *
 * Every object is strict (an unknown member is refused), every string has one form. So no NUL byte, no control character and no
 * other spelling of an id ever gets past this file.
 */
import { z } from "zod";
import "zod-openapi";
import { decodeBase64Url } from "../../protocol/base64url.ts";
import { isAgentId } from "../../protocol/identity.ts";
import { PREKEY_UPLOAD_MAX } from "../../protocol/limits.ts";
import type { ProtocolCode } from "../../protocol/refusal.ts";
import { parseTimestamp } from "../../protocol/timestamp.ts";
import { isUuid } from "../../protocol/uuid.ts";
import { ANSWERS_MAX } from "../operations/acknowledge.ts";
import { STATUS_MESSAGES_MAX } from "../operations/message-status.ts";
import { OPEN_MESSAGES_MAX } from "../operations/open-messages.ts";
import { RECEIVE_ITEMS_MAX } from "../operations/receive.ts";
import { SEND_ENVELOPES_MAX } from "../operations/send.ts";
import { SEND_MESSAGES_MAX } from "../operations/send-messages.ts";
import { type ProblemCode, problemCodes } from "../problem.ts";

const exampleAgent = "Zk1xv0Tn3oY3rW1mZ8v1Rk3eFhQx0mC5s2b7uJ4dN6A";
const exampleId = "0198c0de-7a11-7b2c-9d3e-4f5061728394";
const exampleTime = "2025-08-19T05:47:42.481Z";
const exampleKey = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

/** Binary as base64url without padding, of so many bytes. */
function base64url(bytes: number) {
  const length = textLength(bytes);
  return z
    .string()
    .refine((text) => text.length === length && decodeBase64Url(text) !== null, {
      error: `not base64url without padding of ${bytes} bytes`,
    })
    .meta({
      description: `base64url without padding of ${bytes} bytes`,
      pattern: "^[A-Za-z0-9_-]*$",
      minLength: length,
      maxLength: length,
    });
}

/** Of any length: the envelope's codec decodes it anyway, once is enough. */
const longBase64url = z.string().regex(/^[A-Za-z0-9_-]*$/, { error: "not base64url without padding" });

/** The platform's codec, a hundred times as fast as ours: what it spells the same is the one right spelling. */
const contentBase64url = longBase64url.refine((text) => Buffer.from(text, "base64url").toString("base64url") === text, {
  error: "not base64url without padding",
});

/** Longer ones name no type; the protocol's own limit is 65,535 bytes. */
const CONTENT_TYPE_LENGTH_MAX = 1_000;

function textLength(bytes: number): number {
  return Math.ceil((bytes * 4) / 3);
}

const agentId = z.string().refine(isAgentId, { error: "not an agent id: 43 characters of base64url" }).meta({
  id: "AgentId",
  description: "RFC 7638 thumbprint of the agent's Ed25519 key",
  pattern: "^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$",
  example: exampleAgent,
});

const uuid = z
  .string()
  .refine(isUuid, { error: "not a UUID in lower case" })
  .meta({ id: "Uuid", format: "uuid", pattern: "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", example: exampleId });

const messageId = uuid.meta({
  id: "MessageId",
  description: "UUIDv7 made by the sender; unique per sender",
  format: "uuid",
  example: exampleId,
});

const timestamp = z
  .string()
  .refine((text) => parseTimestamp(text) !== null, { error: "not a time like 2026-08-19T09:30:00.000Z" })
  .meta({ id: "Timestamp", description: "RFC 3339, UTC, three decimals", format: "date-time", example: exampleTime });

const identityKey = base64url(32).meta({
  id: "IdentityKey",
  description: "Ed25519 public key, 32 bytes as base64url",
  example: exampleKey,
});

const u32 = z.int().min(0).max(0xffff_ffff);

const seq = z.int().min(1).max(Number.MAX_SAFE_INTEGER);

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

export const registerBody = z
  .strictObject({
    identity_key: identityKey.optional().describe("Of an agent that holds its keys; the key that signs this call"),
    access_key: identityKey
      .optional()
      .describe("Instead of identity_key, with custody server: the key that signs this and all later calls"),
    custody: z
      .enum(["agent", "server"])
      .optional()
      .describe(
        "Who holds the keys: the agent itself (default), or the service, whose operator can then read its messages",
      ),
  })
  .superRefine(({ identity_key: identity, access_key: access, custody }, { addIssue }) => {
    const [needed, other] = custody === "server" ? [access, identity] : [identity, access];
    const [neededName, otherName] =
      custody === "server" ? ["access_key", "identity_key"] : ["identity_key", "access_key"];
    if (needed === undefined) addIssue({ code: "custom", path: [neededName], message: "this member is missing" });
    if (other !== undefined) {
      addIssue({ code: "custom", path: [otherName], message: "this member is for agents of the other custody" });
    }
  })
  .meta({ id: "Registration", example: { identity_key: exampleKey } });

export const agentAnswer = z
  .strictObject({
    agent_id: agentId,
    identity_key: identityKey,
    custody: z.enum(["agent", "server"]),
    readable_by: z
      .enum(["agent", "agent-and-operator"])
      .describe("Who can read the agent's messages: with custody server whoever runs the encryption tier can, too"),
    status: z.enum(["active", "suspended", "revoked"]),
    created_at: timestamp,
  })
  .meta({ id: "Agent" });

const signedPrekey = z
  .strictObject({
    id: uuid,
    created_at: timestamp,
    public_key: base64url(32).describe("X25519"),
    signature: base64url(64).describe("By the identity key (protocol.md §2)"),
  })
  .meta({ id: "SignedPrekey" });

const oneTimePrekey = z
  .strictObject({ id: uuid, public_key: base64url(32).describe("X25519") })
  .meta({ id: "OneTimePrekey" });

/** protocol.md §2: ML-KEM-768, its encapsulation key. */
const KEM_KEY_BYTES = 1_184;

const kemPrekeyMembers = {
  id: uuid,
  created_at: timestamp,
  public_key: base64url(KEM_KEY_BYTES).describe("ML-KEM-768"),
  signature: base64url(64).describe("By the identity key (protocol.md §2)"),
};

const kemPrekey = z.strictObject(kemPrekeyMembers).meta({ id: "KemPrekey" });

export const uploadPrekeysBody = z
  .strictObject({
    signed_prekey: signedPrekey.optional(),
    last_resort_kem_prekey: kemPrekey.optional().describe("Handed out when there is no other, repeatedly"),
    one_time_prekeys: z.array(oneTimePrekey).max(PREKEY_UPLOAD_MAX).optional(),
    kem_prekeys: z.array(kemPrekey).max(PREKEY_UPLOAD_MAX).optional().describe("Handed out once each"),
    replace: z
      .literal(true)
      .optional()
      .describe("One-time prekeys of both kinds that wait and are not in the call are handed out no more"),
  })
  .meta({
    id: "PrekeyUpload",
    description: "Prekeys of any kinds",
    example: { one_time_prekeys: [{ id: exampleId, public_key: exampleKey }] },
  });

export const uploadPrekeysAnswer = z
  .strictObject({
    one_time_prekeys_remaining: z.int().min(0),
    kem_prekeys_remaining: z.int().min(0),
    signed_prekey_id: uuid.optional().describe("The signed prekey of this call"),
  })
  .meta({ id: "PrekeysStored" });

const stockedPrekey = z.strictObject({ id: uuid, created_at: timestamp }).meta({ id: "StockedPrekey" });

export const ownPrekeysAnswer = z
  .strictObject({
    agent_id: agentId,
    signed_prekey: stockedPrekey.optional().describe("What new bundles hold; absent when there is none"),
    last_resort_kem_prekey: stockedPrekey.optional().describe("Absent when there is none"),
    one_time_prekeys: z.int().min(0).describe("X25519 ones that can still be handed out"),
    kem_prekeys: z.int().min(0).describe("ML-KEM-768 ones that can still be handed out"),
    signed_prekey_age_seconds: z.int().min(0).optional(),
    rotation_due: z.boolean().describe("A new signed prekey and a new KEM prekey of last resort should be published"),
    digest: base64url(32).describe("Of all that can be handed out (docs/protocol.md)"),
  })
  .meta({ id: "PrekeyStock" });

export const prekeysPath = z.strictObject({ recipient: agentId });

export const bundleAnswer = z
  .strictObject({
    bundle: z
      .strictObject({
        agent_id: agentId,
        identity_key: identityKey,
        signed_prekey: signedPrekey,
        one_time_prekey: oneTimePrekey.optional().describe("Absent when none is left, or over the agent's budget"),
        kem_prekey: z
          .strictObject({
            ...kemPrekeyMembers,
            last_resort: z.boolean().describe("It may be handed out again"),
          })
          .meta({ id: "BundledKemPrekey" })
          .optional()
          .describe("Absent when the agent has none"),
      })
      .meta({ id: "Bundle" }),
    one_time_prekeys_remaining: z.int().min(0),
    kem_prekeys_remaining: z.int().min(0),
    last_resort: z
      .boolean()
      .describe(
        "A prekey of the bundle is used repeatedly: there is no one-time prekey, or the KEM prekey is the one of last resort",
      ),
  })
  .meta({ id: "ClaimedBundle" });

export const sendBody = z
  .strictObject({ envelopes: z.array(envelope).min(1).max(SEND_ENVELOPES_MAX) })
  .meta({ id: "Send" });

export const sendAnswer = z
  .strictObject({ accepted: z.array(z.strictObject({ message_id: messageId })).describe("In the order of the call") })
  .meta({ id: "Accepted" });

const wholeNumber = z.string().regex(/^(0|[1-9]\d{0,15})$/, { error: "not a whole number" });

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

export const sendMessagesBody = z
  .strictObject({
    messages: z
      .array(
        z
          .strictObject({
            message_id: messageId,
            recipient_id: agentId,
            content_type: z.string().min(1).max(CONTENT_TYPE_LENGTH_MAX).describe("Such as text/plain; charset=utf-8"),
            body: contentBase64url.describe(
              "base64url without padding; with its type and padding at most 65,536 bytes",
            ),
          })
          .meta({ id: "PlainMessage" }),
      )
      .min(1)
      .max(SEND_MESSAGES_MAX),
  })
  .meta({
    id: "PlainMessages",
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
      .describe("They stay in the mailbox"),
    cursor: z.string(),
    last_seq: z.int().min(0),
  })
  .meta({ id: "Opened" });

export const messagePath = z.strictObject({ id: messageId });

export const messageQuery = z.strictObject({ sender: agentId.optional().describe("Default: the caller") });

export const messageAnswer = z
  .strictObject({
    message_id: messageId,
    sender_id: agentId,
    recipient_id: agentId,
    status: z.enum(["queued", "delivered", "acknowledged", "refused", "evicted", "expired", "deleted"]),
    digest: base64url(32).describe("SHA-256 of the envelope's canonical bytes"),
    code: z.string().nullable().describe("Why it was refused or discarded"),
    accepted_at: timestamp,
    queued_at: timestamp,
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

const cursor = /^(0|[1-9]\d{0,15})\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{22})$/;

function isCursor(text: string): boolean {
  const [, lastAt, peer, session] = cursor.exec(text) ?? [];
  if (lastAt === undefined || peer === undefined || session === undefined) return false;
  return Number(lastAt) <= Number.MAX_SAFE_INTEGER && isAgentId(peer) && decodeBase64Url(session) !== null;
}

export const sentSessionsQuery = z.strictObject({
  after: z
    .string()
    .refine(isCursor, { error: "not the cursor of an answer" })
    .optional()
    .describe("The cursor of the answer before; left out for the first page"),
});

export const sentSessionsAnswer = z
  .strictObject({
    sessions: z
      .array(
        z
          .strictObject({
            peer_id: agentId,
            session_id: base64url(16),
            dh_public_key: base64url(32),
            send_counter: u32,
            message_id: messageId.describe("The caller's newest message in the session"),
            last_at: timestamp.describe("When it was accepted"),
          })
          .meta({ id: "SentSession" }),
      )
      .describe("By last_at, newest first"),
    cursor: z.string().optional().describe("`after` of the next call; absent on the last page"),
  })
  .meta({ id: "SentSessions" });

export const pairSessionsPath = z.strictObject({ peer: agentId });

const sessionSide = z
  .strictObject({
    dh_public_key: base64url(32),
    send_counter: u32,
    previous_counter: u32,
    message_id: messageId,
    messages: z.int().min(1).describe("Counted; too low where messages overtook each other"),
    first_at: timestamp,
    last_at: timestamp,
  })
  .meta({ id: "SessionSide", description: "The newest message of one side, by the time in its id" });

export const pairSessionsAnswer = z
  .strictObject({
    sessions: z
      .array(
        z
          .strictObject({
            session_id: base64url(16),
            peer_id: agentId,
            initiator_id: agentId.optional().describe("As far as an initiation was seen"),
            suite: z.int().optional().describe("1 X3DH, 2 PQXDH with ML-KEM-768"),
            initialized_at: timestamp.optional(),
            sent: sessionSide.optional().describe("By the caller"),
            received: sessionSide.optional().describe("From the peer"),
          })
          .meta({ id: "PairSession" }),
      )
      .describe("Newest first, at most 100"),
  })
  .meta({ id: "PairSessions" });

export const agentPath = z.strictObject({ id: agentId });

export const rotatedAnswer = z
  .strictObject({ agent_id: agentId, signed_prekey_id: uuid.describe("The new one") })
  .meta({ id: "Rotated" });

export const rotationAskedAnswer = z
  .strictObject({
    agent_id: agentId,
    connected: z.boolean().describe("The agent's gateway took the notice; otherwise the agent rotates when it is back"),
  })
  .meta({ id: "RotationAsked" });

const problemCode = z.enum(problemCodes as [ProblemCode, ...ProblemCode[]]).meta({ id: "ProblemCode" });

export const problem = z
  .strictObject({
    type: z.string().meta({ format: "uri", example: "https://sealpost.dev/problems/malformed" }),
    title: z.string(),
    status: z.int(),
    code: problemCode,
    detail: z.string(),
    field: z.string().optional().describe("JSON pointer, header, parameter or signature component"),
    fix: z.string().optional(),
    retryable: z.boolean().describe("The same content, signed anew and sent later, may be taken"),
    errors: z
      .array(
        z.strictObject({
          pointer: z.string(),
          code: problemCode,
          detail: z.string(),
          message_id: z.string().optional(),
        }),
      )
      .optional(),
    server_time: timestamp.optional(),
    server_authority: z.string().optional().describe("What @authority is checked against"),
  })
  .meta({ id: "Problem", description: "RFC 9457; codes in docs/api.md" });

export const readinessAnswer = z
  .strictObject({ ready: z.boolean(), missing: z.array(z.string()) })
  .meta({ id: "Readiness", example: { ready: true, missing: [] } });

export const liveAnswer = z.strictObject({ live: z.literal(true) }).meta({ id: "Live" });
