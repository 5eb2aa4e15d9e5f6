import { expect, test } from "vitest";
import { Unavailable } from "../../protocol/refusal.ts";
import type {
  Custody,
  MessageAcknowledged,
  MessageDelivered,
  MessageDiscarded,
  PrekeyLow,
} from "../../schemas/values.ts";
import type { HandoverEntry } from "../../store/handover.ts";
import { messageAcknowledged, messageDelivered, messageDiscarded, prekeyLow } from "../../streams/catalogue.ts";
import type { Inbound } from "../../streams/consumer.ts";
import type { Topic } from "../../streams/topic.ts";
import type { News } from "./entries.ts";
import { receipts } from "./receipts.ts";

function delivered(senderId: string): MessageDelivered {
  return {
    eventId: "event",
    messageId: `of-${senderId}`,
    senderId,
    recipientId: "recipient",
    sessionId: new Uint8Array(16),
    sendCounter: 1,
    seq: 1,
    size: 1,
    acceptedAt: 1,
    queuedAt: 2,
    deliveredAt: 3,
    door: "http",
    custody: "agent",
  };
}

function acknowledged(senderId: string): MessageAcknowledged {
  return { ...delivered(senderId), acknowledgedAt: 4 };
}

function discarded(senderId: string, code: string, detail: string | null): MessageDiscarded {
  const who = { eventId: "event", messageId: `of-${senderId}`, senderId, recipientId: "recipient" };
  return { ...who, code, detail, digest: null, discardedAt: 5 };
}

function low(agentId: string, custody: Custody = "agent"): PrekeyLow {
  const remaining = { oneTimePrekeysRemaining: 9, kemPrekeysRemaining: 50 };
  return { eventId: "event", agentId, custody, ...remaining, timeToEmptyMs: null, lowAt: 7 };
}

function record<T extends News>(topic: Topic<T>, value: T): Inbound<T> {
  const key = "recipientId" in value ? value.recipientId : value.agentId;
  return { topic, partition: 0, offset: 1, key, value, headers: {}, timestamp: 6 };
}

async function tell(batch: readonly Inbound<News>[], present: Readonly<Record<string, string>> | "away") {
  const published: [gatewayId: string, entries: readonly HandoverEntry[]][] = [];
  const consumer = receipts({
    presence: {
      lookup: async (agentIds) => {
        if (present === "away") throw new Unavailable("redis");
        const connectionId = "1";
        return new Map(
          agentIds.flatMap((id) => (present[id] === undefined ? [] : [[id, { gatewayId: present[id], connectionId }]])),
        );
      },
    },
    handover: {
      publish: async (gatewayId, entries) => {
        published.push([gatewayId, entries]);
        return 1;
      },
    },
    observeDelivery: (seconds) => latencies.push(seconds),
  });
  expect(await consumer.react(batch)).toEqual([]);
  return published;
}

/** What `tell` saw of deliveries, in seconds. */
const latencies: number[] = [];

test("a connected sender's gateway is told what became of its messages, in order; others are told nothing", async () => {
  const batch = [
    record(messageDelivered, delivered("anna")),
    record(messageAcknowledged, acknowledged("anna")),
    record(messageDiscarded, discarded("ben", "expired", null)),
    record(messageDiscarded, discarded("ben", "refused", "auth-failed")),
    record(messageDelivered, delivered("nobody")),
  ];
  const about = (agentId: string) => ({
    type: "receipt",
    agentId,
    messageId: `of-${agentId}`,
    recipientId: "recipient",
  });
  expect(await tell(batch, { anna: "g1", ben: "g2" })).toEqual([
    [
      "g1",
      [
        { ...about("anna"), status: "delivered", at: 3, code: null },
        { ...about("anna"), status: "acknowledged", at: 4, code: null },
      ],
    ],
    [
      "g2",
      [
        { ...about("ben"), status: "discarded", at: 5, code: "expired" },
        { ...about("ben"), status: "discarded", at: 5, code: "auth-failed" },
      ],
    ],
  ]);
});

test("an agent whose prekeys run low is told when it is connected, among its receipts; one of server custody never", async () => {
  const batch = [
    record(messageDelivered, delivered("anna")),
    record(prekeyLow, low("anna")),
    record(prekeyLow, low("ben")),
    record(prekeyLow, low("server", "server")),
  ];
  expect(await tell(batch, { anna: "g1", server: "g1" })).toEqual([
    [
      "g1",
      [
        expect.objectContaining({ type: "receipt", agentId: "anna" }),
        { type: "notice", agentId: "anna", kind: "prekeys-low" },
      ],
    ],
  ]);
});

test("while Redis is away nobody is told, and the consumer goes on", async () => {
  expect(await tell([record(messageDelivered, delivered("anna"))], "away")).toEqual([]);
});

test("each delivery is measured from the append of its message, an acknowledgement is not", async () => {
  latencies.length = 0;
  const batch = [
    record(messageDelivered, { ...delivered("anna"), acceptedAt: 1_000, deliveredAt: 1_250 }),
    record(messageAcknowledged, acknowledged("anna")),
    record(messageDiscarded, discarded("ben", "expired", null)),
  ];
  await tell(batch, {});
  expect(latencies).toEqual([0.25]);
});
