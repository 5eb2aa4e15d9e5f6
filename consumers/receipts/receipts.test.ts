import { expect, test } from "vitest";
import { Refusal, Unavailable } from "../../protocol/refusal.ts";
import type {
  AgentChanged,
  Custody,
  MessageAcknowledged,
  MessageDelivered,
  MessageDiscarded,
  MessageRetried,
  MessageUndeliverable,
  PrekeyLow,
} from "../../schemas/values.ts";
import type { HandoverEntry } from "../../store/handover.ts";
import {
  agentChanged,
  messageAcknowledged,
  messageDelivered,
  messageDiscarded,
  messageRetried,
  messageUndeliverable,
  prekeyLow,
} from "../../streams/catalogue.ts";
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

function undeliverable(senderId: string): MessageUndeliverable {
  const who = { eventId: "event", messageId: `of-${senderId}`, senderId, recipientId: "recipient" };
  return { ...who, seq: 1, acceptedAt: 1, queuedAt: 1, undeliverableAt: 2 };
}

function retried(recipientId: string, wasSetAside: boolean): MessageRetried {
  const who = { eventId: "event", kind: "message", itemId: "item", senderId: "anna", recipientId } as const;
  return { ...who, seq: 1, wasSetAside, wasUndeliverable: true, retriedAt: 8 };
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
    record(messageUndeliverable, undeliverable("anna")),
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
        { ...about("anna"), status: "undeliverable", at: 2, code: null },
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

test("an operator's reason for a deletion is not told to the sender, the deletion is", async () => {
  const batch = [record(messageDiscarded, discarded("anna", "deleted", "spam-wave"))];
  expect((await tell(batch, { anna: "g1" })).flatMap(([, entries]) => entries)).toMatchObject([{ code: "deleted" }]);
});

test("who could not see an item and now can is asked once to connect again; who was only not woken is not", async () => {
  const batch = [
    record(messageRetried, retried("ben", true)),
    record(messageRetried, retried("ben", true)),
    record(messageRetried, retried("cleo", false)),
    record(messageRetried, retried("away", true)),
  ];
  expect(await tell(batch, { anna: "g1", ben: "g2", cleo: "g2" })).toEqual([
    ["g2", [{ type: "reconnect", agentId: "ben" }]],
  ]);
});

test("other bytes under a used id are no receipt of the message that has it", async () => {
  const batch = [
    record(messageDiscarded, discarded("anna", "id-reused", null)),
    record(messageDelivered, delivered("anna")),
  ];
  expect((await tell(batch, { anna: "g1" })).flatMap(([, entries]) => entries)).toMatchObject([
    { type: "receipt", status: "delivered" },
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

test("who is asked, or was accepted, as a contact is told when it is connected; of no other change is anybody told", async () => {
  const changed = (change: AgentChanged["change"], peerId: string | null): AgentChanged => {
    return { eventId: "event", agentId: "anna", change, custody: "agent", changedAt: 1, peerId };
  };
  const batch = [
    record(agentChanged, changed("contact-requested", "ben")),
    record(agentChanged, changed("contact-accepted", "carol")),
    ...(["blocked", "contact-declined", "contact-removed"] as const).map((change) =>
      record(agentChanged, changed(change, "ben")),
    ),
    record(agentChanged, changed("registered", null)),
    record(agentChanged, changed("contact-requested", "elsewhere")),
  ];
  expect(await tell(batch, { anna: "g1", ben: "g1", carol: "g1" })).toEqual([
    [
      "g1",
      [
        { type: "notice", agentId: "ben", kind: "contact-requested" },
        { type: "notice", agentId: "carol", kind: "contact-accepted" },
      ],
    ],
  ]);
});

test("why a message was not let in is told to its sender as the rule", async () => {
  const batch = [record(messageDiscarded, discarded("anna", "not-allowed", "blocked"))];
  expect((await tell(batch, { anna: "g1" })).flatMap(([, entries]) => entries)).toMatchObject([
    { type: "receipt", status: "discarded", code: "blocked" },
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

test("news of a time that is none is refused, whatever it is of", () => {
  const at = 8_640_000_000_000_001;
  const right: readonly Inbound<News>[] = [
    record(messageDelivered, delivered("anna")),
    record(messageAcknowledged, acknowledged("anna")),
    record(messageDiscarded, discarded("anna", "evicted", null)),
    record(messageUndeliverable, undeliverable("anna")),
    record(messageRetried, retried("anna", true)),
    record(prekeyLow, low("anna")),
  ];
  const { check } = receipts({} as never);
  for (const one of right) expect(() => check?.(one)).not.toThrow();
  const wrong: readonly Inbound<News>[] = [
    record(messageDelivered, { ...delivered("anna"), deliveredAt: at }),
    record(messageAcknowledged, { ...acknowledged("anna"), acknowledgedAt: -1 }),
    record(messageDiscarded, { ...discarded("anna", "evicted", null), discardedAt: at }),
    record(messageUndeliverable, { ...undeliverable("anna"), undeliverableAt: at }),
  ];
  for (const one of wrong) expect(() => check?.(one)).toThrow(Refusal);
});
