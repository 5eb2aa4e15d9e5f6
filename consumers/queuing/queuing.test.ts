import { describe, expect, test } from "vitest";
import { type Envelope, encodeEnvelope } from "../../protocol/envelope.ts";
import type { MessageEncrypted, MessageReceipt } from "../../schemas/values.ts";
import type { Placement } from "../../store/queuing.ts";
import { messageEncrypted } from "../../streams/catalogue.ts";
import type { Inbound } from "../../streams/consumer.ts";
import { sampleAgentId, sampleItemId } from "../../tests/messaging.ts";
import { fullMailboxes, toEvents, toEvictions, toLament } from "./events.ts";
import { checkItem, toArrival } from "./items.ts";

const minuteMs = 60 * 1000;
const dayMs = 24 * 60 * minuteMs;
const now = Date.UTC(2026, 5, 1);

function sampleEnvelope(fields: Partial<Envelope> = {}): Envelope {
  return {
    messageId: sampleItemId(now),
    senderId: sampleAgentId(),
    recipientId: sampleAgentId(),
    sessionId: new Uint8Array(16).fill(1),
    sendCounter: 4,
    previousCounter: 0,
    dhPublicKey: new Uint8Array(32).fill(2),
    nonce: new Uint8Array(12).fill(3),
    ciphertext: new Uint8Array(48).fill(4),
    authTag: new Uint8Array(16).fill(5),
    timestamp: now,
    flags: 0,
    initiation: new Uint8Array(0),
    ...fields,
  };
}

function messageOf(envelope: Envelope): MessageEncrypted {
  const { messageId: itemId, senderId, recipientId } = envelope;
  return { kind: "message", itemId, senderId, recipientId, custody: "agent", body: encodeEnvelope(envelope) };
}

function retryItem(): MessageEncrypted {
  const [senderId, recipientId] = [sampleAgentId(), sampleAgentId()];
  const request = {
    kind: "retry",
    // Of the failed message: its sender gets the request, its recipient sends it.
    sender_id: recipientId,
    recipient_id: senderId,
    message_id: sampleItemId(now - dayMs),
    session_id: Buffer.alloc(16, 1).toString("base64url"),
    dh_public_key: Buffer.alloc(32, 2).toString("base64url"),
    time: new Date(now).toISOString(),
    signature: Buffer.alloc(64, 3).toString("base64url"),
  };
  const body = Buffer.from(JSON.stringify(request));
  return { kind: "retry", itemId: sampleItemId(now), senderId, recipientId, custody: "agent", body };
}

function record(value: MessageEncrypted, fields: Partial<Inbound<MessageEncrypted>> = {}): Inbound<MessageEncrypted> {
  const place = { topic: messageEncrypted, partition: 3, offset: 17, headers: {}, timestamp: now };
  return { ...place, key: value.recipientId, value, ...fields };
}

describe("what may enter a mailbox", () => {
  test("an envelope under its own ids, and a retry request from the recipient to the sender", () => {
    checkItem(record(messageOf(sampleEnvelope())));
    checkItem(record(retryItem()));
  });

  const message = messageOf(sampleEnvelope());
  const retry = retryItem();
  const other = sampleAgentId();
  const refused: [law: string, code: string, Inbound<MessageEncrypted>][] = [
    ["a record under another key", "item-mismatch", record(message, { key: other })],
    ["an empty body", "malformed", record({ ...message, body: new Uint8Array(0) })],
    ["a body that is no envelope", "malformed", record({ ...message, body: new Uint8Array(200).fill(7) })],
    ["an envelope cut short", "malformed", record({ ...message, body: message.body.subarray(0, -1) })],
    [
      "bytes after the envelope",
      "malformed",
      record({ ...message, body: Buffer.concat([message.body, Buffer.of(0)]) }),
    ],
    ["another sender's envelope", "item-mismatch", record({ ...message, senderId: other })],
    ["another recipient's envelope", "item-mismatch", record({ ...message, recipientId: other })],
    ["another id than the envelope's", "item-mismatch", record({ ...message, itemId: sampleItemId(now) })],
    ["an envelope as a retry request", "malformed", record({ ...message, kind: "retry" })],
    ["a retry request as a message", "malformed", record({ ...retry, kind: "message" })],
    ["a retry request for another agent's message", "item-mismatch", record({ ...retry, recipientId: other })],
    ["a retry request from another agent", "item-mismatch", record({ ...retry, senderId: other })],
    ["a retry request whose id has no time", "malformed", record({ ...retry, itemId: crypto.randomUUID() })],
  ];
  for (const [law, code, input] of refused) {
    test(`${law} is refused`, () => {
      expect(() => checkItem(input)).toThrow(expect.objectContaining({ name: "Refusal", code }));
    });
  }

  test("an id's time lies between 8 days before and 10 minutes after the record's", () => {
    const at = (time: number) => record(messageOf(sampleEnvelope({ messageId: sampleItemId(time) })));
    const wrongTime = expect.objectContaining({ code: "id-time-mismatch" });
    checkItem(at(now - 8 * dayMs));
    checkItem(at(now + 10 * minuteMs));
    expect(() => checkItem(at(now - 8 * dayMs - 1))).toThrow(wrongTime);
    expect(() => checkItem(at(now + 10 * minuteMs + 1))).toThrow(wrongTime);
  });

  test("how large a message may be was decided before", () => {
    const large = sampleEnvelope({ ciphertext: new Uint8Array(500_000) });
    const body = encodeEnvelope(large, { ciphertextBytesMax: 500_000 });
    const { messageId: itemId, senderId, recipientId } = large;
    checkItem(record({ kind: "message", itemId, senderId, recipientId, custody: "agent", body }));
  });
});

describe("what is evicted", () => {
  const [full, other] = [sampleAgentId(), sampleAgentId()];
  const placedIn = (recipientId: string, offset: number, placement: Placement) => ({
    arrival: toArrival(record(messageOf(sampleEnvelope({ recipientId })), { offset })),
    placement,
  });
  const placed = [
    placedIn(full, 1, { outcome: "stored", seq: 7, at: now }),
    placedIn(other, 2, { outcome: "stored", seq: 1, at: now }),
    placedIn(full, 3, { outcome: "stored", seq: 8, at: now }),
    placedIn(full, 4, { outcome: "repeated" }),
  ];

  test("a mailbox is looked at with what came into it", () => {
    expect(fullMailboxes({ placed, full: [full] })).toEqual([{ recipientId: full, arrived: 2 }]);
    expect(fullMailboxes({ placed, full: [] })).toEqual([]);
  });

  test("acks is asked to end it, in records of 256, because of the last item that came", () => {
    const evicted = Array.from({ length: 300 }, () => {
      return { recipientId: full, senderId: sampleAgentId(), itemId: sampleItemId(now) };
    });
    const emits = toEvictions({ placed, full: [full] }, evicted);
    expect(emits).toHaveLength(2);
    for (const emit of emits) {
      expect(emit).toMatchObject({ topic: { name: "message.receipt.v1" }, key: full, subject: full, time: now });
      expect(emit.cause.offset).toBe(3);
    }
    const values = emits.map((emit) => emit.value("some-event") as MessageReceipt);
    expect(values.map(({ items }) => items.length)).toEqual([256, 44]);
    expect(values.flatMap(({ items }) => items)).toEqual(
      evicted.map(({ senderId, itemId }) => {
        return { outcome: "evicted", senderId, itemId, at: now, door: "none", code: null };
      }),
    );
    expect(toEvictions({ placed, full: [full] }, [])).toEqual([]);
  });
});

describe("what is told", () => {
  const envelope = sampleEnvelope();
  const delegation = [{ issuerId: sampleAgentId(), tokenId: "the-token-of-a-test" }];
  const item = { ...messageOf(envelope), delegation };
  const input = record(item);
  const subject = `${item.senderId}/${item.itemId}`;
  const tell = (placement: Placement) => toEvents({ arrival: toArrival(input), placement });

  test("a stored message is queued, with the same bytes, the same chain of delegation and its place", () => {
    const [queued, ...others] = tell({ outcome: "stored", seq: 9, at: now + 5 });
    expect(others).toEqual([]);
    expect(queued).toMatchObject({
      topic: { name: "message.queued.v1" },
      key: item.recipientId,
      time: now + 5,
      subject,
    });
    expect(queued?.cause).toBe(input);
    expect(queued?.value("some-event")).toEqual({
      ...item,
      seq: 9,
      sessionId: envelope.sessionId,
      sendCounter: 4,
      size: 48,
      acceptedAt: now,
      queuedAt: now + 5,
    });
  });

  test("a stored retry request is queued, as large as its body", () => {
    const retry = retryItem();
    const arrival = toArrival(record(retry));
    const [queued] = toEvents({ arrival, placement: { outcome: "stored", seq: 1, at: now } });
    expect(queued?.value("some-event")).toMatchObject({ kind: "retry", sendCounter: 0, size: retry.body.length });
  });

  test("a repetition is no news", () => {
    expect(tell({ outcome: "repeated" })).toEqual([]);
  });

  test("a reused id is discarded with the digest that was refused, an old message with none", () => {
    const digest = new Uint8Array(32).fill(6);
    const facts = { messageId: item.itemId, senderId: item.senderId, recipientId: item.recipientId, detail: null };
    const [reused] = tell({ outcome: "id-reused", digest, at: now });
    expect(reused).toMatchObject({ topic: { name: "message.discarded.v1" }, key: item.recipientId, subject });
    expect(reused?.value("e")).toEqual({ eventId: "e", ...facts, code: "id-reused", digest, discardedAt: now });
    const [expired] = tell({ outcome: "expired", at: now });
    expect(expired?.value("e")).toEqual({ eventId: "e", ...facts, code: "expired", digest: null, discardedAt: now });
  });

  test("a retry request that is not stored concerns nobody", () => {
    const placement = { outcome: "expired", at: now } as const;
    expect(toEvents({ arrival: toArrival(record(retryItem())), placement })).toEqual([]);
  });

  test("the sender of a dead letter is told its code; a record that is not ours has nobody to tell", () => {
    const letter = { topic: "message.encrypted.v1", partition: 1, offset: 2, key: item.recipientId, timestamp: now };
    const [lament] = toLament({ ...letter, headers: { ce_subject: subject } }, "malformed");
    expect(lament).toMatchObject({
      topic: { name: "message.discarded.v1" },
      key: item.recipientId,
      cause: { topic: { name: "message.encrypted.v1" }, partition: 1, offset: 2 },
      time: now,
      subject,
    });
    expect(lament?.value("e")).toMatchObject({
      messageId: item.itemId,
      senderId: item.senderId,
      code: "malformed",
      discardedAt: now,
    });
    for (const headers of [{}, { ce_subject: "nobody" }, { ce_subject: `${item.senderId}/1` }]) {
      expect(toLament({ ...letter, headers }, "malformed")).toEqual([]);
    }
  });
});
