import { expect, test } from "vitest";
import { Unavailable } from "../../protocol/refusal.ts";
import type { MessageQueued } from "../../schemas/values.ts";
import type { HandoverEntry } from "../../store/handover.ts";
import { messageDiscarded, messageQueued } from "../../streams/catalogue.ts";
import type { Emit, Inbound } from "../../streams/consumer.ts";
import { routing } from "./routing.ts";
import { createShortcut } from "./shortcut.ts";

const place = { topic: { name: "message.encrypted.v1" }, partition: 0, offset: 0 };

function item(recipientId: string, seq: number): MessageQueued {
  return {
    kind: "message",
    itemId: `item-${seq}`,
    senderId: "sender",
    recipientId,
    custody: "agent",
    body: Uint8Array.of(seq),
    seq,
    sessionId: new Uint8Array(16),
    sendCounter: 1,
    size: 1,
    acceptedAt: 1,
    queuedAt: 2,
  };
}

function stored(value: MessageQueued): Emit<MessageQueued> {
  return { topic: messageQueued, key: value.recipientId, cause: place, time: 2, subject: "", value: () => value };
}

function fromLog(value: MessageQueued): Inbound<MessageQueued> {
  return {
    topic: messageQueued,
    partition: 0,
    offset: value.seq,
    key: value.recipientId,
    value,
    headers: {},
    timestamp: 3,
  };
}

/** Gateways by agent; a gateway called `gone` has no listener; null: Redis is away. */
function house(present: Readonly<Record<string, string>> | null) {
  const handed: number[] = [];
  const counted: string[] = [];
  const deps = {
    presence: {
      lookup: async (ids: readonly string[]) => {
        if (present === null) throw new Unavailable("redis");
        return new Map(
          ids.flatMap((id) => {
            const gatewayId = present[id];
            return gatewayId === undefined ? [] : [[id, { gatewayId, connectionId: "1" }] as const];
          }),
        );
      },
      release: async () => undefined,
    },
    handover: {
      publish: async (gatewayId: string, entries: readonly HandoverEntry[]) => {
        if (gatewayId === "gone") return 0;
        for (const entry of entries) if (entry.type === "item") handed.push(entry.seq);
        return 1;
      },
    },
    count: (state: string, items: number) => counted.push(`${state} ${items}`),
  };
  const shortcut = createShortcut(deps);
  return { shortcut, handed, counted, consumer: routing({ ...deps, shortcut }) };
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 5));

test("what a step stored is handed over at once, in order, and skipped when it comes back from the log", async () => {
  const { shortcut, handed, counted, consumer } = house({ anna: "g" });
  shortcut.committed([stored(item("anna", 1)), stored(item("anna", 2))]);
  shortcut.committed([stored(item("anna", 3))]);
  await settled();
  expect(handed).toEqual([1, 2, 3]);
  expect(counted).toEqual(["online 2", "online 1"]);
  expect(await consumer.react([1, 2, 3].map((seq) => fromLog(item("anna", seq))))).toEqual([]);
  expect(handed).toEqual([1, 2, 3]);
  // Asked a second time it is not known any more: a repeated handover, which gateways drop.
  await consumer.react([fromLog(item("anna", 3))]);
  expect(handed).toEqual([1, 2, 3, 3]);
});

test.each([
  ["is not connected", {}],
  ["is at a gateway that is gone", { anna: "gone" }],
])("what is for an agent who %s is left to routing, which asks for a push", async (_what, present) => {
  const { shortcut, handed, consumer } = house(present);
  shortcut.committed([stored(item("anna", 1))]);
  await settled();
  expect(handed).toEqual([]);
  const emits = await consumer.react([fromLog(item("anna", 1))]);
  expect(emits.map(({ topic, key }) => [topic.name, key])).toEqual([["push.requested.v1", "anna"]]);
});

test("while Redis is away nothing is taken and nothing thrown", async () => {
  const { shortcut, consumer } = house(null);
  shortcut.committed([stored(item("anna", 1))]);
  await settled();
  expect(shortcut.took(item("anna", 1))).toBe(false);
  expect(await consumer.react([fromLog(item("anna", 1))])).toEqual([]);
});

test("other events of a step are none of its business", async () => {
  const { shortcut, handed } = house({ anna: "g" });
  const event: Emit = {
    topic: messageDiscarded,
    key: "anna",
    cause: place,
    time: 2,
    subject: "",
    value: () => item("anna", 1),
  };
  shortcut.committed([event]);
  await settled();
  expect(handed).toEqual([]);
});

test("behind a Redis that is slow no more waits than can be handed over soon; the rest is left to routing", async () => {
  const handed: number[] = [];
  const slow = Promise.withResolvers<void>();
  const shortcut = createShortcut({
    presence: {
      lookup: async () => {
        await slow.promise;
        return new Map([["anna", { gatewayId: "g", connectionId: "1" }]]);
      },
    },
    handover: { publish: async (_, entries) => handed.push(entries.length) },
    count: () => undefined,
  });
  for (let seq = 1; seq <= 10_000; seq++) shortcut.committed([stored(item("anna", seq))]);
  slow.resolve();
  await settled();
  expect(handed).toEqual([1, 2_000]);
  expect(shortcut.took(item("anna", 2_001))).toBe(true);
  expect(shortcut.took(item("anna", 2_002))).toBe(false);
});
