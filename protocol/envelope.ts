/**
 * The envelope (protocol.md §5 and §6): its fields, its canonical bytes, its JSON form and its associated data.
 *
 * Each envelope has exactly one spelling in either form; a decoder refuses (`malformed`) every other, so that digests over the
 * canonical bytes identify what was sent. Whether the time in `messageId` is the timestamp is ingress's question, not asked here.
 */
import { AvroReader, AvroWriter } from "./avro.ts";
import { encodeBase64Url } from "./base64url.ts";
import { ByteWriter, EMPTY, label } from "./bytes.ts";
import { AGENT_ID_LENGTH, isAgentId } from "./identity.ts";
import { JsonReader } from "./json-reader.ts";
import { CIPHERTEXT_BYTES_MAX, INITIATION_BYTES_MAX } from "./limits.ts";
import { Refusal } from "./refusal.ts";
import { formatTimestamp, isTimestamp } from "./timestamp.ts";
import { isUuid, UUID_BYTES, uuidFromBytes, uuidToBytes } from "./uuid.ts";

export const SESSION_ID_BYTES = 16;
export const NONCE_BYTES = 12;
const PUBLIC_KEY_BYTES = 32;
const TAG_BYTES = 16;
const U32_MAX = 0xffff_ffff;
const U8_MAX = 0xff;

/** More than all other fields take in canonical bytes, whatever their values. */
const FIXED_FIELDS_BYTES_MAX = 256;

const AAD_LABEL = label("sealpost/v1/envelope");

export interface Envelope {
  /** UUID, lower-case text. */
  readonly messageId: string;
  readonly senderId: string;
  readonly recipientId: string;
  /** 16 bytes. */
  readonly sessionId: Uint8Array;
  /** 1 for the first message of a sending chain. */
  readonly sendCounter: number;
  readonly previousCounter: number;
  /** The sender's ratchet key, 32 bytes. */
  readonly dhPublicKey: Uint8Array;
  /** 12 bytes. */
  readonly nonce: Uint8Array;
  readonly ciphertext: Uint8Array;
  /** 16 bytes. */
  readonly authTag: Uint8Array;
  /** The sender's clock, in milliseconds. */
  readonly timestamp: number;
  /** One byte; unknown bits are authenticated and ignored. */
  readonly flags: number;
  /** Empty when absent. */
  readonly initiation: Uint8Array;
}

/** What is sealed: an envelope before its ciphertext. */
export type EnvelopeHeader = Omit<Envelope, "ciphertext" | "authTag">;

/** The JSON form: binary as base64url, times as RFC 3339, `initiation` absent when empty. */
export interface EnvelopeJson {
  readonly message_id: string;
  readonly sender_id: string;
  readonly recipient_id: string;
  readonly session_id: string;
  readonly send_counter: number;
  readonly previous_counter: number;
  readonly dh_public_key: string;
  readonly nonce: string;
  readonly ciphertext: string;
  readonly auth_tag: string;
  readonly timestamp: string;
  readonly flags: number;
  readonly initiation?: string;
}

export interface EnvelopeLimits {
  /** Default `CIPHERTEXT_BYTES_MAX`; an operator may set another. */
  readonly ciphertextBytesMax?: number;
}

/** The associated data of §5. */
export function envelopeAad(header: EnvelopeHeader): Uint8Array {
  const size =
    AAD_LABEL.length +
    (2 + header.senderId.length) +
    (2 + header.recipientId.length) +
    SESSION_ID_BYTES +
    (4 + 4) +
    PUBLIC_KEY_BYTES +
    UUID_BYTES +
    (8 + 1) +
    (2 + header.initiation.length);
  return new ByteWriter(size)
    .bytes(AAD_LABEL)
    .lpAscii(header.senderId)
    .lpAscii(header.recipientId)
    .bytes(header.sessionId)
    .u32(header.sendCounter)
    .u32(header.previousCounter)
    .bytes(header.dhPublicKey)
    .bytes(uuidToBytes(header.messageId))
    .u64(header.timestamp)
    .u8(header.flags)
    .lp(header.initiation)
    .finish();
}

/** Canonical bytes: the Avro binary of the record, without framing (§6). Refuses (`malformed`) what has no such form. */
export function encodeEnvelope(envelope: Envelope, limits: EnvelopeLimits = {}): Uint8Array {
  checkEnvelope(envelope, limits);
  return new AvroWriter(FIXED_FIELDS_BYTES_MAX + envelope.ciphertext.length + envelope.initiation.length)
    .fixed(uuidToBytes(envelope.messageId))
    .string(envelope.senderId)
    .string(envelope.recipientId)
    .bytes(envelope.sessionId)
    .long(envelope.sendCounter)
    .long(envelope.previousCounter)
    .bytes(envelope.dhPublicKey)
    .bytes(envelope.nonce)
    .bytes(envelope.ciphertext)
    .bytes(envelope.authTag)
    .long(envelope.timestamp)
    .int(envelope.flags)
    .bytes(envelope.initiation)
    .finish();
}

/** Takes only what `encodeEnvelope` gives. The envelope's byte fields are views of `bytes`. */
export function decodeEnvelope(bytes: Uint8Array, limits: EnvelopeLimits = {}): Envelope {
  const reader = new AvroReader(bytes);
  const envelope: Envelope = {
    messageId: uuidFromBytes(reader.fixed(UUID_BYTES)),
    senderId: reader.asciiString(AGENT_ID_LENGTH),
    recipientId: reader.asciiString(AGENT_ID_LENGTH),
    sessionId: reader.bytes(),
    sendCounter: reader.long(),
    previousCounter: reader.long(),
    dhPublicKey: reader.bytes(),
    nonce: reader.bytes(),
    ciphertext: reader.bytes(),
    authTag: reader.bytes(),
    timestamp: reader.long(),
    flags: reader.int(),
    initiation: reader.bytes(),
  };
  reader.end();
  checkEnvelope(envelope, limits);
  return envelope;
}

/** Refuses (`malformed`) what has no JSON form. */
export function envelopeToJson(envelope: Envelope, limits: EnvelopeLimits = {}): EnvelopeJson {
  checkEnvelope(envelope, limits);
  const json: EnvelopeJson = {
    message_id: envelope.messageId,
    sender_id: envelope.senderId,
    recipient_id: envelope.recipientId,
    session_id: encodeBase64Url(envelope.sessionId),
    send_counter: envelope.sendCounter,
    previous_counter: envelope.previousCounter,
    dh_public_key: encodeBase64Url(envelope.dhPublicKey),
    nonce: encodeBase64Url(envelope.nonce),
    ciphertext: encodeBase64Url(envelope.ciphertext),
    auth_tag: encodeBase64Url(envelope.authTag),
    timestamp: formatTimestamp(envelope.timestamp),
    flags: envelope.flags,
  };
  return envelope.initiation.length === 0 ? json : { ...json, initiation: encodeBase64Url(envelope.initiation) };
}

/** Takes a parsed JSON value of any kind; a member that is not in the list is refused like one that is missing. */
export function envelopeFromJson(json: unknown, limits: EnvelopeLimits = {}): Envelope {
  const object = new JsonReader(json);
  const envelope: Envelope = {
    messageId: object.uuid("message_id"),
    senderId: object.string("sender_id"),
    recipientId: object.string("recipient_id"),
    sessionId: object.bytes("session_id"),
    sendCounter: object.number("send_counter"),
    previousCounter: object.number("previous_counter"),
    dhPublicKey: object.bytes("dh_public_key"),
    nonce: object.bytes("nonce"),
    ciphertext: object.bytes("ciphertext"),
    authTag: object.bytes("auth_tag"),
    timestamp: object.timestamp("timestamp"),
    flags: object.number("flags"),
    initiation: object.has("initiation") ? object.bytes("initiation") : EMPTY,
  };
  if (object.has("initiation") && envelope.initiation.length === 0) throw malformed("/initiation");
  object.end();
  checkEnvelope(envelope, limits);
  return envelope;
}

/** Shape: step 1 of §7. */
function checkEnvelope(envelope: Envelope, { ciphertextBytesMax = CIPHERTEXT_BYTES_MAX }: EnvelopeLimits): void {
  if (!isUuid(envelope.messageId)) throw malformed("/message_id");
  if (!isAgentId(envelope.senderId)) throw malformed("/sender_id");
  if (!isAgentId(envelope.recipientId)) throw malformed("/recipient_id");
  if (envelope.sessionId.length !== SESSION_ID_BYTES) throw malformed("/session_id");
  if (!isWholeNumber(envelope.sendCounter, 1, U32_MAX)) throw malformed("/send_counter");
  if (!isWholeNumber(envelope.previousCounter, 0, U32_MAX)) throw malformed("/previous_counter");
  if (envelope.dhPublicKey.length !== PUBLIC_KEY_BYTES) throw malformed("/dh_public_key");
  if (envelope.nonce.length !== NONCE_BYTES) throw malformed("/nonce");
  if (envelope.ciphertext.length > ciphertextBytesMax) throw malformed("/ciphertext");
  if (envelope.authTag.length !== TAG_BYTES) throw malformed("/auth_tag");
  if (!isTimestamp(envelope.timestamp)) throw malformed("/timestamp");
  if (!isWholeNumber(envelope.flags, 0, U8_MAX)) throw malformed("/flags");
  if (envelope.initiation.length > INITIATION_BYTES_MAX) throw malformed("/initiation");
}

function isWholeNumber(value: number, min: number, max: number): boolean {
  return Number.isInteger(value) && value >= min && value <= max;
}

function malformed(field: string): Refusal<"malformed"> {
  return new Refusal("malformed", { field });
}
