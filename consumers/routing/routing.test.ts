import { expect, test } from "vitest";
import { Refusal, Unavailable } from "../../protocol/refusal.ts";
import type { MessageQueued } from "../../schemas/values.ts";
import type { HandoverEntry } from "../../store/handover.ts";
import type { AgentPresence, Presence } from "../../store/presence.ts";
import { messageQueued } from "../../streams/catalogue.ts";
import type { Inbound } from "../../streams/consumer.ts";
import { sampleAgentId } from "../../tests/messaging.ts";
import { routing } from "./routing.ts";

function queued(offset: number, recipientId: string, seq: number): Inbound<MessageQueued> {
  const value: MessageQueued = {
    kind: "message",
    itemId: `item-${offset}`,
    senderId: "sender",
    recipientId,
    custody: "agent",
    body: Uint8Array.of(offset),
    seq,
    sessionId: new Uint8Array(16),
    sendCounter: 1,
    size: 1,
    acceptedAt: 1_000,
    queuedAt: 2_000 + offset,
  };
  return { topic: messageQueued, partition: 0, offset, key: recipientId, value, headers: {}, timestamp: 3_000 };
}

interface World {
  /** Agent to gateway; `away` when Redis is. */
  readonly present: Readonly<Record<string, string>> | "away";
  /** Gateways that nobody listens for. */
  readonly gone?: readonly string[];
  readonly publishFails?: boolean;
  readonly releaseFails?: boolean;
}

async function route(world: World, batch: readonly Inbound<MessageQueued>[]) {
  const counted = { online: 0, offline: 0, unknown: 0 };
  const published: [gatewayId: string, entries: readonly HandoverEntry[]][] = [];
  const asked: (readonly string[])[] = [];
  const released: AgentPresence[] = [];
  const consumer = routing({
    presence: {
      lookup: async (agentIds) => {
        asked.push(agentIds);
        const { present } = world;
        if (present === "away") throw new Unavailable("redis");
        const found = agentIds.flatMap((id): [string, Presence][] => {
          const gatewayId = present[id];
          return gatewayId === undefined ? [] : [[id, { gatewayId, connectionId: "1" }]];
        });
        return new Map(found);
      },
      release: async (held) => {
        if (world.releaseFails) throw new Unavailable("redis");
        released.push(...held);
      },
    },
    handover: {
      publish: async (gatewayId, entries) => {
        if (world.publishFails) throw new Unavailable("redis");
        published.push([gatewayId, entries]);
        return world.gone?.includes(gatewayId) ? 0 : 1;
      },
    },
    count: (state, items) => {
      counted[state] += items;
    },
  });
  const emits = await consumer.react(batch);
  const pushes = emits.map((emit) => ({ ...(emit.value("e") as object), offset: emit.cause.offset, time: emit.time }));
  return { counted, published, asked, pushes, released };
}

const batch = [queued(1, "anna", 4), queued(2, "ben", 7), queued(3, "anna", 5), queued(4, "cleo", 1)];

test("items go to their recipients' gateways in order, one publication for each gateway, one question for all", async () => {
  const { asked, published, counted, pushes } = await route({ present: { anna: "g1", ben: "g1", cleo: "g2" } }, batch);
  expect(asked).toEqual([["anna", "ben", "cleo"]]);
  expect(
    published.map(([gatewayId, entries]) => [gatewayId, entries.map((entry) => entry.type === "item" && entry.seq)]),
  ).toEqual([
    ["g1", [4, 7, 5]],
    ["g2", [1]],
  ]);
  const [first] = published[0]?.[1] ?? [];
  const item = { seq: 4, kind: "message", senderId: "sender", itemId: "item-1", body: Uint8Array.of(1) };
  expect(first).toEqual({ type: "item", agentId: "anna", ...item });
  expect(counted).toEqual({ online: 4, offline: 0, unknown: 0 });
  expect(pushes).toEqual([]);
});

test("for the absent a push is requested once per batch, by their latest item", async () => {
  const { counted, pushes } = await route({ present: { cleo: "g2" } }, batch);
  expect(pushes).toEqual([
    { recipientId: "anna", seq: 5, requestedAt: 2_003, offset: 3, time: 2_003 },
    { recipientId: "ben", seq: 7, requestedAt: 2_002, offset: 2, time: 2_002 },
  ]);
  expect(counted).toEqual({ online: 1, offline: 3, unknown: 0 });
});

test("a gateway nobody listens for means absent, for whoever asks after that, too", async () => {
  const world = { present: { anna: "g1", cleo: "g2" }, gone: ["g1"] };
  const { counted, pushes, released } = await route(world, batch);
  expect(released).toEqual([{ agentId: "anna", gatewayId: "g1", connectionId: "1" }]);
  expect((await route({ ...world, releaseFails: true }, batch)).pushes).toEqual(pushes);
  expect(pushes).toMatchObject([{ recipientId: "ben" }, { recipientId: "anna", seq: 5 }]);
  expect(counted).toEqual({ online: 1, offline: 3, unknown: 0 });
});

test("while Redis is away nothing is handed over and nobody is woken", async () => {
  expect(await route({ present: "away" }, batch)).toMatchObject({
    counted: { online: 0, offline: 0, unknown: 4 },
    published: [],
    pushes: [],
  });
  expect(await route({ present: { anna: "g1" }, publishFails: true }, batch)).toMatchObject({
    counted: { online: 0, offline: 2, unknown: 2 },
    pushes: [{ recipientId: "ben" }, { recipientId: "cleo" }],
  });
});

test("an item of a time that is none, or of nobody, is refused: no push could be asked for because of it", () => {
  const right = queued(1, sampleAgentId(), 1);
  const item = (fields: Partial<MessageQueued>) => ({
    ...right,
    value: { ...right.value, senderId: sampleAgentId(), ...fields },
  });
  const { check } = routing({} as never);
  expect(() => check?.(item({}))).not.toThrow();
  const wrong = [{ queuedAt: 9e15 }, { queuedAt: -1 }, { recipientId: "x".repeat(3_000) }, { senderId: "sender" }];
  for (const fields of wrong) expect(() => check?.(item(fields))).toThrow(Refusal);
});
