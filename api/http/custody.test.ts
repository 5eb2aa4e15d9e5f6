import { afterEach, beforeEach, expect, test } from "vitest";
import { encodeBase64Url } from "../../protocol/base64url.ts";
import { encodeFrame } from "../../protocol/frame.ts";
import type { Identity } from "../../protocol/identity.ts";
import { openIngress, sealIngress } from "../../protocol/ingress.ts";
import { CIPHERTEXT_BYTES_MAX } from "../../protocol/limits.ts";
import { makeMessageId } from "../../protocol/message-id.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { generateX25519 } from "../../protocol/primitives/primitives.ts";
import { Refusal } from "../../protocol/refusal.ts";
import type { MessageSend } from "../../schemas/values.ts";
import type { OpenedMailbox } from "../../store/custody/open-mailbox.ts";
import type { TakenRequests } from "../../store/custody/requests.ts";
import {
  type Answer,
  type InMemoryService,
  inMemoryService,
  jsonOf,
  read,
  someEnvelope,
} from "../../tests/in-memory-service.ts";
import { call, newIdentity } from "../../tests/signing.ts";
import type { CustodyDoor } from "../operations/custody.ts";
import type { HttpDeps } from "./route.ts";

const nothing: OpenedMailbox = {
  messages: [],
  failed: [],
  handled: [],
  refused: [],
  rekeys: [],
  asks: [],
  cursor: 0,
  lastSeq: 0,
};

const epoch = { number: 20_000, pair: generateX25519(nodePrimitives, nodeRandom) };
const begun = new Map<string, { agentId: string; requestId: string }>();
let service: InMemoryService;
let mailbox: OpenedMailbox;
let fault: Error | null;
const noRequests: TakenRequests = { due: [], ended: [], afterSeq: null };
let taken = noRequests;
let openings = 0;
const destroyed: string[] = [];
const published: string[] = [];

/** Seals nothing: what matters here is who may call what. */
const custody: CustodyDoor = {
  inTurn: (_accessKey, work) => work(),
  makeIdentity: () => ({ identity: newIdentity(), sealed: Uint8Array.of(1) }),
  destroy: (agentId) => destroyed.push(agentId),
  findAgentOfAccessKey: async (accessKey) => {
    const agents = [...service.ports.agents.values()];
    return agents.find((agent) => Buffer.compare(agent.accessKey ?? new Uint8Array(), accessKey) === 0) ?? null;
  },
  publishPrekeys: async (agentId) => {
    published.push(agentId);
  },
  requireKeys: () => {
    if (fault !== null) throw fault;
  },
  ingressKey: () => ({ epoch: epoch.number, publicKey: epoch.pair.publicKey }),
  isEpochAccepted: (number) => number === epoch.number,
  sealContent: async () => Uint8Array.of(2),
  openMailbox: async (_recipientId, { afterSeq }) => {
    if (fault !== null) throw fault;
    openings += 1;
    const isMore = afterSeq < mailbox.cursor || mailbox.rekeys.length + mailbox.asks.length > 0;
    return isMore ? mailbox : nothing;
  },
  beginSession: async (agentId, peerId, requestId) => {
    if (fault !== null) throw fault;
    if (peerId === service.bob.agentId) return null;
    const known = begun.get(peerId);
    begun.set(peerId, { agentId, requestId });
    const sessionId = new Uint8Array(16).fill(7);
    return known === undefined
      ? { sessionId, isNew: true, unanswered: { suite: 2, startedAt: 1_700_000_000_000 } }
      : { sessionId, isNew: false, unanswered: null };
  },
  takeRequests: async () => taken,
};

/** As many items as there are messages to open: what they hold is never looked at. */
const readMailbox: HttpDeps["readMailbox"] = async (recipientId, { afterSeq }) => {
  const item = { recipientId, kind: "message", body: new Uint8Array(), createdAt: 0 } as const;
  const items = mailbox.messages
    .filter(({ seq }) => seq > afterSeq)
    .map(({ seq, senderId, messageId: itemId }) => ({ ...item, seq, senderId, itemId }));
  return { items, lastSeq: mailbox.lastSeq, end: true };
};

beforeEach(async () => {
  service = await inMemoryService({ custody, readMailbox });
  [mailbox, taken, fault] = [nothing, noRequests, null];
  published.length = 0;
  begun.clear();
  openings = 0;
});
afterEach(async () => {
  expect(service.ports.bugs).toEqual([]);
  await service.http.close();
});

const registration = (access: Identity) => ({
  custody: "server",
  access_key: encodeBase64Url(access.signing.publicKey),
});

/** An agent of server custody: who it is, and how it calls. */
async function heldAgent() {
  const access = newIdentity();
  const { json } = await service.post(access, "/messaging/agents", registration(access));
  const id: string = json.agent_id;
  const url = (path: string) => service.http.url + path;
  return {
    id,
    post: (path: string, body: unknown): Promise<Answer> => service.post(access, path, body, { keyid: id }),
    get: async (path: string): Promise<Answer> =>
      read(await call(access, { method: "GET", url: url(path) }, { keyid: id })),
    waiting: async (path: string, body: unknown, wait: number): Promise<Answer> => {
      const headers = { prefer: `wait=${wait}` };
      return read(await call(access, { method: "POST", url: url(path), body, headers }, { keyid: id }));
    },
  };
}

type Held = Awaited<ReturnType<typeof heldAgent>>;

/** A message that its sender seals, `frame` being what it seals. */
async function sealedBy(
  { id: senderId }: Held,
  { frame = encodeFrame({ contentType: "text/plain", body: Buffer.from("hello") }), number = epoch.number } = {},
) {
  const ids = { senderId, recipientId: service.bob.agentId, messageId: makeMessageId(Date.now(), nodeRandom) };
  const key = { epoch: number, publicKey: epoch.pair.publicKey };
  const sealed = await sealIngress(nodePrimitives, nodeRandom, key, ids, frame);
  return { message_id: ids.messageId, recipient_id: ids.recipientId, sealed: encodeBase64Url(sealed) };
}

const plain = (recipient: string, changes: object = {}) => ({
  message_id: makeMessageId(Date.now(), nodeRandom),
  recipient_id: recipient,
  content_type: "text/plain",
  body: "aGVsbG8",
  ...changes,
});

const commands = () =>
  service.ports.appended
    .filter(({ topic }) => topic.name === "message.send.v1")
    .map(({ key, value }) => ({ key, ...(value as MessageSend) }));

test("an access key is registered once, has an agent of another id, and is told who can read", async () => {
  const access = newIdentity();
  const first = await service.post(access, "/messaging/agents", registration(access));
  expect(first).toMatchObject({ status: 201, json: { custody: "server", readable_by: "agent-and-operator" } });
  expect(first.json.agent_id).not.toBe(access.agentId);
  const again = await service.post(access, "/messaging/agents", registration(access));
  expect(again).toMatchObject({ status: 200, json: first.json });
  expect(published).toEqual([first.json.agent_id, first.json.agent_id]);
});

test("only the access key opens the agent's calls, and in no other name than the agent's", async () => {
  const { id } = await heldAgent();
  const mallory = newIdentity();
  expect((await service.post(mallory, "/messaging/open", {}, { keyid: id })).problem.code).toBe("signature-invalid");
  expect((await service.post(mallory, "/messaging/agents", registration(newIdentity()))).problem).toMatchObject({
    code: "signature-invalid",
    field: "keyid",
  });
});

test.each([
  [{ custody: "server" }, "/access_key"],
  [{ custody: "agent" }, "/identity_key"],
  [{ custody: "server", access_key: "A".repeat(43), identity_key: "A".repeat(43) }, "/identity_key"],
  [{ access_key: "A".repeat(43), identity_key: "A".repeat(43) }, "/access_key"],
])("a registration %j is refused at %s", async (body, field) => {
  const { problem } = await service.post(newIdentity(), "/messaging/agents", body);
  expect(problem).toMatchObject({ status: 400, code: "malformed", field });
});

test("without a keyring a registration for server custody says so", async () => {
  await service.http.close();
  service = await inMemoryService();
  const access = newIdentity();
  const { problem } = await service.post(access, "/messaging/agents", registration(access));
  expect(problem).toMatchObject({ status: 501, code: "custody-unavailable" });
});

test("each custody has its calls, and is told so at the other's", async () => {
  const held = await heldAgent();
  const { alice, bob } = service;
  const refused = [
    await service.post(alice, "/messaging/messages", { messages: [plain(bob.agentId)] }),
    await service.post(alice, "/messaging/open", {}),
    await service.post(alice, "/messaging/sessions", { peer_id: bob.agentId }),
    await read(await call(alice, { method: "GET", url: `${service.http.url}/messaging/ingress-key` })),
    await held.post("/messaging/send", { envelopes: [jsonOf(someEnvelope(held.id, bob.agentId))] }),
    await held.post("/messaging/upload-prekeys", { one_time_prekeys: [] }),
  ];
  for (const { problem } of refused) expect(problem).toMatchObject({ status: 409, code: "custody-mismatch" });
  expect(commands()).toEqual([]);
});

test("what is taken becomes one command each, keyed by the pair", async () => {
  const held = await heldAgent();
  const messages = [plain(service.bob.agentId), plain(service.alice.agentId)];
  const { status, json } = await held.post("/messaging/messages", { messages });
  expect([status, json]).toEqual([202, { accepted: messages.map(({ message_id }) => ({ message_id })) }]);
  expect(commands().map(({ key, kind, messageId }) => [key, kind, messageId])).toEqual(
    messages.map(({ recipient_id, message_id }) => [`${held.id}:${recipient_id}`, "message", message_id]),
  );
});

const day = 24 * 60 * 60 * 1000;
const faults: [law: string, changes: object, code: string, field: string][] = [
  ["to nobody", { recipient_id: newIdentity().agentId }, "recipient-unknown", "/recipient_id"],
  [
    "of last week",
    { message_id: makeMessageId(Date.now() - 8 * day, nodeRandom) },
    "message-id-too-old",
    "/message_id",
  ],
  ["of tomorrow", { message_id: makeMessageId(Date.now() + day, nodeRandom) }, "message-id-in-future", "/message_id"],
  ["without a time", { message_id: "8f14e45f-ceea-467a-9575-24b1a1c1d2e3" }, "malformed", "/message_id"],
  ["that is too large", { body: Buffer.alloc(CIPHERTEXT_BYTES_MAX).toString("base64url") }, "too-large", "/body"],
  ["of the protocol's own type", { content_type: "application/vnd.sealpost.rekey" }, "malformed", "/content_type"],
  ["that is not base64url", { body: "A" }, "malformed", "/body"],
  ["whose type is no text", { content_type: "\ud800" }, "malformed", "/content_type"],
];

test.each(faults)("a message %s is refused, and the one beside it is not sent", async (_, changes, code, field) => {
  const held = await heldAgent();
  const messages = [plain(service.bob.agentId), plain(service.bob.agentId, changes)];
  const { problem } = await held.post("/messaging/messages", { messages });
  expect(problem).toMatchObject({ code, field: `/messages/1${field}` });
  expect(commands()).toEqual([]);
});

test("a message to who lets only contacts in is refused, and so is a session with it; each names the rule", async () => {
  const held = await heldAgent();
  const { bob, alice, ports } = service;
  ports.policies.policies.set(bob.agentId, "contacts");
  const messages = [plain(alice.agentId), plain(bob.agentId)];
  const { status, problem } = await held.post("/messaging/messages", { messages });
  expect([status, problem]).toMatchObject([
    403,
    {
      ...{ code: "not-allowed", rule: "contacts-only", field: "/messages/1/recipient_id" },
      errors: [{ pointer: "/messages/1/recipient_id", rule: "contacts-only", message_id: messages[1]?.message_id }],
    },
  ]);
  expect(commands()).toEqual([]);
  expect((await held.post("/messaging/sessions", { peer_id: bob.agentId })).problem).toMatchObject({
    ...{ status: 403, code: "not-allowed", rule: "contacts-only", field: "/peer_id" },
  });
});

test("what an agent seals to the key it was given reaches the log as it is, and opens there", async () => {
  const held = await heldAgent();
  const key = await held.get("/messaging/ingress-key");
  expect(key).toMatchObject({ status: 200, json: { epoch: epoch.number, readable_by: "agent-and-operator" } });
  expect(key.json.public_key).toBe(encodeBase64Url(epoch.pair.publicKey));
  const frame = encodeFrame({ contentType: "text/plain", body: Buffer.from("for the tier alone") });
  const message = await sealedBy(held, { frame });
  expect((await held.post("/messaging/messages", { messages: [message, plain(service.bob.agentId)] })).status).toBe(
    202,
  );
  const [command] = commands();
  if (command === undefined) throw new Error("no command");
  expect(encodeBase64Url(command.sealed)).toBe(message.sealed);
  expect(await openIngress(nodePrimitives, epoch.pair, command, command.sealed)).toEqual(frame);
});

const longest = encodeFrame({ contentType: "a", body: Buffer.alloc(CIPHERTEXT_BYTES_MAX - 8) });
const sealedFaults: [law: string, change: (held: Held) => Promise<object>, code: string, field: string][] = [
  ["to the key of another day", (held) => sealedBy(held, { number: epoch.number - 1 }), "epoch-refused", "/sealed"],
  ["without padding", (held) => sealedBy(held, { frame: Buffer.alloc(1_001) }), "malformed", "/sealed"],
  [
    "and is too large",
    (held) => sealedBy(held, { frame: Buffer.alloc(longest.length + 2_048) }),
    "too-large",
    "/sealed",
  ],
  ["in another form", async (held) => ({ ...(await sealedBy(held)), sealed: "AgAA" }), "malformed", "/sealed"],
  ["in no base64url", async (held) => ({ ...(await sealedBy(held)), sealed: "A" }), "malformed", "/sealed"],
  ["and given open as well", async (held) => ({ ...(await sealedBy(held)), body: "aGVsbG8" }), "malformed", "/body"],
  [
    "or not given at all",
    async (held) => ({ ...(await sealedBy(held)), sealed: undefined }),
    "malformed",
    "/content_type",
  ],
];

test.each(sealedFaults)("content that is sealed %s is refused, and so is its call", async (_, change, code, field) => {
  const held = await heldAgent();
  const messages = [plain(service.bob.agentId), await change(held)];
  const { problem } = await held.post("/messaging/messages", { messages });
  expect(problem).toMatchObject({ code, field: `/messages/1${field}` });
  expect(problem.fix).toBeTruthy();
  expect(commands()).toEqual([]);
});

test("the largest content there may be is taken sealed as well", async () => {
  const held = await heldAgent();
  const messages = [await sealedBy(held, { frame: longest })];
  expect((await held.post("/messaging/messages", { messages })).status).toBe(202);
});

test("a session is begun once, tells no secret and who can read; asked again it is the same", async () => {
  const held = await heldAgent();
  const peer_id = service.alice.agentId;
  const first = await held.post("/messaging/sessions", { peer_id });
  const said = { session_id: encodeBase64Url(new Uint8Array(16).fill(7)), peer_id, custody: "server" };
  expect([first.status, first.json]).toEqual([
    201,
    {
      ...{ ...said, readable_by: "agents-and-operator", answered: false, suite: 2 },
      initialized_at: "2023-11-14T22:13:20.000Z",
    },
  ]);
  const again = await held.post("/messaging/sessions", { peer_id });
  expect([again.status, again.json]).toEqual([200, { ...said, readable_by: "agents-and-operator", answered: true }]);
  expect(begun.get(peer_id)?.requestId).toMatch(/^session:./);
});

test.each([
  ["with nobody", () => newIdentity().agentId, 404, "recipient-unknown"],
  ["with who has no prekeys", () => service.bob.agentId, 404, "prekeys-unavailable"],
  ["with itself", (id: string) => id, 400, "malformed"],
  ["with what is no agent", () => "bob", 400, "malformed"],
])("a session %s is refused", async (_, peerOf, status, code) => {
  const held = await heldAgent();
  const { problem } = await held.post("/messaging/sessions", { peer_id: peerOf(held.id) });
  expect(problem).toMatchObject({ status, code, field: "/peer_id" });
});

test.each([
  ["agent", () => service.alice.agentId, { peer_custody: "agent" }],
  ["unknown", () => newIdentity().agentId, {}],
])("what is known of sessions with a peer whose custody is %s says who can read", async (_, peerOf, peer) => {
  const held = await heldAgent();
  const { status, json } = await held.get(`/messaging/sessions/${peerOf()}`);
  expect([status, json]).toEqual([
    200,
    { ...peer, custody: "server", readable_by: "agents-and-operator", sessions: [] },
  ]);
});

test("who waits for mail is answered as soon as there is some, and is answered nothing when there is none", async () => {
  const held = await heldAgent();
  const at = { seq: 1, senderId: service.bob.agentId, messageId: makeMessageId(Date.now(), nodeRandom) };
  const waiting = held.waiting("/messaging/open", {}, 20);
  await expect.poll(() => openings).toBe(1);
  mailbox = {
    ...nothing,
    messages: [{ ...at, contentType: "text/plain", body: Buffer.from("at last"), sentAt: Date.now() }],
    cursor: 1,
    lastSeq: 1,
  };
  const waking = setInterval(() => service.ports.wake(), 20);
  expect((await waiting).json.messages).toHaveLength(1);
  clearInterval(waking);
  // Waking up is no reason to open anything.
  expect(openings).toBe(2);
  mailbox = nothing;
  expect((await held.waiting("/messaging/open", {}, 1)).json.messages).toEqual([]);
});

test("one id twice in a call is refused", async () => {
  const held = await heldAgent();
  const message = plain(service.bob.agentId);
  const { problem } = await held.post("/messaging/messages", { messages: [message, message] });
  expect(problem).toMatchObject({ code: "message-id-reused", field: "/messages/1/message_id" });
});

test.each([
  ["key-destroyed", 410, "keys-destroyed"],
  ["key-unknown", 409, "keys-unavailable"],
  ["sealed-damaged", 409, "keys-unavailable"],
])("keys that are %s are answered %i %s", async (code, status, problemCode) => {
  const held = await heldAgent();
  fault = new Refusal(code);
  const sending = await held.post("/messaging/messages", { messages: [plain(service.bob.agentId)] });
  const opening = await held.post("/messaging/open", {});
  const beginning = await held.post("/messaging/sessions", { peer_id: service.alice.agentId });
  for (const { problem } of [sending, opening, beginning]) expect(problem).toMatchObject({ status, code: problemCode });
});

test("what was opened is answered, what is done with is settled, and a waiting peer is answered by a command", async () => {
  const held = await heldAgent();
  const senderId = service.bob.agentId;
  const at = (seq: number) => ({ seq, senderId, messageId: makeMessageId(1_700_000_000_000 + seq, nodeRandom) });
  const [content, failed, handled, refused] = [at(1), at(2), at(3), at(4)];
  mailbox = {
    messages: [{ ...content, contentType: "text/plain", body: Buffer.from("hello"), sentAt: 1_700_000_000_001 }],
    failed: [{ ...failed, code: "auth-failed" }],
    handled: [handled],
    refused: [{ ...refused, code: "bad-frame" }],
    rekeys: [{ peerId: senderId, sessionId: new Uint8Array(16).fill(5) }],
    asks: [],
    cursor: 4,
    lastSeq: 4,
  };
  const { json } = await held.post("/messaging/open", { after: "0", limit: 10 });
  expect(json).toEqual({
    messages: [
      {
        seq: 1,
        message_id: content.messageId,
        sender_id: senderId,
        content_type: "text/plain",
        body: "aGVsbG8",
        sent_at: "2023-11-14T22:13:20.001Z",
      },
    ],
    failed: [{ seq: 2, message_id: failed.messageId, sender_id: senderId, code: "auth-failed" }],
    cursor: "4",
    last_seq: 4,
  });
  const ends = service.ports.appended
    .filter(({ topic }) => topic.name === "message.receipt.v1")
    .flatMap(({ value }) => (value as { items: { outcome: string; itemId: string; code: string | null }[] }).items)
    .filter(({ outcome }) => outcome !== "delivered")
    .map(({ outcome, itemId, code }) => [outcome, itemId, code]);
  expect(ends).toEqual([
    ["acknowledged", handled.messageId, null],
    ["refused", refused.messageId, "bad-frame"],
  ]);
  expect(commands()).toMatchObject([{ key: `${held.id}:${senderId}`, kind: "rekey", sealed: new Uint8Array() }]);
});

test("what did not open is asked for, and what peers ask for is handed on, by commands; what there is nothing to say to is acknowledged", async () => {
  const held = await heldAgent();
  const peerId = service.bob.agentId;
  const [failed, request, due, ended] = Array.from({ length: 4 }, () => makeMessageId(Date.now(), nodeRandom)) as [
    string,
    string,
    string,
    string,
  ];
  mailbox = { ...nothing, asks: [{ senderId: peerId, messageId: failed, requestId: request }] };
  const item = (itemId: string) => ({ ownerId: held.id, peerId, itemId });
  taken = { due: [item(due)], ended: [item(ended)], afterSeq: null };
  await held.post("/messaging/open", {});
  expect(commands()).toMatchObject([
    { key: `${held.id}:${peerId}`, kind: "retry", messageId: request, aboutId: failed },
    { key: `${held.id}:${peerId}`, kind: "repair", aboutId: due },
  ]);
  const receipts = service.ports.appended.filter(({ topic }) => topic.name === "message.receipt.v1");
  expect(receipts.map(({ value }) => value)).toMatchObject([
    { recipientId: held.id, items: [{ outcome: "acknowledged", senderId: peerId, itemId: ended }] },
  ]);
});

test("a message that could not be said anew, for its size, is refused", async () => {
  const held = await heldAgent();
  // Padded without the parameter it just fits.
  const body = Buffer.alloc(CIPHERTEXT_BYTES_MAX - 7 - "text/plain".length).toString("base64url");
  const { problem } = await held.post("/messaging/messages", { messages: [plain(service.bob.agentId, { body })] });
  expect(problem).toMatchObject({ code: "too-large", field: "/messages/0/body" });
});

test("what Kafka does not take of the settling costs the caller nothing", async () => {
  const held = await heldAgent();
  mailbox = { ...nothing, rekeys: [{ peerId: service.bob.agentId, sessionId: new Uint8Array(16) }] };
  service.ports.away.add("kafka");
  expect((await held.post("/messaging/open", {})).status).toBe(200);
  const sending = await held.post("/messaging/messages", { messages: [plain(service.bob.agentId)] });
  expect(sending.problem).toMatchObject({ status: 503, code: "unavailable" });
});
