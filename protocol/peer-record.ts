/**
 * The bytes of a `Peer`, for stores that keep it sealed. Versioned, and private to this implementation, unlike what goes over the wire.
 *
 * The fields follow in the order of the types. Keys and ids have their fixed lengths; a field that may be absent has a byte before
 * it (0 or 1); a list has its count; lengths, counts and counters are u32, times u64.
 */
import { ByteReader, ByteWriter, concat, join } from "./bytes.ts";
import { SESSION_ID_BYTES } from "./envelope.ts";
import { AGENT_ID_LENGTH } from "./identity.ts";
import type { Peer, RememberedSession } from "./peer.ts";
import type { KeyPair } from "./primitives/primitives.ts";
import type { Ratchet, ReceivingChain, SendingChain, SkippedKey } from "./ratchet.ts";
import { Refusal } from "./refusal.ts";
import type { Session, UnansweredStart } from "./session.ts";
import { UUID_BYTES, uuidFromBytes, uuidToBytes } from "./uuid.ts";

const VERSION = 1;
const KEY_BYTES = 32;

export function encodePeer(peer: Peer): Uint8Array {
  return concat(
    u8(VERSION),
    new ByteWriter(AGENT_ID_LENGTH).ascii(peer.agentId).finish(),
    optional(peer.identityKey, (key) => key),
    optional(peer.active, encodeSession),
    list(peer.archived, encodeSession),
    list(peer.remembered, encodeRemembered),
    optional(peer.latestTimestamp, u64),
    optional(peer.repairedAt, u64),
  );
}

/** A record that `encodePeer` of this version did not make. No `Refusal`: it is no peer's doing. */
export class RecordUnreadable extends Error {
  override readonly name = "RecordUnreadable";
  /** Made by a later version of this code: not for this process to judge. */
  readonly isNewer: boolean;

  constructor(isNewer: boolean, cause?: unknown) {
    super("a peer's record cannot be read", { cause });
    this.isNewer = isNewer;
  }
}

/** @throws RecordUnreadable for anything that `encodePeer` did not make: the store is damaged, or newer than this code */
export function decodePeer(bytes: Uint8Array): Peer {
  if ((bytes[0] ?? 0) > VERSION) throw new RecordUnreadable(true);
  try {
    // A copy: the peer's keys are views of it, and the caller's array may be a pooled buffer.
    const reader = new ByteReader(bytes.slice());
    if (reader.u8() !== VERSION) throw new Refusal("malformed");
    const peer: Peer = {
      agentId: String.fromCharCode(...reader.bytes(AGENT_ID_LENGTH)),
      identityKey: readOptional(reader, readKey),
      active: readOptional(reader, readSession),
      archived: readList(reader, readSession),
      remembered: readList(reader, readRemembered),
      latestTimestamp: readOptional(reader, (from) => from.u64()),
      repairedAt: readOptional(reader, (from) => from.u64()),
    };
    reader.end();
    return peer;
  } catch (error) {
    throw new RecordUnreadable(false, error);
  }
}

function encodeSession(session: Session): Uint8Array {
  return concat(
    session.id,
    optional(session.unanswered, encodeUnanswered),
    u8(session.replaced ? 1 : 0),
    encodeRatchet(session.ratchet),
  );
}

function readSession(reader: ByteReader): Session {
  return {
    id: reader.bytes(SESSION_ID_BYTES),
    unanswered: readOptional(reader, readUnanswered),
    replaced: readFlag(reader),
    ratchet: readRatchet(reader),
  };
}

function encodeUnanswered({ startedAt, initiation }: UnansweredStart): Uint8Array {
  return concat(u64(startedAt), u32(initiation.length), initiation);
}

function readUnanswered(reader: ByteReader): UnansweredStart {
  return { startedAt: reader.u64(), initiation: reader.bytes(reader.u32()) };
}

function encodeRatchet(ratchet: Ratchet): Uint8Array {
  return concat(
    ratchet.rootKey,
    ratchet.own.publicKey,
    ratchet.own.privateKey,
    optional(ratchet.peerKey, (key) => key),
    optional(ratchet.sending, encodeSending),
    optional(ratchet.receiving, encodeReceiving),
    u32(ratchet.previousCounter),
    list(ratchet.earlierPeerKeys, (key) => key),
    list(ratchet.skipped, encodeSkipped),
  );
}

function readRatchet(reader: ByteReader): Ratchet {
  return {
    rootKey: readKey(reader),
    own: readKeyPair(reader),
    peerKey: readOptional(reader, readKey),
    sending: readOptional(reader, readSending),
    receiving: readOptional(reader, readReceiving),
    previousCounter: reader.u32(),
    earlierPeerKeys: readList(reader, readKey),
    skipped: readList(reader, readSkipped),
  };
}

function encodeSending({ key, counter, firstSentAt }: SendingChain): Uint8Array {
  return concat(key, u32(counter), optional(firstSentAt, u64));
}

function readSending(reader: ByteReader): SendingChain {
  return { key: readKey(reader), counter: reader.u32(), firstSentAt: readOptional(reader, (from) => from.u64()) };
}

function encodeReceiving({ key, counter }: ReceivingChain): Uint8Array {
  return concat(key, u32(counter));
}

function readReceiving(reader: ByteReader): ReceivingChain {
  return { key: readKey(reader), counter: reader.u32() };
}

function encodeSkipped({ ratchetKey, counter, messageKey, storedAt }: SkippedKey): Uint8Array {
  return concat(ratchetKey, u32(counter), messageKey, u64(storedAt));
}

function readSkipped(reader: ByteReader): SkippedKey {
  return {
    ratchetKey: readKey(reader),
    counter: reader.u32(),
    messageKey: readKey(reader),
    storedAt: reader.u64(),
  };
}

function encodeRemembered({ sessionId, signedPrekeyId }: RememberedSession): Uint8Array {
  return concat(sessionId, uuidToBytes(signedPrekeyId));
}

function readRemembered(reader: ByteReader): RememberedSession {
  return { sessionId: reader.bytes(SESSION_ID_BYTES), signedPrekeyId: uuidFromBytes(reader.bytes(UUID_BYTES)) };
}

function readKey(reader: ByteReader): Uint8Array {
  return reader.bytes(KEY_BYTES);
}

function readKeyPair(reader: ByteReader): KeyPair {
  return { publicKey: readKey(reader), privateKey: readKey(reader) };
}

function readFlag(reader: ByteReader): boolean {
  const flag = reader.u8();
  if (flag > 1) throw new Refusal("malformed");
  return flag === 1;
}

function optional<Value>(value: Value | null, encode: (value: Value) => Uint8Array): Uint8Array {
  return value === null ? u8(0) : concat(u8(1), encode(value));
}

function readOptional<Value>(reader: ByteReader, read: (reader: ByteReader) => Value): Value | null {
  return readFlag(reader) ? read(reader) : null;
}

function list<Item>(items: readonly Item[], encode: (item: Item) => Uint8Array): Uint8Array {
  return join([u32(items.length), ...items.map(encode)]);
}

function readList<Item>(reader: ByteReader, read: (reader: ByteReader) => Item): Item[] {
  const items: Item[] = [];
  for (let left = reader.u32(); left > 0; left--) items.push(read(reader));
  return items;
}

function u8(value: number): Uint8Array {
  return Uint8Array.of(value);
}

function u32(value: number): Uint8Array {
  return new ByteWriter(4).u32(value).finish();
}

function u64(value: number): Uint8Array {
  return new ByteWriter(8).u64(value).finish();
}
