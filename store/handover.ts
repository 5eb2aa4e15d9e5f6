/**
 * Handing over: what routing and receipts tell a gateway about the agents connected to it, over Redis' publish and subscribe.
 *
 * Hints, at most once, in order while the subscription lasts. What was missed is in the mailbox; `onGap` says when to look there.
 * A publication is u16(count) ‖ count × entry;
 * an entry is u8(type) and then, by type (lp(x) = u16(length) ‖ x)
 *
 *     0 item        lp(agent_id) ‖ u64(seq) ‖ u8(0 message, 1 retry) ‖ lp(sender_id) ‖ item_id(16) ‖ u32(length) ‖ body
 *     1 receipt     lp(agent_id) ‖ message_id(16) ‖ lp(recipient_id) ‖ u8(1 delivered, 2 acknowledged, 3 discarded, 4 undeliverable) ‖ u64(at) ‖ lp(code)
 *     2 superseded  lp(agent_id) ‖ lp(connection_id)
 *     3 notice      lp(agent_id) ‖ u8(1 prekeys-low, 2 rotation-due, 3 rotate-now, 4 contact-requested, 5 contact-accepted)
 *     4 reconnect   lp(agent_id)
 */
import { asciiBytes, ByteReader, ByteWriter } from "../protocol/bytes.ts";
import { Refusal } from "../protocol/refusal.ts";
import type { NoticeKind } from "../protocol/stream-frames.ts";
import { UUID_BYTES, uuidFromBytes, uuidToBytes } from "../protocol/uuid.ts";
import type { ItemKind } from "../schemas/values.ts";
import type { RedisDoor } from "./redis.ts";

export interface ItemEntry {
  readonly type: "item";
  /** The recipient. */
  readonly agentId: string;
  readonly seq: number;
  readonly kind: ItemKind;
  readonly senderId: string;
  readonly itemId: string;
  readonly body: Uint8Array;
}

export type ReceiptStatus = "delivered" | "acknowledged" | "discarded" | "undeliverable";

export interface ReceiptEntry {
  readonly type: "receipt";
  /** The message's sender. */
  readonly agentId: string;
  readonly messageId: string;
  readonly recipientId: string;
  readonly status: ReceiptStatus;
  /** ms since the epoch. */
  readonly at: number;
  readonly code: string | null;
}

export interface SupersededEntry {
  readonly type: "superseded";
  readonly agentId: string;
  /** The older connection. */
  readonly connectionId: string;
}

/** Something an agent that is connected should see to. */
export interface NoticeEntry {
  readonly type: "notice";
  readonly agentId: string;
  readonly kind: NoticeKind;
}

/** Something waits behind what the agent's connection was sent: only a new one begins at the mailbox's start. */
export interface ReconnectEntry {
  readonly type: "reconnect";
  readonly agentId: string;
}

export type HandoverEntry = ItemEntry | ReceiptEntry | SupersededEntry | NoticeEntry | ReconnectEntry;

export interface Listener {
  readonly onEntries: (entries: readonly HandoverEntry[]) => void;
  /** The subscription began, again or for the first time: anything published before may have been missed. */
  readonly onGap: () => void;
}

export interface Subscription {
  /** Whether what is published now arrives. */
  listening(): boolean;
  close(): void;
}

export interface HandoverDoor {
  /**
   * Answers how many listen; 0 means the gateway is gone.
   *
   * @throws Unavailable
   */
  publish(gatewayId: string, entries: readonly HandoverEntry[]): Promise<number>;
  /** Never throws; while the server is away it is not listening and tries again. */
  subscribe(gatewayId: string, listener: Listener): Subscription;
}

/** Bytes of one publication: far below the 8 MB at which Redis cuts off a subscriber that is slow for a minute. */
const publicationBytesMax = 256 * 1024;

/** A connection that died without a word is noticed within this time and a command's patience. */
const heartbeatMs = 1_000;

export function openHandover(redis: RedisDoor): HandoverDoor {
  const channelOf = (gatewayId: string) => redis.key(`gw:${gatewayId}`);
  return {
    publish: async (gatewayId, entries) => {
      const channel = channelOf(gatewayId);
      const counts = await redis.ask((client) =>
        Promise.all(publicationsOf(entries).map((bytes) => client.publish(channel, Buffer.from(bytes)))),
      );
      return counts.length === 0 ? 0 : Math.min(...counts);
    },
    subscribe: (gatewayId, listener) => listen(redis, channelOf(gatewayId), listener),
  };
}

function listen(redis: RedisDoor, channel: string, listener: Listener): Subscription {
  const client = redis.connect();
  let listening = false;
  const subscribe = async () => {
    await client.subscribe(channel);
    listening = true;
    listener.onGap();
  };
  client.on("ready", () => {
    // A server that takes connections and not this command is treated as one that is away.
    subscribe().catch(() => client.disconnect(true));
  });
  client.on("close", () => {
    listening = false;
  });
  client.on("messageBuffer", (_channel: Buffer, bytes: Buffer) => {
    const entries = entriesOf(bytes);
    if (entries === null) listener.onGap();
    else listener.onEntries(entries);
  });
  const heartbeat = setInterval(() => {
    if (listening) client.ping().catch(() => undefined);
  }, heartbeatMs);
  heartbeat.unref();
  return {
    listening: () => listening,
    close: () => {
      clearInterval(heartbeat);
      listening = false;
      client.removeAllListeners("messageBuffer");
      client.disconnect();
    },
  };
}

/** Entries in as few publications as fit. */
export function publicationsOf(entries: readonly HandoverEntry[]): readonly Uint8Array[] {
  const publications: Uint8Array[] = [];
  let parts: Uint8Array[] = [];
  let size = 0;
  const publish = () => {
    if (parts.length > 0) publications.push(Buffer.concat([new ByteWriter(2).u16(parts.length).finish(), ...parts]));
    parts = [];
    size = 0;
  };
  for (const entry of entries) {
    const part = encodeEntry(entry);
    if (size + part.length > publicationBytesMax) publish();
    parts.push(part);
    size += part.length;
  }
  publish();
  return publications;
}

const itemType = 0;
const receiptType = 1;
const supersededType = 2;
const noticeType = 3;
const reconnectType = 4;
const kinds = ["message", "retry"] as const;
const statuses = ["delivered", "acknowledged", "discarded", "undeliverable"] as const;
const notices = ["prekeys-low", "rotation-due", "rotate-now", "contact-requested", "contact-accepted"] as const;

function encodeEntry(entry: HandoverEntry): Uint8Array {
  switch (entry.type) {
    case "item":
      return new ByteWriter(
        1 + 2 + entry.agentId.length + 8 + 1 + 2 + entry.senderId.length + UUID_BYTES + 4 + entry.body.length,
      )
        .u8(itemType)
        .lpAscii(entry.agentId)
        .u64(entry.seq)
        .u8(kinds.indexOf(entry.kind))
        .lpAscii(entry.senderId)
        .bytes(uuidToBytes(entry.itemId))
        .u32(entry.body.length)
        .bytes(entry.body)
        .finish();
    case "receipt":
      return new ByteWriter(
        1 +
          2 +
          entry.agentId.length +
          UUID_BYTES +
          2 +
          entry.recipientId.length +
          1 +
          8 +
          2 +
          (entry.code ?? "").length,
      )
        .u8(receiptType)
        .lpAscii(entry.agentId)
        .bytes(uuidToBytes(entry.messageId))
        .lpAscii(entry.recipientId)
        .u8(1 + statuses.indexOf(entry.status))
        .u64(entry.at)
        .lp(asciiBytes(entry.code ?? ""))
        .finish();
    case "superseded":
      return new ByteWriter(1 + 2 + entry.agentId.length + 2 + entry.connectionId.length)
        .u8(supersededType)
        .lpAscii(entry.agentId)
        .lpAscii(entry.connectionId)
        .finish();
    case "notice":
      return new ByteWriter(1 + 2 + entry.agentId.length + 1)
        .u8(noticeType)
        .lpAscii(entry.agentId)
        .u8(1 + notices.indexOf(entry.kind))
        .finish();
    case "reconnect":
      return new ByteWriter(1 + 2 + entry.agentId.length).u8(reconnectType).lpAscii(entry.agentId).finish();
  }
}

/** The entries of one publication; null when the bytes are none. Bodies are views of `bytes`. */
export function entriesOf(bytes: Uint8Array): readonly HandoverEntry[] | null {
  try {
    const reader = new ByteReader(bytes);
    const entries = Array.from({ length: reader.u16() }, () => decodeEntry(reader));
    reader.end();
    return entries;
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}

function decodeEntry(reader: ByteReader): HandoverEntry {
  const type = reader.u8();
  const agentId = text(reader);
  switch (type) {
    case itemType:
      return {
        type: "item",
        agentId,
        seq: reader.u64(),
        kind: oneOf(kinds, reader.u8()),
        senderId: text(reader),
        itemId: uuidFromBytes(reader.bytes(UUID_BYTES)),
        body: reader.bytes(reader.u32()),
      };
    case receiptType:
      return {
        type: "receipt",
        agentId,
        messageId: uuidFromBytes(reader.bytes(UUID_BYTES)),
        recipientId: text(reader),
        status: oneOf(statuses, reader.u8() - 1),
        at: reader.u64(),
        code: text(reader) || null,
      };
    case supersededType:
      return { type: "superseded", agentId, connectionId: text(reader) };
    case noticeType:
      return { type: "notice", agentId, kind: oneOf(notices, reader.u8() - 1) };
    case reconnectType:
      return { type: "reconnect", agentId };
    default:
      throw new Refusal("malformed");
  }
}

function text(reader: ByteReader): string {
  return Buffer.from(reader.bytes(reader.u16())).toString("latin1");
}

function oneOf<Value>(values: readonly Value[], index: number): Value {
  const value = values[index];
  if (value === undefined) throw new Refusal("malformed");
  return value;
}
