import { afterAll, beforeAll, expect, test } from "vitest";
import type { Agent } from "../sdk/agent.ts";
import { messageAcknowledged, messageDelivered, messageQueued, pushRequested } from "../streams/catalogue.ts";
import { headersAsText } from "../streams/headers.ts";
import { consumerParts, eventually, type House, openHouse, takeTexts } from "./house.ts";

let house: House;
let url: string;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: consumerParts });
});

afterAll(() => house.close());

function numbered(prefix: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${prefix} ${index + 1}`);
}

async function sendAll(from: Agent, to: string, bodies: readonly string[]): Promise<string[]> {
  const outcomes = await from.sendMany(bodies.map((body) => ({ to, body })));
  return outcomes.map((outcome) => {
    if (outcome.status === "rejected") throw outcome.reason;
    return outcome.value.messageId;
  });
}

test("messages both ways arrive once and in order, online and offline, and stand once in each public topic", async () => {
  const alice = await house.agent("alice", url);
  let bob = await house.agent("bob", url);

  const first = numbered("online", 150);
  const sent = await sendAll(alice, bob.id, first);
  expect(await takeTexts(bob, first.length)).toEqual(first);

  await bob.close();
  await house.away(bob.id);
  const later = numbered("offline", 150);
  sent.push(...(await sendAll(alice, bob.id, later)));
  await eventually("a push was requested for Bob", async () => (await house.read(pushRequested)).length > 0);
  bob = await house.agent("bob", url);
  expect(await takeTexts(bob, later.length)).toEqual(later);

  const answers = numbered("answer", 20);
  sent.push(...(await sendAll(bob, alice.id, answers)));
  expect(await takeTexts(alice, answers.length)).toEqual(answers);

  await eventually("every sender knows of the acknowledgement", () =>
    sent.every((id) => (alice.status(id) ?? bob.status(id))?.state === "acknowledged"),
  );
  const [delivered, acknowledged, queued] = await Promise.all([
    house.read(messageDelivered),
    house.read(messageAcknowledged),
    house.read(messageQueued),
  ]);
  for (const records of [delivered, acknowledged]) {
    const ids = records.map(({ decoded }) => decoded.messageId);
    expect(new Set(ids).size).toBe(ids.length);
    // Beside what was sent there are the agents' own control messages, which turn the ratchets (protocol.md §4).
    expect(sent.filter((id) => !ids.includes(id))).toEqual([]);
    expect(ids.length - sent.length).toBeLessThanOrEqual(3);
    expect(new Set(records.map(({ headers }) => headersAsText(headers)["ce_id"])).size).toBe(ids.length);
    for (const { decoded, headers } of records) expect(headersAsText(headers)["ce_id"]).toBe(decoded.eventId);
  }
  const toBob = queued.filter(({ decoded }) => decoded.recipientId === bob.id).map(({ decoded }) => decoded.seq);
  expect(toBob).toEqual(Array.from({ length: 300 }, (_, index) => index + 1));
});

async function metricsText(): Promise<string> {
  const pages = await Promise.all(house.services.map(async ({ url: own }) => (await fetch(`${own}/metrics`)).text()));
  return pages.join("\n");
}

test("the metrics tell of messages sent, queued and delivered, lag and the outbox's age", async () => {
  // Each consumer asks for the ends of its own topics, in its own time.
  await eventually("the ends of the log were asked for", async () => {
    const text = await metricsText();
    return ['lag_records{consumer="queuing"', 'outbox_age_seconds{consumer="acks"'].every((part) =>
      text.includes(part),
    );
  });
  const text = await metricsText();
  for (const name of ["messaging_messages_sent_total", "messaging_delivery_latency_seconds_count"]) {
    const values = [...text.matchAll(new RegExp(`^${name} (\\S+)$`, "gm"))].map(([, value]) => Number(value));
    expect(Math.max(...values), name).toBeGreaterThanOrEqual(320);
  }
  expect(text).toMatch(/^messaging_messages_queued\{state="online"\} [1-9]/m);
  expect(text).toMatch(/^messaging_messages_queued\{state="offline"\} [1-9]/m);
  expect(text).toMatch(/^sealpost_consumer_lag_records\{consumer="queuing",/m);
  expect(text).toMatch(/^sealpost_outbox_age_seconds\{consumer="acks"\} /m);
});

test("every process is alive and ready, and says when a server is missing", async () => {
  for (const { url: own } of house.services) {
    expect((await fetch(`${own}/healthz`)).status).toBe(200);
    await eventually("it is ready", async () => (await fetch(`${own}/readyz`)).status === 200);
  }
});
