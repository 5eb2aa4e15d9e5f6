/**
 * One value of each topic, for tests: that they compile and encode is what keeps `schemas/values.ts` and the Avro schemas together.
 */
import * as topics from "./catalogue.ts";
import type { Topic } from "./topic.ts";

const agent = "a".repeat(43);
const other = "b".repeat(43);
const itemId = "01890a5d-ac96-774b-bcce-b302099a8057";
const eventId = "6f9619ff-8b86-5011-b42d-00cf4fc964ff";
const body = new Uint8Array([1, 2, 3, 250]);

const item = { kind: "message", itemId, senderId: agent, recipientId: other, custody: "agent", body } as const;
const delivered = {
  eventId,
  messageId: itemId,
  senderId: agent,
  recipientId: other,
  sessionId: new Uint8Array(16).fill(7),
  sendCounter: 3,
  seq: 9_007_199_254_740_000,
  size: 512,
  acceptedAt: 1_700_000_000_001,
  queuedAt: 1_700_000_000_002,
  deliveredAt: 1_700_000_000_003,
  door: "stream",
  custody: "agent",
} as const;

interface Sample<T = unknown> {
  readonly topic: Topic<T>;
  readonly value: T;
}

function sample<T>(topic: Topic<T>, value: T): Sample {
  return { topic, value };
}

export const samples: readonly Sample[] = [
  sample(topics.messageSend, {
    kind: "message",
    messageId: itemId,
    senderId: agent,
    recipientId: other,
    sealed: body,
    hmac: new Uint8Array(32).fill(6),
    sessionId: new Uint8Array(0),
    sentAt: 4,
  }),
  sample(topics.messageEncrypted, item),
  sample(topics.messageQueued, {
    ...item,
    kind: "retry",
    seq: 1,
    sessionId: new Uint8Array(0),
    sendCounter: 0,
    size: 4,
    acceptedAt: 1,
    queuedAt: 2,
  }),
  sample(topics.messageReceipt, {
    recipientId: other,
    items: [
      { outcome: "delivered", senderId: agent, itemId, at: 5, door: "http", code: null },
      { outcome: "refused", senderId: agent, itemId, at: 6, door: "none", code: "auth-failed" },
    ],
  }),
  sample(topics.messageDelivered, delivered),
  sample(topics.messageAcknowledged, { ...delivered, acknowledgedAt: 1_700_000_000_004 }),
  sample(topics.messageDiscarded, {
    eventId,
    messageId: itemId,
    senderId: agent,
    recipientId: other,
    code: "id-reused",
    detail: null,
    digest: new Uint8Array(32).fill(9),
    discardedAt: 7,
  }),
  sample(topics.pushRequested, { recipientId: other, seq: 2, requestedAt: 8 }),
  sample(topics.agentChanged, { eventId, agentId: agent, change: "registered", custody: "server", changedAt: 9 }),
  sample(topics.prekeyPublished, {
    eventId,
    agentId: agent,
    custody: "agent",
    signedPrekeyId: itemId,
    lastResortKemPrekeyId: null,
    oneTimePrekeys: 100,
    kemPrekeys: 0,
    oneTimePrekeysRemaining: 103,
    kemPrekeysRemaining: 0,
    retired: 40,
    publishedAt: 10,
  }),
  sample(topics.prekeyClaimed, {
    eventId,
    agentId: agent,
    claimerId: other,
    signedPrekeyId: itemId,
    oneTimePrekeyId: itemId,
    kemPrekeyId: null,
    lastResort: false,
    oneTimePrekeysRemaining: 9,
    kemPrekeysRemaining: 0,
    claimedAt: 11,
  }),
  sample(topics.prekeyLow, {
    eventId,
    agentId: agent,
    custody: "server",
    oneTimePrekeysRemaining: 9,
    kemPrekeysRemaining: 12,
    timeToEmptyMs: 86_400_000,
    lowAt: 12,
  }),
  sample(topics.prekeyRotated, {
    eventId,
    agentId: agent,
    custody: "agent",
    signedPrekeyId: itemId,
    previousSignedPrekeyId: eventId,
    lastResortKemPrekeyId: itemId,
    rotatedAt: 13,
  }),
  sample(topics.prekeyRotationFailed, {
    eventId,
    agentId: agent,
    custody: "server",
    code: "keys-unavailable",
    alert: `Prekey rotation failed for ${agent}`,
    signedPrekeyId: itemId,
    signedPrekeyCreatedAt: 5,
    failedAt: 14,
  }),
  sample(topics.sessionInitialized, {
    eventId,
    sessionId: new Uint8Array(16).fill(8),
    initiatorId: agent,
    responderId: other,
    suite: 2,
    signedPrekeyId: itemId,
    oneTimePrekeyId: null,
    kemPrekeyId: itemId,
    messageId: itemId,
    custody: "agent",
    initializedAt: 15,
  }),
];
