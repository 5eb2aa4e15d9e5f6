import { randomUUID } from "node:crypto";
import path from "node:path";
import pino from "pino";
import { Webhook } from "standardwebhooks";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Agent } from "../sdk/agent.ts";
import { Store } from "../sdk/store/store.ts";
import { agentChanged, messageUndeliverable, pushRequested, pushRetry30s, pushRetry90s } from "../streams/catalogue.ts";
import { toOutgoing } from "../streams/headers.ts";
import { openProducer } from "../streams/producer.ts";
import {
  type Asked,
  type FakeProvider,
  openFakeApns,
  openFakeFcm,
  openFakeWebhook,
  providersEnvironment,
} from "./fake-providers.ts";
import { consumerParts, eventually, type House, openHouse, takeTexts } from "./house.ts";
import { jsonOf, someEnvelope } from "./in-memory-service.ts";
import { call, newIdentity } from "./signing.ts";
import { openClient } from "./stream-client.ts";

type Identity = ReturnType<typeof newIdentity>;

let house: House;
let url: string;
let fcm: FakeProvider;
let apns: FakeProvider;
let webhook: FakeProvider;
let environment: Awaited<ReturnType<typeof providersEnvironment>>;

beforeAll(async () => {
  [fcm, apns, webhook] = await Promise.all([openFakeFcm(), openFakeApns(), openFakeWebhook()]);
  environment = await providersEnvironment(fcm, apns);
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true, env: environment.env }));
  await house.start({ roles: consumerParts, env: environment.env });
});

afterAll(async () => {
  await house.close();
  await Promise.all([fcm.close(), apns.close(), webhook.close()]);
  await environment.remove();
});

/** An agent that holds its keys and polls: registered, with nothing but its signing key. */
async function newPoller(): Promise<Identity> {
  const identity = newIdentity();
  const body = { identity_key: Buffer.from(identity.signing.publicKey).toString("base64url") };
  expect((await call(identity, { method: "POST", url: `${url}/messaging/agents`, body })).status).toBe(201);
  return identity;
}

// biome-ignore lint/suspicious/noExplicitAny: answers of every shape.
async function ask(as: Identity, method: string, path: string, body?: unknown): Promise<any> {
  const response = await call(as, { method, url: url + path, ...(body === undefined ? {} : { body }) });
  return response.json();
}

const register = (as: Identity, body: unknown) => ask(as, "PUT", `/messaging/devices/${randomUUID()}`, body);
const webhookUrl = () => `https://localhost:${webhook.address.port}/wake`;

/** The SDK's agent does not register devices: what stands in its store signs. */
async function identityOf(name: string): Promise<Identity> {
  const store = Store.open({ path: path.join(house.folder, `${name}.db`) });
  const identity = store.accounts.identity();
  await store.close();
  if (identity === null) throw new Error("the store has no identity");
  return identity;
}

/** Of random content: the service cannot tell. Its id. */
async function sendTo(recipientId: string, from: Identity): Promise<string> {
  const envelope = someEnvelope(from.agentId, recipientId);
  expect(await ask(from, "POST", "/messaging/send", { envelopes: [jsonOf(envelope)] })).toEqual({
    accepted: [{ message_id: envelope.messageId }],
  });
  return envelope.messageId;
}

const statusOf = (as: Identity, messageId: string) => ask(as, "GET", `/messaging/messages/${messageId}`);

test("an offline agent with a webhook is woken once, without content and sender, comes, and gets its mail; away again it is woken anew", async () => {
  const alice = await house.agent("alice", url);
  let bob: Agent = await house.agent("bob", url);
  const bobId = bob.id;
  await bob.close();
  await house.away(bobId);
  const { secret } = await register(await identityOf("bob"), { kind: "webhook", url: webhookUrl() });
  await alice.send(bobId, "wake up");
  await eventually("the webhook is called", () => webhook.asked.length > 0);
  await alice.send(bobId, "once is enough");
  bob = await house.agent("bob", url);
  expect(await takeTexts(bob, 2)).toEqual(["wake up", "once is enough"]);
  await bob.close();
  await house.away(bobId);
  expect(webhook.asked).toHaveLength(1);
  const [{ body, headers }] = webhook.asked as [Asked];
  expect(new Webhook(secret).verify(body, headers as Record<string, string>)).toMatchObject({ type: "inbox.waiting" });
  for (const hidden of ["wake up", alice.id, bobId]) expect(body + JSON.stringify(headers)).not.toContain(hidden);
  await alice.send(bobId, "and again");
  await eventually("who has come and gone is woken anew", () => webhook.asked.length === 2);
});

test("an agent that polls is woken through FCM and APNs; a poll ends the wake; a token is taken away where its provider says so, and that is told", async () => {
  const [alice, bob] = [await newPoller(), await newPoller()];
  const phone = await register(bob, { kind: "fcm", token: "bobs-phone" });
  const tablet = await register(bob, { kind: "apns", token: "cd".repeat(32) });
  await sendTo(bob.agentId, alice);
  await eventually("both are woken", () => fcm.asked.length === 1 && apns.asked.length === 1);
  for (const { body } of [...fcm.asked, ...apns.asked]) expect(body).not.toContain(alice.agentId);
  const { items } = await ask(bob, "GET", "/messaging/receive");
  expect(items).toHaveLength(1);
  const fcmError = { "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", errorCode: "UNREGISTERED" };
  fcm.answerNext({ status: 404, body: { error: { status: "NOT_FOUND", details: [fcmError] } } });
  apns.answerNext({ status: 410, body: { reason: "Unregistered", timestamp: 1_000 } });
  await sendTo(bob.agentId, alice);
  await eventually("both are asked again", () => fcm.asked.length === 2 && apns.asked.length >= 2);
  await eventually("the phone is gone", async () => (await ask(bob, "GET", "/messaging/devices")).devices.length === 1);
  // APNs says that the token was bad before it was registered: that is no reason.
  expect((await ask(bob, "GET", "/messaging/devices")).devices).toMatchObject([{ device_id: tablet.device_id }]);
  await eventually("the world is told", async () =>
    (await house.read(agentChanged)).some(
      ({ decoded }) => decoded.change === "device-gone" && decoded.deviceId === phone.device_id,
    ),
  );
});

test("who goes without having answered is woken: while it was connected nobody asked for it", async () => {
  const [alice, bob] = [await newPoller(), await newPoller()];
  await register(bob, { kind: "webhook", url: `${webhookUrl()}/left` });
  const calls = () => webhook.asked.filter(({ path: asked }) => asked.endsWith("/left"));
  const client = await openClient(`${url}/messaging/stream`, bob);
  await client.has("queue-empty");
  const messageId = await sendTo(bob.agentId, alice);
  await client.has("item");
  await eventually("it is delivered", async () => (await statusOf(alice, messageId)).status === "delivered");
  expect(calls()).toEqual([]);
  client.socket.terminate();
  await eventually("the webhook is called", () => calls().length > 0);

  // Woken it comes, answers, and goes: nothing waits any more.
  const again = await openClient(`${url}/messaging/stream`, bob);
  await again.has("item");
  again.send({ type: "ack-up-to", seq: 1 });
  await eventually("it is answered", async () => (await statusOf(alice, messageId)).status === "acknowledged");
  again.socket.close();
  const requests = async () => {
    const all = (await house.read(pushRequested)).map(({ decoded }) => decoded.recipientId);
    return [bob, last].map(({ agentId }) => all.filter((id) => id === agentId).length);
  };
  // Who goes after it and has left something behind is announced with it, or later.
  const last = await newPoller();
  const other = await openClient(`${url}/messaging/stream`, last);
  await other.has("queue-empty");
  await sendTo(last.agentId, alice);
  await other.has("item");
  other.socket.close();
  await eventually("the other one is announced", async () => (await requests())[1] === 1);
  expect([await requests(), calls().length]).toEqual([[1, 1], 1]);
});

/** The second attempt's failure, as it waits in the log, becomes the last one's: the test does not wait for the other two minutes. */
async function skipToLastAttempt(recipientId: string): Promise<void> {
  const retries = await house.read(pushRetry30s);
  const retry = retries.find(({ decoded }) => decoded.recipientId === recipientId)?.decoded;
  if (retry === undefined) throw new Error("the second retry is not in the log");
  expect(retry).toMatchObject({ attempt: 3, woken: false, restMs: 0 });
  const producer = openProducer({ kafka: house.kafka, log: pino({ level: "silent" }) });
  const value = { ...retry, attempt: 4, delayMs: 0 };
  const head = {
    topic: pushRetry90s,
    key: recipientId,
    id: randomUUID(),
    source: "/test",
    subject: recipientId,
    time: 1,
  };
  await producer.append([toOutgoing(house.codec, { ...head, value })]);
  await producer.close();
}

test("a service that cannot wake an agent says so after the third retry: the message waits, its sender is told, and a delivery turns it", async () => {
  const carol = await house.agent("carol", url);
  const receipts = carol.receipts({ signal: AbortSignal.timeout(120_000) });
  let eve: Agent = await house.agent("eve", url);
  const eveId = eve.id;
  await eve.close();
  await house.away(eveId);
  await register(await identityOf("eve"), { kind: "webhook", url: `${webhookUrl()}/eve` });
  webhook.answerAlways({ status: 503 });
  const { messageId } = await carol.send(eveId, "are you there?");
  const calls = () => webhook.asked.filter(({ path: asked }) => asked.endsWith("/eve"));
  const told = async () => (await house.read(messageUndeliverable)).map(({ decoded }) => decoded.messageId);
  await eventually("the first retry has failed", async () => (await house.read(pushRetry30s)).length > 0, 60_000);
  expect([calls().length, await told()]).toEqual([2, []]);
  await skipToLastAttempt(eveId);
  await eventually("the message is undeliverable", async () => (await told()).includes(messageId));
  expect(calls()).toHaveLength(3);
  expect(new Set(calls().map(({ headers }) => headers["webhook-id"])).size).toBe(1);
  for await (const { messageId: about, state } of receipts) {
    if (about === messageId && state === "undeliverable") break;
  }
  expect(carol.status(messageId)?.state).toBe("accepted");
  await carol.close();
  const sender = await identityOf("carol");
  expect(await statusOf(sender, messageId)).toMatchObject({
    status: "undeliverable",
    delivered_at: null,
    ended_at: null,
  });
  eve = await house.agent("eve", url);
  expect(await takeTexts(eve, 1)).toEqual(["are you there?"]);
  await eventually("an answer turns it", async () => (await statusOf(sender, messageId)).status === "acknowledged");
  expect((await told()).filter((id) => id === messageId)).toHaveLength(1);
});

test("no log line holds a token, a URL or a secret", async () => {
  const bob = await newPoller();
  const { secret } = await register(bob, { kind: "webhook", url: `${webhookUrl()}/of-bob` });
  const logs = house.services.map((service) => service.output()).join("\n");
  expect(logs).toContain("a provider no longer knows a device");
  for (const hidden of ["bobs-phone", "cd".repeat(32), webhookUrl(), secret]) expect(logs).not.toContain(hidden);
});

test("without a device a message waits as queued", async () => {
  const [alice, nobody] = [await newPoller(), await newPoller()];
  const messageId = await sendTo(nobody.agentId, alice);
  await eventually("it is stored", async () => (await statusOf(alice, messageId)).status === "queued");
});
