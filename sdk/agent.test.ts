import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { beforeEach, expect, test } from "vitest";
import { encodeBase64Url } from "../protocol/base64url.ts";
import { decodeEnvelope, encodeEnvelope } from "../protocol/envelope.ts";
import { encodeFrame } from "../protocol/frame.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import type { Message } from "../protocol/peer.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { sealFrame } from "../protocol/session.ts";
import type { ItemFrame } from "../protocol/stream-frames.ts";
import { Agent } from "./agent.ts";
import { AgentStopped, ClockSkew, MessageDiscarded, SendRejected } from "./errors.ts";
import { type FakeService, problem } from "./fake-service.ts";
import { firstProblem, Stranger, take, texts, until, useStage } from "./stage-for-tests.ts";

const RETRY_REQUESTS = "POST /messaging/retry-requests";
const STATUS = "POST /messaging/messages/status";

const stage = useStage();
const { open, registered } = stage;
let service: FakeService;
let folder: string;

beforeEach(() => {
  ({ service, folder } = stage);
});

test("messages that arrive out of order all open", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  const held: ItemFrame[] = [];
  service.onItem = (item) => {
    held.push(item);
    return held.length === 5 ? held.reverse() : [];
  };
  for (let n = 0; n < 5; n++) await alice.send(bob.id, `${n}`);
  expect(texts(await take(bob, 5))).toEqual(["4", "3", "2", "1", "0"]);
});

test("an item that is handed over again is acknowledged again and given to the application once", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  let first: ItemFrame | null = null;
  service.onItem = (item) => {
    first ??= item;
    return [item, item];
  };
  const { messageId } = await alice.send(bob.id, "once");
  expect(texts(await take(bob, 1))).toEqual(["once"]);
  await until(() => service.acked.length >= 1);
  service.send(bob.id, [first as unknown as ItemFrame]);
  await until(() => service.acked.filter((id) => id === messageId).length >= 2);
  await alice.send(bob.id, "next");
  expect(texts(await take(bob, 1))).toEqual(["next"]);
});

test("a message that was not handled is there when the agent is opened again, and its item in the mailbox does no harm", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  const { messageId } = await alice.send(bob.id, "still here");
  for await (const _ of bob.inbox()) break;
  await bob.close();
  expect(service.account(bob.id).mailbox).toHaveLength(1);
  const again = await open("bob");
  expect(texts(await take(again, 1))).toEqual(["still here"]);
  await until(() => service.acked.includes(messageId));
});

test("a message handled while the service is away is acknowledged when it is back", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  const { messageId } = await alice.send(bob.id, "hello");
  const inbox = bob.inbox();
  const { value: message } = await inbox.next();
  service.isAway = true;
  service.disconnect(bob.id);
  await until(() => service.account(bob.id).stream === null);
  await message?.ack();
  // As if the service did not hand it over again.
  service.onItem = () => [];
  service.isAway = false;
  await until(() => service.acked.includes(messageId));
});

test("asking for the next message acknowledges the one before", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  const first = await alice.send(bob.id, "one");
  await alice.send(bob.id, "two");
  const inbox = bob.inbox();
  await inbox.next();
  expect(service.acked).toEqual([]);
  await inbox.next();
  await until(() => service.acked.length === 1);
  expect(service.acked).toEqual([first.messageId]);
});

test("an inbox ends quietly when its signal aborts and when the agent is closed", async () => {
  const alice = await open("alice");
  const aborting = new AbortController();
  const aborted = alice.inbox({ signal: aborting.signal }).next();
  const closed = alice.inbox().next();
  aborting.abort();
  expect((await aborted).done).toBe(true);
  await alice.close();
  expect((await closed).done).toBe(true);
  await expect(alice.send(alice.id, "x")).rejects.toMatchObject({ code: "closed" });
});

test("an envelope the service refuses is set aside with its code, and the rest of its batch goes at once", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  await alice.send(bob.id, "first contact");
  service.onSend = (messageIds) =>
    messageIds.length === 3
      ? problem(422, "message-id-in-future", {
          retryable: false,
          errors: [{ pointer: "/envelopes/1/message_id", code: "message-id-in-future", detail: "" }],
        })[1]
      : "accept";
  const outcomes = await alice.sendMany(["a", "b", "c"].map((body) => ({ to: bob.id, body })));
  expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
  const { reason } = outcomes[1] as PromiseRejectedResult;
  expect(reason).toBeInstanceOf(SendRejected);
  expect(reason).toMatchObject({ code: "message-id-in-future", retryable: false, recipientId: bob.id });
  expect(alice.status(reason.messageId)).toMatchObject({ state: "rejected", code: "message-id-in-future" });
  expect(texts(await take(bob, 3))).toEqual(["first contact", "a", "c"]);
});

test("of a batch that is refused without naming an envelope, only the one at fault is set aside", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  await alice.send(bob.id, "first contact");
  const bad = new Set<string>();
  service.onSend = (messageIds) => {
    if (messageIds.length === 3) bad.add(messageIds[1] ?? "");
    return messageIds.some((id) => bad.has(id)) ? problem(400, "malformed", { retryable: false })[1] : "accept";
  };
  const outcomes = await alice.sendMany(["a", "b", "c"].map((body) => ({ to: bob.id, body })));
  expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
  expect(texts(await take(bob, 3))).toEqual(["first contact", "a", "c"]);
});

test("while the service is overloaded the same bytes are sent until they are taken", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  service.onSend = (_, batch) => (batch <= 2 ? problem(503, "overloaded", { retryable: true })[1] : "accept");
  const { messageId } = await alice.send(bob.id, "patience");
  expect(new Set(service.bytesOf(messageId)).size).toBe(1);
  expect(service.bytesOf(messageId)).toHaveLength(3);
  expect(await firstProblem(alice, "trouble")).toMatchObject({ error: { code: "overloaded", retryable: true } });
});

test("after a lost answer the identical bytes are sent again on the next connection, and the message arrives once", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  await alice.send(bob.id, "first contact");
  // A receipt would say as much as the answer.
  service.losesReceipts = true;
  service.onSend = (messageIds) => {
    if (service.bytesOf(messageIds[0] ?? "").length > 1) return "accept";
    setTimeout(() => service.disconnect(alice.id), 5);
    return "accept-silently";
  };
  const sent = await alice.send(bob.id, "only once");
  const bytes = service.bytesOf(sent.messageId);
  expect(bytes).toHaveLength(2);
  expect(new Set(bytes).size).toBe(1);
  expect(texts(await take(bob, 2))).toEqual(["first contact", "only once"]);
  service.disconnect(alice.id);
  await sent.acknowledged();
});

test("messages sent while the service is away leave when it is back, without being encrypted again", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  await alice.send(bob.id, "first contact");
  service.isAway = true;
  service.disconnect(alice.id);
  await until(() => service.account(alice.id).stream === null);
  const sending = ["one", "two"].map((text) => alice.send(bob.id, text));
  await new Promise((resolve) => setTimeout(resolve, 50));
  service.isAway = false;
  await Promise.all(sending);
  expect(texts(await take(bob, 3))).toEqual(["first contact", "one", "two"]);
});

test("calling a send off does not call the message off once it is stored", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  await alice.send(bob.id, "first contact");
  service.onSend = () => "ignore";
  const calledOff = new AbortController();
  const sending = alice.send(bob.id, "on its way", { signal: calledOff.signal });
  await until(() => service.batches.length === 2);
  calledOff.abort();
  await expect(sending).rejects.toThrow("abort");
  await alice.close({ drainMsMax: 0 });
  service.onSend = () => "accept";
  await open("alice");
  expect(texts(await take(bob, 2))).toEqual(["first contact", "on its way"]);
});

test("a send called off before it is stored sends nothing", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  await expect(alice.send(bob.id, "never", { signal: AbortSignal.abort() })).rejects.toThrow("abort");
  await alice.send(bob.id, "something else");
  expect(texts(await take(bob, 1))).toEqual(["something else"]);
});

test("a bundle whose answer was lost is claimed again under the same name: one one-time prekey is used", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  service.onRequest = (request, attempt) => (request.includes("/prekeys/") && attempt === 1 ? "drop" : null);
  await alice.send(bob.id, "hello");
  expect(service.account(bob.id).oneTimePrekeys).toHaveLength(99);
  expect(texts(await take(bob, 1))).toEqual(["hello"]);
});

test("many first messages to one peer at the same time share one bundle and keep their order", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  const bodies = ["one", "two", "three", "four"];
  const outcomes = alice.sendMany(bodies.map((body) => ({ to: bob.id, body })));
  await new Promise((resolve) => setImmediate(resolve));
  const later = alice.send(bob.id, "five");
  await Promise.all([outcomes, later]);
  expect(texts(await take(bob, 5))).toEqual([...bodies, "five"]);
  expect(service.account(bob.id).oneTimePrekeys).toHaveLength(99);
});

test("a bundle that was tampered with is not used", async () => {
  const [alice, bob, eve] = [await open("alice"), await open("bob"), await open("eve")];
  const account = service.account(bob.id);
  account.signedPrekey = service.account(eve.id).signedPrekey;
  await expect(alice.send(bob.id, "secret")).rejects.toMatchObject({ code: "signature-invalid", messageId: null });
  expect(service.batches).toEqual([]);
  account.signedPrekey = null;
  await expect(alice.send(bob.id, "secret")).rejects.toMatchObject({ code: "prekeys-unavailable" });
});

test.each([
  ["delegation-refused", "revoked"],
  ["signing-key-ended", undefined],
])(
  "a claim that is refused for the agent itself stops it, and is no word about the recipient: %s",
  async (code, rule) => {
    const bobId = await registered("bob");
    const alice = await open("alice");
    service.onRequest = (request) =>
      request.startsWith("POST /messaging/prekeys/") ? [403, { code, ...(rule === undefined ? {} : { rule }) }] : null;
    const sending = alice.send(bobId, "hello");
    await expect(sending).rejects.toBeInstanceOf(AgentStopped);
    await expect(sending).rejects.toMatchObject({ code });
    await expect(alice.send(bobId, "more")).rejects.toMatchObject({ name: "AgentStopped", code });
  },
);

test("a send that waits for a bundle can be called off at once, with the signal's reason", async () => {
  const bobId = await registered("bob");
  const alice = await open("alice");
  service.onRequest = (request) =>
    request.startsWith("POST /messaging/prekeys/") ? [429, { code: "rate-limited" }, { "retry-after": "3600" }] : null;
  const begun = performance.now();
  await expect(alice.send(bobId, "hello", { signal: AbortSignal.timeout(100) })).rejects.toThrow("timeout");
  expect(performance.now() - begun).toBeLessThan(3_000);
});

test("what cannot be sent is refused before anything is stored", async () => {
  const alice = await open("alice");
  const bobId = await registered("bob");
  const reject = (to: string, body: string) => expect(alice.send(to, body)).rejects;
  await reject("nobody", "x").toMatchObject({ code: "recipient-malformed" });
  await reject(alice.id, "x").toMatchObject({ code: "recipient-is-self" });
  await reject(encodeBase64Url(nodeRandom(32)), "x").toMatchObject({ code: "recipient-unknown", retryable: false });
  await reject(bobId, "x".repeat(65_536)).toMatchObject({ code: "content-too-large" });
  await reject(bobId, "\ud800").toMatchObject({ code: "content-malformed" });
  for (const contentType of [
    "application/vnd.sealpost.rekey",
    "text/plain; in-repair-of=0198c0de-7a11-7b2c-9d3e-4f5061728394",
  ]) {
    await expect(alice.send(bobId, "x", { contentType })).rejects.toMatchObject({ code: "content-type-malformed" });
  }
  expect(service.batches).toEqual([]);
});

test("receipts that were missed are asked for after the next connection", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  service.losesReceipts = true;
  const sent = await alice.send(bob.id, "hello");
  await take(bob, 1);
  await until(() => service.acked.length === 1);
  expect(alice.status(sent.messageId)?.state).toBe("accepted");
  service.disconnect(alice.id);
  await sent.acknowledged();
});

test("a message that ends without being acknowledged says how", async () => {
  const bobId = await registered("bob");
  const alice = await open("alice");
  const sent = await alice.send(bobId, "hello");
  service.send(alice.id, [
    { type: "receipt", status: "discarded", recipientId: bobId, messageId: sent.messageId, at: 1, code: "expired" },
  ]);
  await expect(sent.acknowledged()).rejects.toBeInstanceOf(MessageDiscarded);
  await expect(sent.delivered()).rejects.toMatchObject({ code: "expired", messageId: sent.messageId });
  expect(alice.status(sent.messageId)).toMatchObject({ state: "discarded", code: "expired" });
});

test("a newer stream of the same agent stops the older one for good", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  await alice.send(bob.id, "first contact");
  service.onSend = () => "ignore";
  const inbox = alice.inbox().next();
  const sending = alice.send(bob.id, "left behind");
  await until(() => service.batches.length === 2);
  service.disconnect(alice.id, 4409);
  await expect(inbox).rejects.toBeInstanceOf(AgentStopped);
  await expect(sending).rejects.toMatchObject({ code: "superseded", retryable: false });
  await expect(alice.send(bob.id, "x")).rejects.toMatchObject({ code: "superseded" });
  const upgrades = service.requests.length;
  await new Promise((resolve) => setTimeout(resolve, 400));
  expect(service.requests).toHaveLength(upgrades);
  await alice.close();
  service.onSend = () => "accept";
  await open("alice");
  expect(texts(await take(bob, 2))).toEqual(["first contact", "left behind"]);
});

test("a message that does not open stays in the mailbox until its sender was asked to say it anew, and is told", async () => {
  const bob = await open("bob");
  const stranger = new Stranger(service, bob);
  const item = stranger.seal(stranger.message("hello"));
  service.onRequest = (request) => (request === RETRY_REQUESTS ? problem(503, "unavailable") : null);
  service.put(bob.id, { ...item, body: withWrongTag(item.body) });
  const found = await firstProblem(bob, "not-opened");
  expect(found).toMatchObject({ item: { code: "auth-failed", isRefused: false, itemId: item.itemId } });
  service.put(bob.id, stranger.seal(stranger.message("another")));
  expect(texts(await take(bob, 1))).toEqual(["another"]);
  await until(() => service.acked.length === 1);
  expect(service.account(bob.id).mailbox.map(({ itemId }) => itemId)).toEqual([item.itemId]);
  expect(service.refused).toEqual([]);
  service.onRequest = (request) => (request === RETRY_REQUESTS ? [202, { item_id: "taken" }] : null);
  await until(() => service.account(bob.id).mailbox.length === 0);
  expect(service.refused).toEqual([{ messageId: item.itemId, code: "auth-failed" }]);
});

test("of more than 128 items that do not open the later ones are answered, so that they cannot fill the window", async () => {
  const bob = await open("bob");
  const stranger = new Stranger(service, bob);
  const { body } = stranger.seal(stranger.message("never sent"));
  const failing = Array.from({ length: 130 }, () => {
    const itemId = makeMessageId(Date.now(), nodeRandom);
    const envelope = { ...decodeEnvelope(body), messageId: itemId };
    return { kind: "message" as const, senderId: stranger.me.agentId, itemId, body: encodeEnvelope(envelope) };
  });
  service.onRequest = (request) => (request === RETRY_REQUESTS ? problem(503, "unavailable") : null);
  for (const item of failing) service.put(bob.id, item);
  await until(() => service.account(bob.id).mailbox.length === 128);
  const later = failing.slice(128).map(({ itemId }) => ({ messageId: itemId, code: "auth-failed" }));
  expect(service.refused).toMatchObject(later);
  expect(service.acked).toEqual([]);
});

test("an authentic message without a frame is refused for good, each time it comes, and the ratchet goes on", async () => {
  const bob = await open("bob");
  const stranger = new Stranger(service, bob);
  const { me, peer } = stranger;
  const messageId = makeMessageId(Date.now(), nodeRandom);
  const frame = Buffer.concat([encodeFrame({ contentType: "text/plain", body: Buffer.from("x") }), Buffer.of(1)]);
  const outgoing = { messageId, recipientId: bob.id, frame, flags: 0 };
  const clock = { now: Date.now(), random: nodeRandom };
  if (peer.active === null) throw new Error("no session");
  const { session, envelope } = sealFrame(nodePrimitives, me, peer.active, outgoing, clock);
  stranger.peer = { ...peer, active: session };
  const item = { kind: "message" as const, senderId: me.agentId, itemId: messageId, body: encodeEnvelope(envelope) };
  service.put(bob.id, item);
  service.put(bob.id, item);
  await until(() => service.refused.length === 2);
  expect(service.refused).toEqual(Array(2).fill({ messageId, code: "bad-padding" }));
  service.put(bob.id, stranger.seal(stranger.message("fine")));
  expect(texts(await take(bob, 1))).toEqual(["fine"]);
});

test("an item that is not the envelope it is said to be is refused for good", async () => {
  const bob = await open("bob");
  const stranger = new Stranger(service, bob);
  const item = stranger.seal(stranger.message("hello"));
  service.put(bob.id, { ...item, itemId: makeMessageId(Date.now(), nodeRandom) });
  service.put(bob.id, { ...item, body: Buffer.from("garbage") });
  await until(() => service.refused.length === 2);
  expect(service.refused.map(({ code }) => code)).toEqual(["malformed", "malformed"]);
});

test.each([
  ["is no JSON", "malformed", () => Buffer.from("{")],
  ["is no request", "malformed", () => Buffer.from("{}")],
])("a retry request that %s is refused for good", async (_law, code, body) => {
  const bob = await open("bob");
  const stranger = new Stranger(service, bob);
  const itemId = makeMessageId(Date.now(), nodeRandom);
  service.put(bob.id, { kind: "retry", senderId: stranger.me.agentId, itemId, body: body() });
  await until(() => service.account(bob.id).mailbox.length === 0);
  expect(service.refused).toEqual([{ messageId: itemId, code }]);
});

test("a message in repair of one that was delivered is acknowledged and dropped; of a lost one it is delivered, once", async () => {
  const bob = await open("bob");
  const stranger = new Stranger(service, bob);
  const [delivered, lost] = [stranger.message("hello"), stranger.message("lost")];
  service.put(bob.id, stranger.seal(delivered));
  await take(bob, 1);
  const repairOf = ({ messageId }: Message, text: string) =>
    stranger.seal(stranger.message(text, `text/plain; in-repair-of=${messageId}`));
  const repeated = repairOf(delivered, "hello");
  const lostItem = stranger.seal(lost);
  service.put(bob.id, repeated);
  service.put(bob.id, repairOf(lost, "found"));
  service.put(bob.id, lostItem);
  service.put(bob.id, stranger.seal(stranger.message("last")));
  const [found, last] = await take(bob, 2);
  expect([found?.text(), found?.contentType, last?.text()]).toEqual(["found", "text/plain", "last"]);
  await until(() => service.account(bob.id).mailbox.length === 0);
  expect(service.acked).toContain(repeated.itemId);
  expect(service.acked).toContain(lostItem.itemId);
});

test("a message that says it is in place of itself arrives once, and does not stop the agent", async () => {
  const bob = await open("bob");
  const stranger = new Stranger(service, bob);
  const odd = stranger.message("odd");
  service.put(bob.id, stranger.seal({ ...odd, contentType: `text/plain; in-repair-of=${odd.messageId}` }));
  service.put(bob.id, stranger.seal(stranger.message("next")));
  expect(texts(await take(bob, 2))).toEqual(["odd", "next"]);
});

test("answers that are not the service's, such as a proxy's page, do not stop the agent", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  await alice.send(bob.id, "1");
  let asked = 0;
  service.onRequest = (request) => {
    if (request !== STATUS) return null;
    asked++;
    return [200, null as never];
  };
  service.disconnect(alice.id);
  await until(() => asked > 0);
  expect(await firstProblem(alice, "trouble")).toMatchObject({ error: { code: "answer-malformed" } });
  await alice.send(bob.id, "2");
  expect(texts(await take(bob, 2))).toEqual(["1", "2"]);
});

test("one who only talks is answered by a control message that no application sees, and drops its initiation", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  const listening = alice.inbox().next();
  const count = 15;
  await alice.sendMany(Array.from({ length: count }, (_, n) => ({ to: bob.id, body: `${n}` })));
  await take(bob, count);
  await until(() => service.acked.length === count + 1);
  const before = service.sent.length;
  await alice.send(bob.id, "short");
  const [long, short] = [service.sent[0], service.sent[before]].map((one) => one?.bytes.length ?? 0);
  expect(short).toBeLessThan((long ?? 0) - 80);
  expect(await Promise.race([listening, "nothing"])).toBe("nothing");
});

test("an envelope too old to be taken is said anew under a new id when the service does not know it", async () => {
  const bobId = await registered("bob");
  const alice = await open("alice");
  await alice.send(bobId, "first contact");
  service.onSend = () => "ignore";
  const [lost, known] = [alice.send(bobId, "lost"), alice.send(bobId, "known")];
  for (const sending of [lost, known]) sending.catch(() => {});
  await until(() => service.batches.length === 2);
  const [lostId = "", knownId = ""] = service.batches[1] ?? [];
  await alice.close({ drainMsMax: 0 });
  makeOlder("alice", "state = 0", 7);
  service.messages.set(knownId, {
    senderId: alice.id,
    recipientId: bobId,
    bytes: service.sent.find(({ messageId }) => messageId === knownId)?.bytes ?? new Uint8Array(0),
    status: "acknowledged",
    code: null,
  });
  service.onSend = () => "accept";
  const again = await open("alice");
  const bob = await open("bob");
  expect(texts(await take(bob, 2))).toEqual(["first contact", "lost"]);
  await until(() => again.status(lostId)?.state === "acknowledged");
  expect(again.status(knownId)).toMatchObject({ state: "acknowledged" });
  expect(service.bytesOf(lostId)).toHaveLength(1);
});

test("an envelope too old to be taken that its recipient could not open is as good as sent, and holds up nothing", async () => {
  const bobId = await registered("bob");
  const alice = await open("alice");
  await alice.send(bobId, "first contact");
  service.onSend = () => "ignore";
  alice.send(bobId, "not opened").catch(() => {});
  await until(() => service.batches.length === 2);
  const [refusedId = ""] = service.batches[1] ?? [];
  await alice.close({ drainMsMax: 0 });
  makeOlder("alice", "state = 0", 7);
  const bytes = service.sent.at(-1)?.bytes ?? new Uint8Array(0);
  const refused = { senderId: alice.id, recipientId: bobId, bytes, status: "refused", code: "auth-failed" };
  service.messages.set(refusedId, refused);
  service.onSend = () => "accept";
  const again = await open("alice");
  await again.send(bobId, "the next one", { signal: AbortSignal.timeout(20_000) });
  expect(again.status(refusedId)).toMatchObject({ state: "accepted", code: "auth-failed" });
  expect(service.bytesOf(refusedId)).toHaveLength(1);
  expect(service.requests.filter((request) => request === STATUS).length).toBeLessThan(5);
});

test("a send whose answer was lost resolves when the recipient could not open the message: the service has it", async () => {
  const bobId = await registered("bob");
  const alice = await open("alice");
  await alice.send(bobId, "first contact");
  service.onSend = (messageIds) => {
    const [messageId = ""] = messageIds;
    const told = { recipientId: bobId, messageId, at: Date.now(), code: "auth-failed" };
    service.send(alice.id, [{ type: "receipt", status: "discarded", ...told }]);
    return "accept-silently";
  };
  const { messageId } = await alice.send(bobId, "not opened", { signal: AbortSignal.timeout(20_000) });
  expect(alice.status(messageId)).toMatchObject({ state: "accepted", code: "auth-failed" });
});

test("an agent is registered once, with a signed prekey and a hundred one-time prekeys, and is filled up when they run low", async () => {
  const bob = await open("bob");
  const account = service.account(bob.id);
  expect(account.signedPrekey).not.toBeNull();
  expect(account.oneTimePrekeys).toHaveLength(100);
  await bob.close();
  account.oneTimePrekeys.splice(0, 85);
  const again = await open("bob");
  expect(again.id).toBe(bob.id);
  await until(() => account.oneTimePrekeys.length === 100);
  expect(service.requests.filter((request) => request === "POST /messaging/agents")).toHaveLength(1);
});

test("an agent whom the service has forgotten registers again with new uploads of its prekeys", async () => {
  const bobId = await registered("bob");
  service.accounts.delete(bobId);
  const bob = await open("bob");
  await until(() => service.account(bobId).oneTimePrekeys.length === 100);
  const alice = await open("alice");
  await alice.send(bobId, "welcome back");
  expect(texts(await take(bob, 1))).toEqual(["welcome back"]);
});

test("a signature that comes too early for the service's memory is made again", async () => {
  service.onRequest = (_, attempt) => (attempt === 1 ? problem(401, "sign-again") : null);
  const alice = await open("alice");
  expect(service.account(alice.id).oneTimePrekeys).toHaveLength(100);
});

test("a clock that is wrong is named with both times", async () => {
  const server_time = "2020-01-01T00:00:00.000Z";
  service.onRequest = () => problem(401, "signature-expired", { server_time });
  const opening = Agent.open({ url: service.url, storePath: join(folder, "late.db") });
  await expect(opening).rejects.toBeInstanceOf(ClockSkew);
  await expect(opening).rejects.toMatchObject({ code: "clock-skew", serviceTime: Date.parse(server_time) });
  await expect(opening).rejects.toThrow(server_time);
});

test("opening waits for the first contact, says that the service is away, and can be called off", async () => {
  service.onRequest = () => problem(503, "unavailable");
  const options = { url: service.url, storePath: join(folder, "early.db") };
  await expect(Agent.open({ ...options, signal: AbortSignal.timeout(50) })).rejects.toThrow("timeout");
  let asked = 0;
  service.onRequest = () => (asked++ < 2 ? problem(503, "unavailable") : null);
  await (await Agent.open(options)).close();
  const other = { ...options, storePath: join(folder, "other.db") };
  service.onRequest = () => problem(403, "agent-suspended");
  await expect(Agent.open(other)).rejects.toMatchObject({
    code: "agent-suspended",
    status: 403,
  });
  await expect(Agent.open({ ...other, url: "ftp://x" })).rejects.toMatchObject({ code: "url-malformed" });
});

test("an agent that is registered opens without the service, and keeps what it is given until it is back", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  await alice.send(bob.id, "first contact");
  await alice.close();
  service.isAway = true;
  service.onRequest = () => problem(503, "unavailable");
  const away = await Agent.open({ url: service.url, storePath: join(folder, "alice.db") });
  const stored = away.send(bob.id, "later");
  stored.catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 50));
  await away.close();
  await expect(stored).rejects.toMatchObject({ code: "closed" });
  service.isAway = false;
  service.onRequest = () => null;
  await open("alice");
  expect(texts(await take(bob, 2))).toEqual(["first contact", "later"]);
});

test("an agent that was suspended stops", async () => {
  const alice = await open("alice");
  service.onRequest = (request) => (request.includes("/stream") ? problem(403, "agent-suspended") : null);
  const inbox = alice.inbox().next();
  service.disconnect(alice.id, 4401);
  await expect(inbox).rejects.toMatchObject({ code: "agent-suspended" });
});

test("neither content nor the identity's key stands in any file of a store while agents talk", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  const canary = "the canary of the two agents sings";
  await alice.send(bob.id, canary);
  for await (const message of bob.inbox()) {
    expect(message.text()).toBe(canary);
    break;
  }
  const files = readdirSync(folder).filter((name) => !name.endsWith(".key"));
  expect(files.length).toBeGreaterThan(4);
  for (const name of files) expect(readFileSync(join(folder, name)).includes(canary), name).toBe(false);
});

/** What this agent has sent, as far as the condition holds for it, is so many days older. */
function makeOlder(name: string, condition: string, days: number): void {
  const database = new DatabaseSync(join(folder, `${name}.db`), { timeout: 5_000 });
  database.exec(`UPDATE outbox SET created_at = created_at - ${days * 86_400_000} WHERE ${condition}`);
  database.close();
}

function withWrongTag(body: Uint8Array): Uint8Array {
  const envelope = decodeEnvelope(body);
  return encodeEnvelope({ ...envelope, authTag: envelope.authTag.map((byte) => byte ^ 1) });
}
