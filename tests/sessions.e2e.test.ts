/**
 * Sessions over the whole service: what is known of them, and asking for a message again. The agents are raw, so that what comes is what was stored.
 */
import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { encodeBase64Url } from "../protocol/base64url.ts";
import type { Envelope } from "../protocol/envelope.ts";
import { encodeInitiation } from "../protocol/initiation.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { makeRetryRequest, retryRequestToJson } from "../protocol/retry-request.ts";
import {
  messageAcknowledged,
  messageDelivered,
  messageDiscarded,
  messageEncrypted,
  messageQueued,
  messageReceipt,
  sessionInitialized,
} from "../streams/catalogue.ts";
import { headersAsText } from "../streams/headers.ts";
import { consumerParts, eventually, type House, openHouse } from "./house.ts";
import { type Answer, read, someEnvelope } from "./in-memory-service.ts";
import { RawSender } from "./raw-sender.ts";
import { call } from "./signing.ts";
import { openClient } from "./stream-client.ts";

let house: House;
let url: string;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: consumerParts });
});

afterAll(() => house.close());

async function registered(): Promise<RawSender> {
  const agent = new RawSender(url);
  await agent.register();
  return agent;
}

const get = async ({ me }: RawSender, path: string): Promise<Answer> =>
  read(await call(me, { method: "GET", url: url + path }));

async function sent(from: RawSender, ...envelopes: Envelope[]): Promise<void> {
  const response = await from.post(envelopes);
  expect(response.status).toBe(202);
}

test("a session is told once, and both sides see what either sent last, repeats or not", async () => {
  const [alice, bob] = [await registered(), await registered()];
  const [from, to] = [alice.me.agentId, bob.me.agentId];
  const sessionId = nodeRandom(16);
  const initiation = encodeInitiation({
    ...{ suite: 1, identityKey: alice.me.signing.publicKey, ephemeralKey: nodeRandom(32) },
    ...{ signedPrekeyId: randomUUID(), oneTimePrekeyId: null },
  });
  const first = someEnvelope(from, to, { sessionId, initiation });
  await sent(
    alice,
    first,
    someEnvelope(from, to, { sessionId, initiation, sendCounter: 2, timestamp: Date.now() + 5 }),
  );
  const answer = someEnvelope(to, from, { sessionId, timestamp: Date.now() + 10 });
  await sent(bob, answer);
  const last = someEnvelope(from, to, { sessionId, previousCounter: 2, timestamp: Date.now() + 15 });
  await sent(alice, last);

  const own = `/messaging/sessions/${to}`;
  await eventually("the facts are there", async () => {
    const { json } = await get(alice, own);
    return json.sessions[0]?.sent?.messages === 3 && json.sessions[0]?.received !== undefined;
  });
  // Appended a second time, as after a lost answer and a lost memory of digests.
  const producer = house.kafka.client.producer();
  await producer.connect();
  const [record] = (await house.read(messageEncrypted)).filter(({ decoded }) => decoded.itemId === first.messageId);
  await producer.send({ topic: messageEncrypted.name, messages: [{ key: to, value: record?.value ?? null }] });
  await producer.disconnect();
  const mark = someEnvelope(from, to, { timestamp: Date.now() + 20 });
  await sent(alice, mark);
  await eventually("the repeat has been read", async () => {
    const { json } = await get(alice, "/messaging/sessions");
    return json.sessions.some((session: { message_id: string }) => session.message_id === mark.messageId);
  });

  const about = { session_id: encodeBase64Url(sessionId), initiator_id: from, suite: 1 };
  const sides = [
    { message_id: last.messageId, dh_public_key: encodeBase64Url(last.dhPublicKey), previous_counter: 2, messages: 3 },
    { message_id: answer.messageId, messages: 1 },
  ];
  await eventually("the answer for a pair is no older than the repeat", async () => {
    const { json } = await get(alice, own);
    return json.sessions.length === 2;
  });
  const { json } = await get(alice, own);
  expect(json.sessions[1]).toMatchObject({ ...about, peer_id: to, sent: sides[0], received: sides[1] });
  const other = (await get(bob, `/messaging/sessions/${from}`)).json.sessions;
  expect(other[1]).toMatchObject({ ...about, peer_id: from, sent: sides[1], received: sides[0] });
  expect((await get(bob, "/messaging/sessions")).json.sessions).toMatchObject([{ message_id: answer.messageId }]);

  const initialized = async () =>
    (await house.read(sessionInitialized)).filter(({ decoded }) => decoded.initiatorId === from);
  await eventually("it is told", async () => (await initialized()).length > 0);
  const told = await initialized();
  expect(told.map(({ decoded }) => decoded)).toMatchObject([{ messageId: first.messageId, responderId: to, suite: 1 }]);
  expect(headersAsText(told[0]?.headers)["ce_id"]).toBe(told[0]?.decoded.eventId);
});

test("a retry request reaches a sender who is offline and one who is connected, once, and no public topic", async () => {
  const [alice, bob] = [await registered(), await registered()];
  const failed = someEnvelope(alice.me.agentId, bob.me.agentId);
  await sent(alice, failed);
  await eventually("the message waits for Bob", async () => (await get(bob, "/messaging/receive")).json.items[0]);

  const retryOf = () => {
    const retry = makeRetryRequest(nodePrimitives, bob.me, failed, Date.now());
    return { item_id: makeMessageId(Date.now(), nodeRandom), retry: retryRequestToJson(retry) };
  };
  const body = retryOf();
  for (let n = 0; n < 2; n++) {
    const response = await bob.call("/messaging/retry-requests", body);
    expect([response.status, await response.json()]).toEqual([202, { item_id: body.item_id }]);
  }

  // By poll, once for both calls.
  const item = { kind: "retry", sender_id: bob.me.agentId, item_id: body.item_id, retry: body.retry };
  await eventually("it waits for Alice", async () => (await get(alice, "/messaging/receive")).json.items.length > 0);
  expect((await get(alice, "/messaging/receive")).json.items).toEqual([{ seq: 1, ...item }]);

  // By stream, to one who connects and to one who is connected.
  const client = await openClient(`${url}/messaging/stream`, alice.me);
  await client.has("item");
  const second = retryOf();
  expect((await bob.call("/messaging/retry-requests", second)).status).toBe(202);
  await client.has("item", 2);
  expect(client.items.map(({ seq, kind, senderId, itemId }) => ({ seq, kind, senderId, itemId }))).toEqual(
    [body, second].map(({ item_id: itemId }, index) => ({
      ...{ seq: index + 1, kind: "retry", senderId: bob.me.agentId, itemId },
    })),
  );
  expect(client.items.map(({ body: bytes }) => JSON.parse(Buffer.from(bytes).toString("utf8")))).toEqual([
    body.retry,
    second.retry,
  ]);
  client.send({ type: "ack", items: client.items.map(({ senderId, itemId }) => ({ senderId, itemId })) });
  client.socket.close();
  await client.closed;
  await eventually("nothing waits for Alice", async () => {
    const { status, json } = await get(alice, "/messaging/receive");
    return status === 200 && json.items.length === 0;
  });
  // With its answer the failed message ends, and with it the way of everything before it.
  const refusal = { sender_id: alice.me.agentId, message_id: failed.messageId, refused: "auth-failed" };
  expect((await bob.call("/messaging/acknowledge", { items: [refusal] })).status).toBe(202);
  await eventually("the failed message has ended", async () =>
    (await house.read(messageDiscarded)).some(({ decoded }) => decoded.messageId === failed.messageId),
  );

  const retries: unknown[] = [body.item_id, second.item_id];
  const publicTopics = [messageDelivered, messageAcknowledged, messageDiscarded];
  for (const topic of publicTopics) {
    const ids = (await house.read<{ messageId: string }>(topic)).map(({ decoded }) => decoded.messageId);
    expect(
      ids.filter((id) => retries.includes(id)),
      topic.name,
    ).toEqual([]);
  }
  const queued = (await house.read(messageQueued)).filter(({ decoded }) => retries.includes(decoded.itemId));
  expect(queued.map(({ decoded: { kind, itemId } }) => [kind, itemId])).toEqual(retries.map((id) => ["retry", id]));
  const reported = (await house.read(messageReceipt)).flatMap(({ decoded }) => decoded.items);
  expect(reported.filter(({ itemId }) => retries.includes(itemId)).map(({ outcome }) => outcome)).toContain(
    "acknowledged",
  );
});
