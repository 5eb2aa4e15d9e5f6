import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { encodeBase64Url } from "../../protocol/base64url.ts";
import type { Identity } from "../../protocol/identity.ts";
import { makeMessageId } from "../../protocol/message-id.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { makeRetryRequest, retryRequestToJson } from "../../protocol/retry-request.ts";
import type { MessageEncrypted } from "../../schemas/values.ts";
import type { SessionFacts } from "../../store/session-facts.ts";
import { addAgent, type InMemoryService, inMemoryService } from "../../tests/in-memory-service.ts";
import { newIdentity } from "../../tests/signing.ts";
import type { ProblemCode } from "../problem.ts";

const minuteMs = 60 * 1000;
const dayMs = 24 * 60 * minuteMs;

let service: InMemoryService;
beforeEach(async () => {
  service = await inMemoryService();
});
afterEach(async () => {
  expect(service.ports.bugs).toEqual([]);
  await service.http.close();
});

describe("what is known of sessions", () => {
  function someFacts(
    owner: Identity,
    peer: Identity,
    lastAt: number,
    fields: Partial<SessionFacts> = {},
  ): SessionFacts {
    const facts: SessionFacts = {
      ownerId: owner.agentId,
      peerId: peer.agentId,
      sessionId: nodeRandom(16),
      messageId: makeMessageId(lastAt, nodeRandom),
      dhPublicKey: nodeRandom(32),
      sendCounter: 3,
      previousCounter: 2,
      messages: 5,
      firstAt: 1_000,
      lastAt,
      initiation: null,
      ...fields,
    };
    service.ports.sessionFacts.unshift(facts);
    return facts;
  }

  const side = (facts: SessionFacts) => ({
    dh_public_key: encodeBase64Url(facts.dhPublicKey),
    send_counter: 3,
    previous_counter: 2,
    message_id: facts.messageId,
    messages: 5,
    first_at: "1970-01-01T00:00:01.000Z",
    last_at: new Date(facts.lastAt).toISOString(),
  });
  const initiation = { suite: 1, signedPrekeyId: "s", oneTimePrekeyId: null, kemPrekeyId: null, at: 1_000 };

  test("a pair's sessions show each side's own, from either side, and to nobody else", async () => {
    const { alice, bob, get, ports } = service;
    const carol = newIdentity();
    addAgent(ports, carol);
    const quiet = someFacts(bob, alice, 2_000);
    const begun = someFacts(alice, bob, 3_000, { initiation });
    // Bob claims later that he began it.
    const { sessionId } = begun;
    const answered = someFacts(bob, alice, 4_000, { sessionId, initiation: { ...initiation, suite: 2, at: 4_000 } });
    const heads = [sessionId, quiet.sessionId].map((id) => ({ session_id: encodeBase64Url(id) }));
    const initiated = { initiator_id: alice.agentId, suite: 1, initialized_at: "1970-01-01T00:00:01.000Z" };
    expect((await get(alice, `/messaging/sessions/${bob.agentId}`)).json.sessions).toEqual([
      { ...heads[0], peer_id: bob.agentId, ...initiated, sent: side(begun), received: side(answered) },
      { ...heads[1], peer_id: bob.agentId, received: side(quiet) },
    ]);
    expect((await get(bob, `/messaging/sessions/${alice.agentId}`)).json.sessions).toEqual([
      { ...heads[0], peer_id: alice.agentId, ...initiated, sent: side(answered), received: side(begun) },
      { ...heads[1], peer_id: alice.agentId, sent: side(quiet) },
    ]);
    expect((await get(carol, `/messaging/sessions/${alice.agentId}`)).json).toEqual({
      ...{ custody: "agent", peer_custody: "agent", readable_by: "agents", sessions: [] },
    });
  });

  test("what an agent sent last comes in pages, over all peers", async () => {
    const { alice, bob, get } = service;
    someFacts(bob, alice, 1);
    const own = Array.from({ length: 205 }, (_, n) => someFacts(alice, newIdentity(), n + 1)).toReversed();
    const read: unknown[] = [];
    let [path, pages] = ["/messaging/sessions", 0];
    for (; path !== ""; pages++) {
      const { json } = await get(alice, path);
      read.push(...json.sessions);
      path = json.cursor === undefined ? "" : `/messaging/sessions?after=${json.cursor}`;
    }
    expect(pages).toBe(3);
    expect(read).toEqual(
      own.map((facts) => ({
        peer_id: facts.peerId,
        session_id: encodeBase64Url(facts.sessionId),
        dh_public_key: encodeBase64Url(facts.dhPublicKey),
        send_counter: 3,
        message_id: facts.messageId,
        last_at: new Date(facts.lastAt).toISOString(),
      })),
    );
  });

  test("a page that is just full is the last one", async () => {
    const { alice, get } = service;
    for (let n = 0; n < 100; n++) someFacts(alice, newIdentity(), n + 1);
    const { json } = await get(alice, "/messaging/sessions");
    expect(json.sessions).toHaveLength(100);
    expect(json).not.toHaveProperty("cursor");
  });

  const [agent, session] = ["A".repeat(43), "A".repeat(22)];
  test.each([
    "",
    "1",
    `-1.${agent}.${session}`,
    `01.${agent}.${session}`,
    `9007199254740993.${agent}.${session}`,
    `1.${"A".repeat(42)}B.${session}`,
    `1.${agent}.${"A".repeat(21)}B`,
    `1.${agent}.${session}.`,
    `1.${agent}.${session}%00`,
  ])("the cursor %j is refused", async (after) => {
    const { problem } = await service.get(service.alice, `/messaging/sessions?after=${after}`);
    expect(problem).toMatchObject({ status: 400, code: "malformed", field: "/after" });
  });

  test.each([
    ["/messaging/sessions/bob", "/peer"],
    [`/messaging/sessions/${agent}?x=1`, "@query"],
    ["/messaging/sessions?limit=1", "/limit"],
  ])("GET %s is refused", async (path, field) => {
    const { problem } = await service.get(service.alice, path);
    expect(problem).toMatchObject({ status: 400, code: "malformed", field });
  });
});

describe("retry requests", () => {
  interface Made {
    readonly by?: Identity;
    readonly from?: Identity;
    readonly time?: number;
    readonly itemId?: string;
    readonly messageId?: string;
    readonly changes?: Record<string, unknown>;
  }

  /** Bob's request for a message of Alice's that is stored for him, unless told otherwise. */
  function request({ by = service.bob, from = service.alice, time = Date.now(), ...more }: Made = {}) {
    const messageId = more.messageId ?? storedFor(by, from);
    const failed = {
      ...{ senderId: from.agentId, recipientId: by.agentId, messageId },
      ...{ sessionId: nodeRandom(16), dhPublicKey: nodeRandom(32) },
    };
    const retry = retryRequestToJson(makeRetryRequest(nodePrimitives, by, failed, time));
    return { item_id: more.itemId ?? makeMessageId(Date.now(), nodeRandom), retry: { ...retry, ...more.changes } };
  }

  function storedFor(recipient: Identity, sender: Identity): string {
    const messageId = makeMessageId(Date.now(), nodeRandom);
    service.ports.messages.push({
      ...{ messageId, senderId: sender.agentId, recipientId: recipient.agentId, status: "delivered", code: null },
      ...{
        digest: new Uint8Array(32),
        acceptedAt: 1,
        queuedAt: 2,
        undeliverableAt: null,
        deliveredAt: 3,
        endedAt: null,
      },
    });
    return messageId;
  }

  const path = "/messaging/retry-requests";

  test("a retry request is appended once, as an item for the failed message's sender", async () => {
    const { alice, bob, post, ports } = service;
    const body = request();
    const first = await post(bob, path, body);
    expect([first.status, first.json]).toEqual([202, { item_id: body.item_id }]);
    const [event, ...others] = ports.appended;
    expect(others).toEqual([]);
    expect(event).toMatchObject({
      topic: { name: "message.encrypted.v1" },
      key: alice.agentId,
      subject: `${bob.agentId}/${body.item_id}`,
    });
    const item = event?.value as MessageEncrypted;
    expect(item).toMatchObject({
      ...{ kind: "retry", itemId: body.item_id, senderId: bob.agentId, recipientId: alice.agentId, custody: "agent" },
    });
    expect(JSON.parse(Buffer.from(item.body).toString("utf8"))).toEqual(body.retry);

    expect(await post(bob, path, body)).toMatchObject({ status: 202, json: { item_id: body.item_id } });
    expect(ports.appended).toHaveLength(1);
    // Whoever has forgotten appends the same bytes again.
    ports.remembered.clear();
    expect((await post(bob, path, body)).status).toBe(202);
    expect(ports.appended[1]).toEqual(event);
  });

  test("an id that stands for another request is refused", async () => {
    const { bob, post, ports } = service;
    const body = request();
    await post(bob, path, body);
    const { problem } = await post(bob, path, request({ itemId: body.item_id }));
    expect(problem).toMatchObject({ status: 409, code: "message-id-reused", field: "/item_id" });
    expect(ports.appended).toHaveLength(1);
  });

  const now = Date.now();
  const otherTime = new Date(now - 1_000).toISOString();
  const refused: [law: string, made: () => unknown, status: number, code: ProblemCode, field: string][] = [
    [
      "another agent's request",
      () => request({ by: service.alice, from: service.bob }),
      403,
      "retry-mismatch",
      "/retry/recipient_id",
    ],
    [
      "a request that another agent signed",
      () => request({ by: service.alice, changes: { recipient_id: service.bob.agentId } }),
      422,
      "retry-signature-invalid",
      "/retry/signature",
    ],
    [
      "a request that was changed",
      () => request({ changes: { time: otherTime } }),
      422,
      "retry-signature-invalid",
      "/retry/signature",
    ],
    ["a request of 30 days ago", () => request({ time: now - 30 * dayMs - minuteMs }), 400, "malformed", "/retry/time"],
    ["a request from the future", () => request({ time: now + 6 * minuteMs }), 400, "malformed", "/retry/time"],
    [
      "an id of eight days ago",
      () => request({ itemId: makeMessageId(now - 8 * dayMs, nodeRandom) }),
      422,
      "message-id-too-old",
      "/item_id",
    ],
    [
      "an id from the future",
      () => request({ itemId: makeMessageId(now + 6 * minuteMs, nodeRandom) }),
      422,
      "message-id-in-future",
      "/item_id",
    ],
    ["an id without a time", () => request({ itemId: crypto.randomUUID() }), 400, "malformed", "/item_id"],
    ["a request to nobody", () => request({ from: newIdentity() }), 404, "recipient-unknown", "/retry/sender_id"],
    [
      "a request for what was never sent",
      () => request({ messageId: makeMessageId(now, nodeRandom) }),
      404,
      "message-unknown",
      "/retry/message_id",
    ],
    [
      "a request for what another agent got",
      () => request({ messageId: storedFor(newIdentity(), service.alice) }),
      404,
      "message-unknown",
      "/retry/message_id",
    ],
    ["no id", () => ({ retry: request().retry }), 400, "malformed", "/item_id"],
    ["no request", () => ({ item_id: request().item_id }), 400, "malformed", "/retry"],
    ["another kind", () => request({ changes: { kind: "message" } }), 400, "malformed", "/retry/kind"],
    ["a short signature", () => request({ changes: { signature: "AAAA" } }), 400, "malformed", "/retry/signature"],
    [
      "a session id that is none",
      () => request({ changes: { session_id: "" } }),
      400,
      "malformed",
      "/retry/session_id",
    ],
    ["an unknown member", () => request({ changes: { urgent: true } }), 400, "malformed", "/retry/urgent"],
  ];

  test.each(refused)("%s is refused", async (_, made, status, code, field) => {
    const { bob, post, ports } = service;
    const { problem } = await post(bob, path, made());
    expect(problem).toMatchObject({ status, code, field });
    expect(problem.detail).toBeTruthy();
    expect(ports.appended).toEqual([]);
  });

  test("who got a message asks for it anew although it may not message its sender; who was blocked since may not", async () => {
    const { alice, bob, post, ports } = service;
    ports.policies.policies.set(alice.agentId, "allow-list");
    expect((await post(bob, path, request())).status).toBe(202);
    ports.policies.listed.add(`${alice.agentId} block ${bob.agentId}`);
    expect((await post(bob, path, request())).problem).toMatchObject({
      ...{ status: 403, code: "not-allowed", rule: "blocked", field: "/retry/sender_id" },
    });
    expect(ports.appended).toHaveLength(1);
  });

  test("a suspended sender is asked all the same: the request waits for it; a revoked one is not", async () => {
    const { alice, bob, post, ports } = service;
    addAgent(ports, alice, "suspended");
    expect((await post(bob, path, request())).status).toBe(202);
    expect(ports.appended).toHaveLength(1);
    addAgent(ports, alice, "revoked");
    expect((await post(bob, path, request())).problem).toMatchObject({ status: 404, code: "recipient-unknown" });
    expect(ports.appended).toHaveLength(1);
  });

  test("a request takes room of its pair's, like a message: without room it is refused, and does not count", async () => {
    const { alice, bob, post, ports } = service;
    const asked: unknown[] = [];
    const room = { isFull: true };
    Object.assign(ports.room, {
      take: async (sender: string, items: readonly unknown[]) => {
        asked.push([sender, ...items]);
        return items.map(() => (room.isFull ? "pair-full" : null));
      },
    });
    const body = request();
    for (let n = 0; n < 61; n++) {
      const { problem, headers } = await post(bob, path, body);
      expect(problem).toMatchObject({ status: 429, code: "pair-full", retryable: true, field: "/retry/sender_id" });
      expect(headers.get("retry-after")).toBe("5");
    }
    expect(ports.appended).toEqual([]);
    expect(asked[0]).toEqual([bob.agentId, { recipientId: alice.agentId, messageId: body.item_id }]);
    room.isFull = false;
    expect((await post(bob, path, body)).status).toBe(202);
  });

  test("an agent may ask another sixty times an hour, a third as well; what was answered before counts once", async () => {
    const { bob, post, ports } = service;
    const carol = newIdentity();
    addAgent(ports, carol);
    const bodies = Array.from({ length: 60 }, () => request());
    for (const body of [...bodies, ...bodies.slice(0, 5)]) expect((await post(bob, path, body)).status).toBe(202);
    const { problem, headers } = await post(bob, path, request());
    expect(problem).toMatchObject({ status: 429, code: "rate-limited", retryable: true });
    expect(Number(headers.get("retry-after"))).toBeGreaterThan(0);
    expect(ports.appended).toHaveLength(60);
    expect((await post(bob, path, request({ from: carol }))).status).toBe(202);
  });

  test("while Redis is away requests go on, uncounted", async () => {
    const { bob, post, ports } = service;
    ports.away.add("redis");
    for (let n = 0; n < 61; n++) expect((await post(bob, path, request())).status).toBe(202);
  });

  test("while Kafka is away it is 503, which does not count, and the same request succeeds later", async () => {
    const { bob, post, ports } = service;
    const body = request();
    ports.away.add("kafka");
    for (let n = 0; n < 61; n++) {
      expect((await post(bob, path, body)).problem).toMatchObject({ status: 503, code: "unavailable" });
    }
    ports.away.clear();
    expect((await post(bob, path, body)).status).toBe(202);
    expect(ports.appended).toHaveLength(1);
  });
});
