/**
 * Retry requests of Repair (protocol.md §4): the recipient of a message that it cannot open asks its sender for the content anew.
 *
 * The request names the ratchet key under which the message failed, so that the sender replaces a session only if it is
 * still that one, and a request that comes late or twice does no harm.
 */
import { encodeBase64Url } from "./base64url.ts";
import { ByteWriter, label } from "./bytes.ts";
import { SESSION_ID_BYTES } from "./envelope.ts";
import { checkIdentity, type Identity, isAgentId } from "./identity.ts";
import { JsonReader } from "./json-reader.ts";
import { RETRY_REQUEST_AGE_MS_MAX, RETRY_REQUEST_AHEAD_MS_MAX } from "./limits.ts";
import type { Primitives } from "./primitives/primitives.ts";
import { type ProtocolCode, Refusal } from "./refusal.ts";
import { formatTimestamp } from "./timestamp.ts";
import { UUID_BYTES, uuidToBytes } from "./uuid.ts";

const KIND = "retry";
const RETRY_LABEL = label("sealpost/v1/retry");
const PUBLIC_KEY_BYTES = 32;

/** Failures after which the sender can say it anew (§4). Any other refusal is one for good. */
export const REPAIRABLE_CODES: readonly string[] = [
  "prekey-unknown",
  "auth-failed",
  "session-unknown",
  "counter-too-far",
  "message-key-gone",
] satisfies ProtocolCode[];

export function isRepairable(code: string): boolean {
  return REPAIRABLE_CODES.includes(code);
}

/** The fields of the failed envelope, and when its recipient asked. */
export interface RetryFacts {
  readonly senderId: string;
  readonly recipientId: string;
  readonly messageId: string;
  readonly sessionId: Uint8Array;
  readonly dhPublicKey: Uint8Array;
  /** Milliseconds. */
  readonly time: number;
}

export interface RetryRequest extends RetryFacts {
  readonly signature: Uint8Array;
}

/** `failed`: the envelope, whose recipient is `me`. */
export function makeRetryRequest(
  primitives: Primitives,
  me: Identity,
  failed: Omit<RetryFacts, "time">,
  now: number,
): RetryRequest {
  const { senderId, recipientId, messageId, sessionId, dhPublicKey } = failed;
  const facts: RetryFacts = { senderId, recipientId, messageId, sessionId, dhPublicKey, time: now };
  return { ...facts, signature: primitives.ed25519Sign(me.signing, retrySignedBytes(facts)) };
}

export function retrySignedBytes(facts: RetryFacts): Uint8Array {
  const idBytes = 2 + facts.senderId.length + (2 + facts.recipientId.length);
  return new ByteWriter(RETRY_LABEL.length + idBytes + UUID_BYTES + SESSION_ID_BYTES + PUBLIC_KEY_BYTES + 8)
    .bytes(RETRY_LABEL)
    .lpAscii(facts.senderId)
    .lpAscii(facts.recipientId)
    .bytes(uuidToBytes(facts.messageId))
    .bytes(facts.sessionId)
    .bytes(facts.dhPublicKey)
    .u64(facts.time)
    .finish();
}

/**
 * Is it to be followed? Refuses `malformed` for its time, `identity-key-invalid` and `identity-mismatch` when the key is not the
 * recipient's, `signature-invalid`.
 */
export function checkRetryRequest(
  primitives: Primitives,
  request: RetryRequest,
  { recipientIdentityKey, now }: { readonly recipientIdentityKey: Uint8Array; readonly now: number },
): void {
  const age = now - request.time;
  if (age > RETRY_REQUEST_AGE_MS_MAX || -age > RETRY_REQUEST_AHEAD_MS_MAX)
    throw new Refusal("malformed", { field: "/time" });
  checkIdentity(primitives, request.recipientId, recipientIdentityKey);
  if (!primitives.ed25519Verify(recipientIdentityKey, retrySignedBytes(request), request.signature)) {
    throw new Refusal("signature-invalid");
  }
}

export function retryRequestToJson(request: RetryRequest): Record<string, unknown> {
  return {
    kind: KIND,
    sender_id: request.senderId,
    recipient_id: request.recipientId,
    message_id: request.messageId,
    session_id: encodeBase64Url(request.sessionId),
    dh_public_key: encodeBase64Url(request.dhPublicKey),
    time: formatTimestamp(request.time),
    signature: encodeBase64Url(request.signature),
  };
}

/** Refuses `malformed`. A signature may have any length here; a wrong one does not verify. */
export function retryRequestFromJson(json: unknown): RetryRequest {
  const object = new JsonReader(json);
  const kind = object.string("kind");
  const request: RetryRequest = {
    senderId: object.string("sender_id"),
    recipientId: object.string("recipient_id"),
    messageId: object.uuid("message_id"),
    sessionId: object.bytes("session_id", SESSION_ID_BYTES),
    dhPublicKey: object.bytes("dh_public_key", PUBLIC_KEY_BYTES),
    time: object.timestamp("time"),
    signature: object.bytes("signature"),
  };
  object.end();
  if (kind !== KIND) throw new Refusal("malformed", { field: "/kind" });
  if (!isAgentId(request.senderId)) throw new Refusal("malformed", { field: "/sender_id" });
  if (!isAgentId(request.recipientId)) throw new Refusal("malformed", { field: "/recipient_id" });
  return request;
}
