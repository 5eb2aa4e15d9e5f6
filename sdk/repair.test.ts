import { DatabaseSync } from "node:sqlite";
import { beforeEach, expect, test } from "vitest";
import { decodeEnvelope, encodeEnvelope } from "../protocol/envelope.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { forgetSessions } from "../protocol/peer.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { makeRetryRequest, type RetryRequest, retryRequestToJson } from "../protocol/retry-request.ts";
import type { Agent } from "./agent.ts";
import { type FakeService, problem } from "./fake-service.ts";
import { firstProblem, take, texts, until, useStage } from "./stage-for-tests.ts";
import { Store } from "./store/store.ts";

const RETRY_REQUESTS = "POST /messaging/retry-requests";

const stage = useStage();
const { open, acquainted } = stage;
let service: FakeService;

beforeEach(() => {
  ({ service } = stage);
});

/** What an agent that is closed does not know any more when it is opened again. */
async function inStore(name: string, change: (store: Store) => void): Promise<void> {
  const store = Store.open({ path: `${stage.folder}/${name}.db` });
  await store.commit(() => change(store));
  store.close();
}

const loseSessions = (name: string, peerId: string) =>
  inStore(name, (store) => store.peers.put(forgetSessions(store.peers.get(peerId))));

/** Spoils what arrives for the tag, so often. */
function damage(times: number): void {
  let left = times;
  service.onItem = (item) => {
    if (item.kind !== "message" || left-- <= 0) return [item];
    const envelope = decodeEnvelope(item.body);
    return [{ ...item, body: encodeEnvelope({ ...envelope, authTag: envelope.authTag.map((byte) => byte ^ 1) }) }];
  };
}

function retryItems(): number {
  return service.requests.filter((request) => request === RETRY_REQUESTS).length;
}

/** Puts a request of a peer into the mailbox of `to`. */
function putRequest(to: Agent, request: RetryRequest): string {
  const itemId = makeMessageId(Date.now(), nodeRandom);
  const body = Buffer.from(JSON.stringify(retryRequestToJson(request)));
  service.put(to.id, { kind: "retry", senderId: request.recipientId, itemId, body });
  return itemId;
}

test("what a peer that lost its sessions cannot open is said anew in a new session, arrives once, and keeps its name", async () => {
  const [alice, bob] = await acquainted();
  const receipts = alice.receipts();
  await bob.close();
  await loseSessions("bob", alice.id);
  const sent = await alice.send(bob.id, "into the void");
  const again = await open("bob");
  const [message] = await take(again, 1);
  expect(message?.text()).toBe("into the void");
  expect(message?.contentType).toBe("text/plain; charset=utf-8");
  expect(message?.id).not.toBe(sent.messageId);
  await sent.acknowledged();
  expect(alice.status(sent.messageId)).toMatchObject({ state: "acknowledged", messageId: sent.messageId });
  await until(() => service.account(bob.id).mailbox.length + service.account(alice.id).mailbox.length === 0);
  expect(service.refused).toEqual([{ messageId: sent.messageId, code: "session-unknown" }]);
  const told: string[] = [];
  while (told.at(-1) !== "acknowledged") {
    const { value } = await receipts.next();
    if (value?.messageId === sent.messageId) told.push(value.state);
  }
  expect(told).not.toContain("discarded");
  await again.send(alice.id, "and back");
  expect(texts(await take(alice, 1))).toEqual(["and back"]);
  await alice.send(bob.id, "in the same session");
  expect(texts(await take(again, 1))).toEqual(["in the same session"]);
  expect(retryItems()).toBe(1);
});

test("many messages that fail together are all said anew, in one new session", async () => {
  const [alice, bob] = await acquainted();
  await bob.close();
  await loseSessions("bob", alice.id);
  const claims = () => service.requests.filter((request) => request.includes("/prekeys/")).length;
  const before = claims();
  const bodies = Array.from({ length: 20 }, (_, n) => `message ${n}`);
  await alice.sendMany(bodies.map((body) => ({ to: bob.id, body })));
  const again = await open("bob");
  expect(texts(await take(again, 20)).sort()).toEqual(bodies.sort());
  await until(() => service.account(bob.id).mailbox.length + service.account(alice.id).mailbox.length === 0);
  expect(claims() - before).toBe(1);
});

test("the first message of all, when it does not open, is said anew under other prekeys", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  damage(1);
  const sent = await alice.send(bob.id, "first");
  expect(texts(await take(bob, 1))).toEqual(["first"]);
  await sent.acknowledged();
  const initiations = service.sent.map(({ bytes }) => Buffer.from(decodeEnvelope(bytes).initiation).toString("hex"));
  expect(new Set(initiations).size).toBe(2);
});

test("a message that was said anew five times is not said again: its sender hears that it did not open", async () => {
  const [alice, bob] = await acquainted();
  await bob.close();
  const sent = await alice.send(bob.id, "never");
  await alice.close();
  const database = new DatabaseSync(`${stage.folder}/alice.db`);
  database.prepare("UPDATE outbox SET repairs = 5, first_id = message_id WHERE message_id = ?").run(sent.messageId);
  database.close();
  damage(1);
  const [bobAgain, aliceAgain] = [await open("bob"), await open("alice")];
  await until(() => aliceAgain.status(sent.messageId)?.state === "discarded");
  expect(aliceAgain.status(sent.messageId)).toMatchObject({ code: "auth-failed" });
  await until(() => retryItems() === 1 && service.account(alice.id).mailbox.length === 0);
  expect(service.sent.at(-1)?.messageId).toBe(sent.messageId);
  expect((await firstProblem(bobAgain, "not-opened")).item).toMatchObject({ code: "auth-failed", isRefused: false });
});

test("a message whose new session failed as well waits until the hour is over, and keeps nothing else waiting", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  damage(2);
  const sent = await alice.send(bob.id, "unlucky");
  await until(() => retryItems() === 2 && service.account(alice.id).mailbox.length === 0);
  expect(service.sent).toHaveLength(2);
  await bob.send(alice.id, "hello, by the way");
  expect(texts(await take(alice, 1))).toEqual(["hello, by the way"]);
  await alice.send(bob.id, "in the session that Bob began");
  const arrived = texts(await take(bob, 1));
  expect(arrived).toEqual(["in the session that Bob began"]);
  expect(alice.status(sent.messageId)?.state).not.toBe("discarded");
});

test("a request comes before or after the refusal, twice, and on a new connection: the content is said anew once", async () => {
  const [alice, bob] = await acquainted();
  service.onRequest = (request) => (request === RETRY_REQUESTS ? [202, { item_id: "not handed on" }] : null);
  damage(1);
  const sent = await alice.send(bob.id, "once");
  await until(() => service.refused.length === 1);
  const { bytes } = service.sent.at(-1) as { bytes: Uint8Array };
  await bob.close();
  const me = Store.open({ path: `${stage.folder}/bob.db` });
  const identity = me.accounts.identity();
  me.close();
  if (identity === null) throw new Error("Bob has an identity");
  const failed = decodeEnvelope(bytes);
  const request = makeRetryRequest(nodePrimitives, identity, failed, Date.now());
  putRequest(alice, request);
  putRequest(alice, request);
  service.disconnect(alice.id);
  const again = await open("bob");
  expect(texts(await take(again, 1))).toEqual(["once"]);
  await sent.acknowledged();
  await until(() => service.account(alice.id).mailbox.length === 0);
  expect(service.sent.filter(({ messageId }) => messageId > sent.messageId)).toHaveLength(1);
});

test("a request that somebody else signed, that is not about this agent's message, or comes after the end changes nothing", async () => {
  const [alice, bob] = await acquainted();
  const kept = await alice.send(bob.id, "not read yet");
  const envelope = decodeEnvelope(service.sent.at(-1)?.bytes ?? new Uint8Array(0));
  const facts = { ...envelope, time: Date.now(), signature: new Uint8Array(64) };
  const sentBefore = service.sent.length;
  const forged = putRequest(alice, facts);
  const others = putRequest(alice, { ...facts, messageId: makeMessageId(Date.now(), nodeRandom) });
  await until(() => service.account(alice.id).mailbox.length === 0);
  expect(service.refused).toContainEqual({ messageId: forged, code: "signature-invalid" });
  expect(service.acked).toContain(others);
  expect(texts(await take(bob, 1))).toEqual(["not read yet"]);
  await kept.acknowledged();
  const late = putRequest(alice, facts);
  await until(() => service.acked.includes(late));
  expect(service.sent).toHaveLength(sentBefore);
});

test("a request that the service does not take now is made again; one that it never takes ends the message with its code", async () => {
  const [alice, bob] = await acquainted();
  let answers = 0;
  service.onRequest = (request) =>
    request === RETRY_REQUESTS && answers++ < 2 ? problem(503, "unavailable", {}) : null;
  damage(1);
  const sent = await alice.send(bob.id, "patience");
  expect(texts(await take(bob, 1))).toEqual(["patience"]);
  await sent.acknowledged();
  service.onRequest = (request) => (request === RETRY_REQUESTS ? problem(404, "recipient-unknown") : null);
  damage(1);
  await alice.send(bob.id, "nobody to ask");
  await until(() => service.refused.length === 2);
  expect(service.account(bob.id).mailbox).toHaveLength(0);
});

test("a message that could not be opened and that nobody asks for ends when its content is not kept any longer, with its code", async () => {
  const [alice, bob] = await acquainted();
  service.onRequest = (request) => (request === RETRY_REQUESTS ? problem(404, "recipient-unknown") : null);
  damage(1);
  const sent = await alice.send(bob.id, "given up");
  const acknowledged = sent.acknowledged();
  acknowledged.catch(() => {});
  await until(() => service.refused.length === 1);
  await until(() => alice.status(sent.messageId)?.code === "auth-failed");
  await alice.close();
  await expect(acknowledged).rejects.toMatchObject({ code: "closed" });
  await inStore("alice", (store) => {
    const later = Date.now() + 32 * 86_400_000;
    expect(store.outbox.endUnrepaired(later).map(({ messageId }) => messageId)).toEqual([sent.messageId]);
  });
  const again = await open("alice");
  expect(again.status(sent.messageId)).toMatchObject({ state: "discarded", code: "auth-failed" });
});

test("a peer who asks again and again, and has no prekeys to be answered with, fills neither the mailbox nor the stream", async () => {
  const [alice, bob] = await acquainted();
  await bob.close();
  await alice.send(bob.id, "asked for by a peer that does not want it");
  const envelope = decodeEnvelope(service.sent.at(-1)?.bytes ?? new Uint8Array(0));
  const store = Store.open({ path: `${stage.folder}/bob.db` });
  const identity = store.accounts.identity();
  store.close();
  if (identity === null) throw new Error("Bob has an identity");
  let claims = 0;
  service.onRequest = (request) => {
    if (!request.startsWith("POST /messaging/prekeys/")) return null;
    claims++;
    return problem(404, "prekeys-unavailable");
  };
  for (let n = 0; n < 300; n++) putRequest(alice, makeRetryRequest(nodePrimitives, identity, envelope, Date.now() + n));
  await until(() => service.account(alice.id).mailbox.length === 0);
  await until(() => claims > 0);
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(claims).toBeLessThan(5);
});
