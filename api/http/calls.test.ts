import { randomUUID } from "node:crypto";
import { afterEach, beforeEach, expect, test } from "vitest";
import { encodeBase64Url } from "../../protocol/base64url.ts";
import type { Identity } from "../../protocol/identity.ts";
import { oneTimePrekeyToJson } from "../../protocol/prekeys.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import type { StoredItem } from "../../store/mailbox.ts";
import {
  bytesOf,
  type InMemoryService,
  inMemoryService,
  jsonOf,
  read,
  someEnvelope,
} from "../../tests/in-memory-service.ts";
import { newIdentity, signed } from "../../tests/signing.ts";

let service: InMemoryService;

beforeEach(async () => {
  service = await inMemoryService();
});
afterEach(async () => {
  expect(service.ports.bugs).toEqual([]);
  await service.http.close();
});

const keyOf = (agent: Identity) => encodeBase64Url(agent.signing.publicKey);

const oneTimeJson = (count: number) =>
  Array.from({ length: count }, () => oneTimePrekeyToJson({ id: randomUUID(), publicKey: nodeRandom(32) }));

function putInMailbox(owner: Identity, sender: Identity, count: number): StoredItem[] {
  const box = service.ports.mailboxes.get(owner.agentId) ?? [];
  for (let n = 0; n < count; n++) {
    const envelope = someEnvelope(sender.agentId, owner.agentId);
    const body = bytesOf(envelope);
    box.push({ seq: box.length + 1, kind: "message", senderId: sender.agentId, itemId: envelope.messageId, body });
  }
  service.ports.mailboxes.set(owner.agentId, box);
  return box;
}

/** What was appended to `message.receipt.v1`, as [outcome, item, code] of its records. */
function receipts() {
  return service.ports.appended
    .filter(({ topic }) => topic.name === "message.receipt.v1")
    .flatMap(({ value }) => (value as { items: { outcome: string; itemId: string; code: string | null }[] }).items)
    .map(({ outcome, itemId, code }) => [outcome, itemId, code]);
}

test("registering makes an agent once, and tells the world once", async () => {
  const carol = newIdentity();
  const first = await service.post(carol, "/messaging/agents", { identity_key: keyOf(carol) });
  expect(first.status).toBe(201);
  expect(first.json).toEqual({
    agent_id: carol.agentId,
    identity_key: keyOf(carol),
    custody: "agent",
    readable_by: "agent",
    status: "active",
    created_at: expect.stringMatching(/Z$/),
  });
  const again = await service.post(carol, "/messaging/agents", { identity_key: keyOf(carol), custody: "agent" });
  expect(again.status).toBe(200);
  expect(again.json).toEqual(first.json);
  expect(service.ports.appended.map(({ topic, key }) => [topic.name, key])).toEqual([
    ["agent.changed.v1", carol.agentId],
  ]);
});

test("nobody registers somebody else's key", async () => {
  const [mallory, victim] = [newIdentity(), newIdentity()];
  const body = { identity_key: keyOf(victim) };
  const own = await service.post(mallory, "/messaging/agents", body);
  expect(own.problem).toMatchObject({ status: 401, code: "signature-invalid", field: "keyid" });
  const pretending = await service.post(mallory, "/messaging/agents", body, { keyid: victim.agentId });
  expect(pretending.problem).toMatchObject({ status: 401, code: "signature-invalid", field: "Signature" });
  expect(service.ports.agents.size).toBe(2);
  expect(service.ports.appended).toEqual([]);
});

test("a key that is no point of prime order is not registered", async () => {
  const carol = newIdentity();
  const identity = encodeBase64Url(Uint8Array.from({ length: 32 }, (_, n) => (n === 0 ? 1 : 0)));
  const { problem } = await service.post(carol, "/messaging/agents", { identity_key: identity });
  expect(problem).toMatchObject({ status: 422, code: "identity-key-invalid", field: "/identity_key" });
  const short = await service.post(carol, "/messaging/agents", { identity_key: "AAAA" });
  expect(short.problem).toMatchObject({ status: 400, code: "malformed", field: "/identity_key" });
  const server = await service.post(carol, "/messaging/agents", { identity_key: keyOf(carol), custody: "server" });
  expect(server.problem).toMatchObject({ status: 400, code: "malformed", field: "/access_key" });
});

test("what is sent is appended as its canonical bytes, under an id that a repeat would have, too", async () => {
  const { alice, bob, post, ports } = service;
  const envelopes = [someEnvelope(alice.agentId, bob.agentId), someEnvelope(alice.agentId, alice.agentId)];
  const body = { envelopes: envelopes.map(jsonOf) };
  const { status, json } = await post(alice, "/messaging/send", body);
  expect([status, json]).toEqual([202, { accepted: envelopes.map(({ messageId }) => ({ message_id: messageId })) }]);
  expect(ports.appended).toEqual(
    envelopes.map((envelope) =>
      expect.objectContaining({
        key: envelope.recipientId,
        subject: `${alice.agentId}/${envelope.messageId}`,
        time: envelope.timestamp,
        value: {
          kind: "message",
          itemId: envelope.messageId,
          senderId: alice.agentId,
          recipientId: envelope.recipientId,
          custody: "agent",
          body: bytesOf(envelope),
          delegation: [],
        },
      }),
    ),
  );
  const [before] = ports.appended;
  ports.appended.length = 0;
  expect((await post(alice, "/messaging/send", body)).json).toEqual(json);
  expect(ports.appended).toEqual([]);
  ports.remembered.clear();
  expect((await post(alice, "/messaging/send", body)).json).toEqual(json);
  expect(ports.appended[0]).toEqual(before);
});

test("while Kafka is away a send is 503, and the same message succeeds later, once", async () => {
  const { alice, bob, post, ports } = service;
  const body = { envelopes: [jsonOf(someEnvelope(alice.agentId, bob.agentId))] };
  ports.away.add("kafka");
  const refused = await post(alice, "/messaging/send", body);
  expect(refused.problem).toMatchObject({ status: 503, code: "unavailable", retryable: true });
  expect(refused.headers.get("retry-after")).toBe("2");
  ports.away.clear();
  expect((await post(alice, "/messaging/send", body)).status).toBe(202);
  expect(ports.appended).toHaveLength(1);
});

test("while Redis is away messages go on, and what must not be replayed waits", async () => {
  const { alice, bob, get, post, ports } = service;
  ports.away.add("redis");
  const envelopes = [jsonOf(someEnvelope(alice.agentId, bob.agentId))];
  expect((await post(alice, "/messaging/send", { envelopes })).status).toBe(202);
  expect((await get(bob, "/messaging/receive")).status).toBe(200);
  expect((await get(bob, `/messaging/prekeys/${alice.agentId}`)).problem.code).toBe("unavailable");
  expect((await post(bob, "/messaging/upload-prekeys", { one_time_prekeys: oneTimeJson(1) })).problem.code).toBe(
    "unavailable",
  );
  expect((await post(bob, "/messaging/agents", { identity_key: keyOf(bob) })).problem.code).toBe("unavailable");
});

test("a mailbox is read in pages, by cursor, and what was written to the client is reported", async () => {
  const { alice, bob, get, ports } = service;
  const box = putInMailbox(bob, alice, 5);
  const first = await get(bob, "/messaging/receive?limit=3");
  expect(first.json.items.map(({ seq }: { seq: number }) => seq)).toEqual([1, 2, 3]);
  expect(first.json.items[0]).toMatchObject({ kind: "message", sender_id: alice.agentId, item_id: box[0]?.itemId });
  expect([first.json.cursor, first.json.last_seq]).toEqual(["3", 5]);
  const second = await get(bob, `/messaging/receive?after=${first.json.cursor}`);
  expect(second.json.items.map(({ seq }: { seq: number }) => seq)).toEqual([4, 5]);
  expect((await get(bob, "/messaging/receive?after=5")).json).toEqual({ items: [], cursor: "5", last_seq: 5 });
  expect(receipts()).toEqual(box.map(({ itemId }) => ["delivered", itemId, null]));
  expect(ports.appended.every(({ key }) => key === bob.agentId)).toBe(true);
  expect((await get(alice, "/messaging/receive")).json.items).toEqual([]);
});

test("an envelope comes out as it went in", async () => {
  const { alice, bob, get } = service;
  const envelope = someEnvelope(alice.agentId, bob.agentId, { initiation: nodeRandom(150) });
  const body = bytesOf(envelope);
  service.ports.mailboxes.set(bob.agentId, [
    { seq: 1, kind: "message", senderId: alice.agentId, itemId: envelope.messageId, body },
  ]);
  expect((await get(bob, "/messaging/receive")).json.items[0].envelope).toEqual(jsonOf(envelope));
});

test("a retry request comes out as it went in", async () => {
  const { alice, bob, get } = service;
  const retry = { kind: "retry", sender_id: alice.agentId };
  const body = Buffer.from(JSON.stringify(retry));
  service.ports.mailboxes.set(bob.agentId, [
    { seq: 1, kind: "retry", senderId: alice.agentId, itemId: randomUUID(), body },
  ]);
  expect((await get(bob, "/messaging/receive")).json.items[0].retry).toEqual(retry);
});

test("a cursor from before a restore starts at the beginning again", async () => {
  const { alice, bob, get } = service;
  putInMailbox(bob, alice, 2);
  const { json } = await get(bob, "/messaging/receive?after=900");
  expect(json.items).toHaveLength(2);
  expect(json.cursor).toBe("2");
});

test("a poll waits for mail as long as it prefers, and answers when there is some", async () => {
  const { alice, bob, get, ports } = service;
  const start = Date.now();
  const waited = await get(bob, "/messaging/receive", { prefer: "respond-async, wait=1" });
  expect(Date.now() - start).toBeGreaterThan(900);
  expect(waited.headers.get("preference-applied")).toBe("wait=1");
  expect(waited.json.items).toEqual([]);
  const waiting = get(bob, "/messaging/receive", { prefer: "wait=20" });
  await new Promise((resolve) => setTimeout(resolve, 50));
  putInMailbox(bob, alice, 1);
  ports.wake();
  expect((await waiting).json.items).toHaveLength(1);
  expect((await get(bob, "/messaging/receive", { prefer: "wait=99999" })).headers.get("preference-applied")).toBe(
    "wait=30",
  );
});

test("a poll whose client went away stops waiting, and reports nothing", async () => {
  const { alice, bob, http, ports } = service;
  const gone = new AbortController();
  let [isWaiting, hasStopped] = [false, false];
  const { waitForMail } = ports;
  Object.assign(ports, {
    waitForMail: async (...asked: Parameters<typeof waitForMail>) => {
      isWaiting = true;
      await waitForMail(...asked);
      hasStopped = true;
      // It comes in the moment in which the client is found gone.
      putInMailbox(bob, alice, 1);
    },
  });
  const { url, headers } = await signed(bob, {
    method: "GET",
    url: `${http.url}/messaging/receive`,
    headers: { prefer: "wait=20" },
  });
  const asked = fetch(url, { headers, signal: gone.signal });
  await expect.poll(() => isWaiting).toBe(true);
  gone.abort();
  await expect(asked).rejects.toThrow();
  // Until the socket's end has arrived, the service cannot know.
  await expect.poll(() => hasStopped).toBe(true);
  await expect.poll(() => ports.counts.get("items_received")).toBe(1);
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(receipts()).toEqual([]);
});

test("a poll is refused while the agent has a stream", async () => {
  service.ports.streaming.add(service.bob.agentId);
  expect((await service.get(service.bob, "/messaging/receive")).problem).toMatchObject({
    status: 409,
    code: "stream-open",
  });
});

test("a lost report of delivery costs the client nothing", async () => {
  const { alice, bob, get, ports } = service;
  putInMailbox(bob, alice, 2);
  ports.away.add("kafka");
  expect((await get(bob, "/messaging/receive")).json.items).toHaveLength(2);
  await expect.poll(() => ports.counts.get("delivery_reports_lost")).toBe(2);
});

test("answers by id and by seq end items of the caller's own mailbox", async () => {
  const { alice, bob, post, ports } = service;
  const [one, two, three] = putInMailbox(bob, alice, 3).map(({ itemId }) => itemId);
  const items = [
    { seq: 2, refused: "auth-failed" },
    { sender_id: alice.agentId, message_id: one },
    { seq: 3 },
    { seq: 77 },
  ];
  const { status, json } = await post(bob, "/messaging/acknowledge", { items });
  expect([status, json]).toEqual([202, { accepted: 3 }]);
  expect(receipts()).toEqual([
    ["acknowledged", one, null],
    ["refused", two, "auth-failed"],
    ["acknowledged", three, null],
  ]);
  expect(ports.appended.map(({ key, value }) => [key, (value as { recipientId: string }).recipientId])).toEqual([
    [bob.agentId, bob.agentId],
  ]);
});

test("a thousand answers are four records, and 503 while Kafka is away", async () => {
  const { alice, bob, post, ports } = service;
  const items = Array.from({ length: 1_000 }, () => ({ sender_id: alice.agentId, message_id: randomUUID() }));
  expect((await post(bob, "/messaging/acknowledge", { items })).json).toEqual({ accepted: 1_000 });
  expect(ports.appended.map(({ value }) => (value as { items: unknown[] }).items.length)).toEqual([256, 256, 256, 232]);
  expect(new Set(ports.appended.map(({ id }) => id)).size).toBe(4);
  ports.away.add("kafka");
  expect((await post(bob, "/messaging/acknowledge", { items })).problem).toMatchObject({
    status: 503,
    retryable: true,
  });
});

test("a message's status is for its sender and its recipient", async () => {
  const { alice, bob, get, post, ports } = service;
  const carol = newIdentity();
  await post(carol, "/messaging/agents", { identity_key: keyOf(carol) });
  const messageId = someEnvelope(alice.agentId, bob.agentId).messageId;
  ports.messages.push({
    messageId,
    senderId: alice.agentId,
    recipientId: bob.agentId,
    status: "delivered",
    digest: new Uint8Array(32),
    code: null,
    acceptedAt: 1_000,
    queuedAt: 2_000,
    undeliverableAt: null,
    deliveredAt: 3_000,
    endedAt: null,
  });
  const path = `/messaging/messages/${messageId}`;
  const status = {
    message_id: messageId,
    sender_id: alice.agentId,
    recipient_id: bob.agentId,
    status: "delivered",
    digest: "A".repeat(43),
    code: null,
    accepted_at: "1970-01-01T00:00:01.000Z",
    queued_at: "1970-01-01T00:00:02.000Z",
    undeliverable_at: null,
    delivered_at: "1970-01-01T00:00:03.000Z",
    ended_at: null,
  };
  expect((await get(alice, path)).json).toEqual(status);
  expect((await get(bob, `${path}?sender=${alice.agentId}`)).json).toEqual(status);
  for (const [who, where] of [
    [bob, path],
    [carol, `${path}?sender=${alice.agentId}`],
    [alice, `/messaging/messages/${randomUUID()}`],
  ] as const) {
    expect((await get(who, where)).problem).toMatchObject({ status: 404, code: "message-unknown" });
  }
  const other = randomUUID();
  const asked = { messages: [{ message_id: other }, { message_id: messageId }] };
  expect((await post(alice, "/messaging/messages/status", asked)).json.messages).toEqual([
    { message_id: other, sender_id: alice.agentId, status: "unknown" },
    status,
  ]);
  const pried = { messages: [{ message_id: messageId, sender_id: alice.agentId }] };
  expect((await post(carol, "/messaging/messages/status", pried)).json.messages).toMatchObject([{ status: "unknown" }]);
});

test("what was discarded before it was encrypted has a status for its sender, and for nobody else", async () => {
  const { alice, bob, get, post, ports } = service;
  const [messageId, stored] = [0, 1].map(() => someEnvelope(alice.agentId, bob.agentId).messageId) as [string, string];
  const ids = { senderId: alice.agentId, recipientId: bob.agentId };
  const why = { code: "prekeys-unavailable", discardedAt: 1_000 };
  ports.discarded.push({ ...ids, ...why, messageId }, { ...ids, ...why, messageId: stored });
  ports.messages.push({
    ...{ ...ids, messageId: stored, status: "queued", digest: new Uint8Array(32), code: null, acceptedAt: 2_000 },
    ...{ queuedAt: 2_000, undeliverableAt: null, deliveredAt: null, endedAt: null },
  });
  const path = `/messaging/messages/${messageId}`;
  const status = {
    ...{ message_id: messageId, sender_id: alice.agentId, recipient_id: bob.agentId },
    ...{ status: "discarded", code: "prekeys-unavailable", digest: null },
    ...{ accepted_at: "1970-01-01T00:00:01.000Z", ended_at: "1970-01-01T00:00:01.000Z" },
    ...{ queued_at: null, undeliverable_at: null, delivered_at: null },
  };
  expect((await get(alice, path)).json).toEqual(status);
  const asked = { messages: [{ message_id: stored }, { message_id: messageId }] };
  const both = (await post(alice, "/messaging/messages/status", asked)).json.messages;
  expect(both[0]).toMatchObject({ message_id: stored, status: "queued", code: null });
  expect(both[1]).toEqual(status);
  const byBob = await get(bob, `${path}?sender=${alice.agentId}`);
  expect(byBob.problem).toMatchObject({ status: 404, code: "message-unknown" });
});

test("what was said anew is one message for its sender, as far as its newest successor is stored; its recipient is told of each", async () => {
  const { alice, bob, get, post, ports } = service;
  const said = Array.from({ length: 4 }, () => someEnvelope(alice.agentId, bob.agentId).messageId);
  const [first = "", second = "", third = "", notStored = ""] = said;
  const ids = { senderId: alice.agentId, recipientId: bob.agentId };
  const times = { acceptedAt: 1_000, queuedAt: 1_000, undeliverableAt: null, deliveredAt: null };
  const lost = { ...ids, ...times, status: "refused", code: "auth-failed", endedAt: 2_000 } as const;
  const arrived = { ...ids, ...times, status: "acknowledged", code: null, deliveredAt: 4_000, endedAt: 4_000 } as const;
  const digest = (n: number) => new Uint8Array(32).fill(n);
  ports.messages.push(
    { ...lost, messageId: first, digest: digest(1) },
    { ...lost, messageId: second, digest: digest(2) },
  );
  const path = `/messaging/messages/${first}`;
  expect((await get(alice, path)).json).toMatchObject({ status: "refused", code: "auth-failed" });
  const ofAlice = (messageId: string) => ({ senderId: alice.agentId, messageId });
  ports.successors.set(`${alice.agentId}/${first}`, [second, third, notStored].map(ofAlice));
  ports.successors.set(`${alice.agentId}/${second}`, [third, notStored].map(ofAlice));
  expect((await get(alice, path)).json).toMatchObject({
    message_id: first,
    status: "refused",
    ended_at: "1970-01-01T00:00:02.000Z",
  });
  ports.messages.push({ ...arrived, messageId: third, digest: digest(3) });
  const one = {
    status: "acknowledged",
    code: null,
    digest: encodeBase64Url(digest(3)),
    ended_at: "1970-01-01T00:00:04.000Z",
  };
  expect((await get(alice, path)).json).toMatchObject({ message_id: first, ...one });
  const asked = { messages: said.map((message_id) => ({ message_id })) };
  expect((await post(alice, "/messaging/messages/status", asked)).json.messages).toMatchObject([
    ...[first, second, third].map((message_id) => ({ message_id, ...one })),
    { message_id: notStored, status: "unknown" },
  ]);
  const byBob = await get(bob, `${path}?sender=${alice.agentId}`);
  expect(byBob.json).toMatchObject({ message_id: first, status: "refused", code: "auth-failed" });
});

test("a bug is answered without its inside, and handed to the log", async () => {
  const secret = new Error("row 17 of bob's diary");
  const broken = await inMemoryService({ findMessages: () => Promise.reject(secret) });
  const answer = await broken.get(broken.alice, `/messaging/messages/${randomUUID()}`);
  expect(answer.problem).toMatchObject({ status: 500, code: "internal", retryable: true });
  expect(JSON.stringify(answer.json)).not.toContain("diary");
  const posted = await broken.post(broken.alice, "/messaging/messages/status", {
    messages: [{ message_id: randomUUID() }],
  });
  expect(posted.problem).toMatchObject({ status: 500, code: "internal" });
  expect(broken.ports.bugs).toEqual([secret, secret]);
  await broken.http.close();
});

test("the process is alive whatever is away, and ready only with everything; what is missing is named", async () => {
  const hanging = await inMemoryService({
    readiness: {
      kafka: () => true,
      postgres: async () => Promise.reject(new Error("no")),
      registry: () => new Promise(() => undefined),
    },
  });
  expect((await read(await fetch(`${service.http.url}/readyz`))).json).toEqual({ ready: true, missing: [] });
  const notReady = await fetch(`${hanging.http.url}/readyz`);
  expect([notReady.status, await notReady.json()]).toEqual([503, { ready: false, missing: ["postgres", "registry"] }]);
  expect(await (await fetch(`${hanging.http.url}/healthz`)).json()).toEqual({ live: true });
  expect((await fetch(`${hanging.http.url}/healthz`, { method: "HEAD" })).status).toBe(200);
  const metrics = await fetch(`${hanging.http.url}/metrics`);
  expect(metrics.headers.get("content-type")).toContain("text/plain");
  expect(await metrics.text()).toContain("up 1");
  await hanging.http.close();
});
