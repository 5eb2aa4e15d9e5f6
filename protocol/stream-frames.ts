/**
 * The frames of `GET /messaging/stream` (docs/stream.md): pure, shared by the gateway and the SDK.
 *
 *   message = 1*frame              one binary WebSocket message
 *   frame   = u8(type) ‖ u32(length of body) ‖ body
 *   id      = lp(agent id) ‖ 16 bytes of UUID
 *
 *   client → server
 *   01 SEND         u32(batch) ‖ u8(count) ‖ count × (u32(length) ‖ canonical bytes of an envelope)
 *   02 ACK          u16(count) ‖ count × id
 *   03 ACK-UP-TO    u64(seq)
 *   04 REFUSE       lp(code) ‖ id
 *
 *   server → client
 *   81 ACCEPTED     u32(batch)
 *   82 REJECTED     u32(batch) ‖ problem JSON
 *   83 ITEM         u64(seq) ‖ u8(kind) ‖ id ‖ u32(length) ‖ body
 *   84 QUEUE-EMPTY  u64(last seq)
 *   85 RECEIPT      u8(status) ‖ id ‖ u64(at) ‖ lp(code)
 *   86 GOAWAY       lp(reason)
 *   87 PROBLEM      problem JSON
 *   88 NOTICE       u8(kind)
 *
 * Each frame has one spelling; decoding refuses (`malformed`) every other. The byte fields of decoded frames are views.
 */
import { ByteReader, ByteWriter } from "./bytes.ts";
import { isAgentId } from "./identity.ts";
import { type ProtocolCode, Refusal } from "./refusal.ts";
import { decodeUtf8, encodeUtf8 } from "./utf8.ts";
import { UUID_BYTES, uuidFromBytes, uuidToBytes } from "./uuid.ts";

/** Envelopes of one SEND: as many as one HTTP call takes, so that both doors refuse alike. */
export const SEND_ENVELOPES_MAX = 100;

/** Items of one ACK: as many as one HTTP call takes. */
export const ACK_ITEMS_MAX = 1_000;

/** Bytes of one WebSocket message, either way: the largest call that HTTP takes (100 envelopes of the largest size). */
export const STREAM_MESSAGE_BYTES_MAX = 8 * 1024 * 1024;

/** Why a stream was closed, where the standard codes (1001, 1011, 1012) do not say it. */
export const CLOSE_MALFORMED = 4400;
export const CLOSE_NOT_ALLOWED = 4401;
export const CLOSE_SUPERSEDED = 4409;

/** Frames of one message from a client: 8 MiB of tiny batches would all be under way before anybody could stop reading. */
const CLIENT_FRAMES_MAX = 1_000;

/** An item of a mailbox: unique per sender. */
export interface StreamItemId {
  readonly senderId: string;
  /** UUID; of a message its message id. */
  readonly itemId: string;
}

/** Envelopes in their canonical bytes, answered by ACCEPTED or REJECTED with the same `batch` (u32, the client's choice). */
export interface SendFrame {
  readonly type: "send";
  readonly batch: number;
  /** 1 to `SEND_ENVELOPES_MAX`. */
  readonly envelopes: readonly Uint8Array[];
}

/** These items are done with: opened and kept by the client. 1 to `ACK_ITEMS_MAX`. */
export interface AckFrame {
  readonly type: "ack";
  readonly items: readonly StreamItemId[];
}

/** Everything that was sent on this connection up to and including `seq` is done with. */
export interface AckUpToFrame {
  readonly type: "ack-up-to";
  readonly seq: number;
}

/** The client will never be able to open this item, for this reason (a code of protocol.md §7). */
export interface RefuseFrame extends StreamItemId {
  readonly type: "refuse";
  readonly code: ProtocolCode;
}

export type ClientFrame = SendFrame | AckFrame | AckUpToFrame | RefuseFrame;

/** A problem (RFC 9457) as its JSON object. */
export type StreamProblem = Readonly<Record<string, unknown>>;

export interface AcceptedFrame {
  readonly type: "accepted";
  readonly batch: number;
}

export interface RejectedFrame {
  readonly type: "rejected";
  readonly batch: number;
  readonly problem: StreamProblem;
}

export interface ItemFrame extends StreamItemId {
  readonly type: "item";
  /** Place in the mailbox, from 1. */
  readonly seq: number;
  readonly kind: "message" | "retry";
  /** An envelope's canonical bytes, or a retry request's JSON. */
  readonly body: Uint8Array;
}

/** Everything that waited when it was written has been sent on this connection; `lastSeq` is the mailbox's last. */
export interface QueueEmptyFrame {
  readonly type: "queue-empty";
  readonly lastSeq: number;
}

/** What became of a message this agent sent. */
export interface ReceiptFrame {
  readonly type: "receipt";
  readonly status: "delivered" | "acknowledged" | "discarded" | "undeliverable";
  readonly recipientId: string;
  readonly messageId: string;
  /** Milliseconds since the epoch. */
  readonly at: number;
  /** Why it was discarded; null otherwise. */
  readonly code: string | null;
}

/** The server is about to close; reconnect, elsewhere or later. */
export interface GoawayFrame {
  readonly type: "goaway";
  readonly reason: string;
}

/** What the client did wrong; the server closes after it. */
export interface ProblemFrame {
  readonly type: "problem";
  readonly problem: StreamProblem;
}

/** Something this agent should see to; a hint that may be lost or repeated. */
export interface NoticeFrame {
  readonly type: "notice";
  readonly kind: NoticeKind;
}

/** prekeys-low: few one-time prekeys are left; rotation-due: the signed prekey is older than 7 days; rotate-now: an operator asks for a new one; contact-requested: another
 *  agent asks to become a contact; contact-accepted: one that was asked has accepted. */
export type NoticeKind = "prekeys-low" | "rotation-due" | "rotate-now" | "contact-requested" | "contact-accepted";

export type ServerFrame =
  | AcceptedFrame
  | RejectedFrame
  | ItemFrame
  | QueueEmptyFrame
  | ReceiptFrame
  | GoawayFrame
  | ProblemFrame
  | NoticeFrame;

const SEND = 0x01;
const ACK = 0x02;
const ACK_UP_TO = 0x03;
const REFUSE = 0x04;
const ACCEPTED = 0x81;
const REJECTED = 0x82;
const ITEM = 0x83;
const QUEUE_EMPTY = 0x84;
const RECEIPT = 0x85;
const GOAWAY = 0x86;
const PROBLEM = 0x87;
const NOTICE = 0x88;

const FRAME_HEAD_BYTES = 5;
const KINDS = ["message", "retry"] as const;
const STATUSES = ["delivered", "acknowledged", "discarded", "undeliverable"] as const;
const NOTICES = ["prekeys-low", "rotation-due", "rotate-now", "contact-requested", "contact-accepted"] as const;
/** The codes a REFUSE may carry: all of the list, and a new one of the list is missed by the compiler here. */
const REFUSAL_CODES: Record<ProtocolCode, true> = {
  malformed: true,
  "wrong-recipient": true,
  "session-unknown": true,
  "message-key-gone": true,
  "identity-key-invalid": true,
  "identity-mismatch": true,
  "session-mismatch": true,
  "suite-refused": true,
  "prekey-unknown": true,
  "bad-key": true,
  "counter-too-far": true,
  "auth-failed": true,
  "bad-frame": true,
  "bad-padding": true,
  "signature-invalid": true,
  "prekey-stale": true,
};

/** Why a message was discarded: a code of the server's. */
const CODE = /^[a-z][a-z0-9-]{0,63}$/;
const REASON = /^[\x20-\x7e]{0,120}$/;

/** One WebSocket message of these frames, in one allocation. What no decoder would take is a bug of the caller's and throws. */
export function encodeClientFrames(frames: readonly ClientFrame[]): Uint8Array {
  return join(frames.map(clientBody));
}

/** One WebSocket message of these frames, in one allocation; bodies of items are copied once, as they are. */
export function encodeServerFrames(frames: readonly ServerFrame[]): Uint8Array {
  return join(frames.map(serverBody));
}

/** Bytes that an item takes in a message. */
export function itemFrameBytes(item: { readonly senderId: string; readonly body: Uint8Array }): number {
  return FRAME_HEAD_BYTES + itemSize(item);
}

/** The frames of one message from a client. Refuses (`malformed`) a message in which any of them is wrong. */
export function decodeClientFrames(message: Uint8Array): ClientFrame[] {
  const frames: ClientFrame[] = [];
  for (const { type, body } of split(message)) {
    if (frames.length === CLIENT_FRAMES_MAX) throw new Refusal("malformed");
    frames.push(decodeClientBody(type, new ByteReader(body)));
  }
  return frames;
}

/**
 * The frames of one message from a server, without those of types, statuses and kinds that this client does not know: a later server may have
 * more to tell. Refuses (`malformed`) a message in which a known one is wrong.
 */
export function decodeServerFrames(message: Uint8Array): ServerFrame[] {
  const frames: ServerFrame[] = [];
  for (const { type, body } of split(message)) {
    const frame = decodeServerBody(type, body);
    if (frame !== null) frames.push(frame);
  }
  return frames;
}

/** A frame before it is written: its size is known, its bytes are not yet. */
interface Body {
  readonly type: number;
  readonly size: number;
  readonly write: (writer: ByteWriter) => void;
}

function clientBody(frame: ClientFrame): Body {
  switch (frame.type) {
    case "send":
      return sendBody(frame);
    case "ack":
      return {
        type: ACK,
        size: 2 + frame.items.reduce((size, item) => size + idSize(item.senderId), 0),
        write: (writer) => {
          writer.u16(counted(frame.items.length, ACK_ITEMS_MAX));
          for (const item of frame.items) writeId(writer, item.senderId, item.itemId);
        },
      };
    case "ack-up-to":
      return { type: ACK_UP_TO, size: 8, write: (writer) => writer.u64(frame.seq) };
    case "refuse":
      return {
        type: REFUSE,
        size: 2 + frame.code.length + idSize(frame.senderId),
        write: (writer) => writeId(writer.lpAscii(frame.code), frame.senderId, frame.itemId),
      };
  }
}

function sendBody(frame: SendFrame): Body {
  return {
    type: SEND,
    size: 4 + 1 + frame.envelopes.reduce((size, envelope) => size + 4 + envelope.length, 0),
    write: (writer) => {
      writer.u32(frame.batch).u8(counted(frame.envelopes.length, SEND_ENVELOPES_MAX));
      for (const envelope of frame.envelopes) writer.u32(envelope.length).bytes(envelope);
    },
  };
}

function serverBody(frame: ServerFrame): Body {
  switch (frame.type) {
    case "accepted":
      return { type: ACCEPTED, size: 4, write: (writer) => writer.u32(frame.batch) };
    case "rejected": {
      const problem = problemBytes(frame.problem);
      return { type: REJECTED, size: 4 + problem.length, write: (writer) => writer.u32(frame.batch).bytes(problem) };
    }
    case "item":
      return { type: ITEM, size: itemSize(frame), write: (writer) => writeItem(writer, frame) };
    case "queue-empty":
      return { type: QUEUE_EMPTY, size: 8, write: (writer) => writer.u64(frame.lastSeq) };
    case "receipt":
      return receiptBody(frame);
    case "goaway":
      return { type: GOAWAY, size: 2 + frame.reason.length, write: (writer) => writer.lpAscii(frame.reason) };
    case "problem": {
      const problem = problemBytes(frame.problem);
      return { type: PROBLEM, size: problem.length, write: (writer) => writer.bytes(problem) };
    }
    case "notice":
      return { type: NOTICE, size: 1, write: (writer) => writer.u8(NOTICES.indexOf(frame.kind) + 1) };
  }
}

function receiptBody(frame: ReceiptFrame): Body {
  const code = frame.code ?? "";
  return {
    type: RECEIPT,
    size: 1 + idSize(frame.recipientId) + 8 + 2 + code.length,
    write: (writer) => {
      writer.u8(STATUSES.indexOf(frame.status) + 1);
      writeId(writer, frame.recipientId, frame.messageId);
      writer.u64(frame.at).lpAscii(code);
    },
  };
}

function itemSize(item: { readonly senderId: string; readonly body: Uint8Array }): number {
  return 8 + 1 + idSize(item.senderId) + 4 + item.body.length;
}

function writeItem(writer: ByteWriter, item: ItemFrame): void {
  writer.u64(item.seq).u8(KINDS.indexOf(item.kind));
  writeId(writer, item.senderId, item.itemId);
  writer.u32(item.body.length).bytes(item.body);
}

function idSize(agentId: string): number {
  return 2 + agentId.length + UUID_BYTES;
}

function writeId(writer: ByteWriter, agentId: string, itemId: string): void {
  writer.lpAscii(agentId).bytes(uuidToBytes(itemId));
}

function problemBytes(problem: StreamProblem): Uint8Array {
  const bytes = encodeUtf8(JSON.stringify(problem));
  if (bytes === null) throw new Error("a problem has a text that UTF-8 cannot spell");
  return bytes;
}

function counted(count: number, max: number): number {
  if (count < 1 || count > max) throw new Error("a frame has none or too many entries");
  return count;
}

function join(bodies: readonly Body[]): Uint8Array {
  const writer = new ByteWriter(bodies.reduce((size, body) => size + FRAME_HEAD_BYTES + body.size, 0));
  for (const body of bodies) {
    writer.u8(body.type).u32(body.size);
    body.write(writer);
  }
  return writer.finish();
}

/** One after the other, so that nothing is made of what follows a wrong frame. */
function* split(message: Uint8Array): Generator<{ type: number; body: Uint8Array }> {
  if (message.length === 0) throw new Refusal("malformed");
  const reader = new ByteReader(message);
  let left = message.length;
  while (left > 0) {
    const type = reader.u8();
    const body = reader.bytes(reader.u32());
    yield { type, body };
    left -= FRAME_HEAD_BYTES + body.length;
  }
}

function decodeClientBody(type: number, reader: ByteReader): ClientFrame {
  switch (type) {
    case SEND:
      return ended(reader, readSend(reader));
    case ACK:
      return ended(reader, { type: "ack", items: readIds(reader) });
    case ACK_UP_TO:
      return ended(reader, { type: "ack-up-to", seq: wholeNumber(reader.u64()) });
    case REFUSE:
      return ended(reader, { type: "refuse", code: readRefusalCode(reader), ...readId(reader) });
    default:
      throw new Refusal("malformed");
  }
}

/** Null for a type that is not known here. */
function decodeServerBody(type: number, body: Uint8Array): ServerFrame | null {
  const reader = new ByteReader(body);
  switch (type) {
    case ACCEPTED:
      return ended(reader, { type: "accepted", batch: reader.u32() });
    case REJECTED:
      return { type: "rejected", batch: reader.u32(), problem: parseProblem(body.subarray(4)) };
    case ITEM:
      return ended(reader, readItem(reader));
    case QUEUE_EMPTY:
      return ended(reader, { type: "queue-empty", lastSeq: wholeNumber(reader.u64()) });
    case RECEIPT:
      return ended(reader, readReceipt(reader));
    case GOAWAY:
      return ended(reader, { type: "goaway", reason: readText(reader, REASON) });
    case PROBLEM:
      return { type: "problem", problem: parseProblem(body) };
    case NOTICE:
      return ended(reader, readNotice(reader.u8()));
    default:
      return null;
  }
}

function readSend(reader: ByteReader): SendFrame {
  const batch = reader.u32();
  const count = countOf(reader.u8(), SEND_ENVELOPES_MAX);
  const envelopes: Uint8Array[] = [];
  for (let i = 0; i < count; i++) envelopes.push(reader.bytes(reader.u32()));
  return { type: "send", batch, envelopes };
}

function readIds(reader: ByteReader): StreamItemId[] {
  const count = countOf(reader.u16(), ACK_ITEMS_MAX);
  const items: StreamItemId[] = [];
  for (let i = 0; i < count; i++) items.push(readId(reader));
  return items;
}

function readItem(reader: ByteReader): ItemFrame {
  const seq = wholeNumber(reader.u64());
  const kind = KINDS[reader.u8()];
  if (seq === 0 || kind === undefined) throw new Refusal("malformed");
  const id = readId(reader);
  return { type: "item", seq, kind, ...id, body: reader.bytes(reader.u32()) };
}

/** Null for a kind that is not known here. */
function readNotice(code: number): NoticeFrame | null {
  const kind = NOTICES[code - 1];
  return kind === undefined ? null : { type: "notice", kind };
}

/** Null for a status that is not known here. */
function readReceipt(reader: ByteReader): ReceiptFrame | null {
  const status = STATUSES[reader.u8() - 1];
  const { senderId: recipientId, itemId: messageId } = readId(reader);
  const at = wholeNumber(reader.u64());
  const code = ascii(reader.bytes(reader.u16()));
  if (code !== "" && !CODE.test(code)) throw new Refusal("malformed");
  if (status === undefined) return null;
  return { type: "receipt", status, recipientId, messageId, at, code: code === "" ? null : code };
}

function readId(reader: ByteReader): StreamItemId {
  const senderId = ascii(reader.bytes(reader.u16()));
  if (!isAgentId(senderId)) throw new Refusal("malformed");
  return { senderId, itemId: uuidFromBytes(reader.bytes(UUID_BYTES)) };
}

function readRefusalCode(reader: ByteReader): ProtocolCode {
  const code = ascii(reader.bytes(reader.u16()));
  if (!Object.hasOwn(REFUSAL_CODES, code)) throw new Refusal("malformed");
  return code as ProtocolCode;
}

function readText(reader: ByteReader, pattern: RegExp): string {
  const text = ascii(reader.bytes(reader.u16()));
  if (!pattern.test(text)) throw new Refusal("malformed");
  return text;
}

/** Bytes above 127 become characters that no pattern of this file allows. */
function ascii(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}

function countOf(count: number, max: number): number {
  if (count < 1 || count > max) throw new Refusal("malformed");
  return count;
}

function wholeNumber(value: number): number {
  if (value > Number.MAX_SAFE_INTEGER) throw new Refusal("malformed");
  return value;
}

function parseProblem(bytes: Uint8Array): StreamProblem {
  const text = decodeUtf8(bytes);
  if (text === null) throw new Refusal("malformed");
  const value = parseJson(text);
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Refusal("malformed");
  return value as StreamProblem;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new Refusal("malformed");
  }
}

function ended<Frame>(reader: ByteReader, frame: Frame): Frame {
  reader.end();
  return frame;
}
