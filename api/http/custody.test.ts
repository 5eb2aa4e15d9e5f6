import { afterEach, beforeEach, expect, test } from "vitest";
import { encodeBase64Url } from "../../protocol/base64url.ts";
import type { Identity } from "../../protocol/identity.ts";
import { CIPHERTEXT_BYTES_MAX } from "../../protocol/limits.ts";
import { makeMessageId } from "../../protocol/message-id.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import { Refusal } from "../../protocol/refusal.ts";
import type { MessageSend } from "../../schemas/values.ts";
import type { OpenedMailbox } from "../../store/custody/open-mailbox.ts";
import {
  type Answer,
  type InMemoryService,
  inMemoryService,
  jsonOf,
  someEnvelope,
} from "../../tests/in-memory-service.ts";
import { newIdentity } from "../../tests/signing.ts";
import type { CustodyDoor } from "../operations/custody.ts";

const nothing: OpenedMailbox = {
  messages: [],
  failed: [],
  handled: [],
  refused: [],
  rekeys: [],
  cursor: 0,
  lastSeq: 0,
};

let service: InMemoryService;
let mailbox: OpenedMailbox;
let fault: Error | null;
const destroyed: string[] = [];
const published: string[] = [];

/** Seals nothing: what matters here is who may call what. */
const custody: CustodyDoor = {
  makeIdentity: () => ({ identity: newIdentity(), sealed: Uint8Array.of(1) }),
  destroy: (agentId) => destroyed.push(agentId),
  findAgentOfAccessKey: async (accessKey) => {
    const agents = [...service.ports.agents.values()];
    return agents.find((agent) => Buffer.compare(agent.accessKey ?? new Uint8Array(), accessKey) === 0) ?? null;
  },
  publishPrekeys: async (agentId) => {
    published.push(agentId);
  },
  sealContent: async () => {
    if (fault !== null) throw fault;
    return { sealed: Uint8Array.of(2), hmac: Uint8Array.of(3) };
  },
  openMailbox: async () => {
    if (fault !== null) throw fault;
    return mailbox;
  },
};

beforeEach(async () => {
  service = await inMemoryService({ custody });
  [mailbox, fault] = [nothing, null];
  published.length = 0;
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
async function heldAgent(): Promise<{ id: string; post: (path: string, body: unknown) => Promise<Answer> }> {
  const access = newIdentity();
  const { json } = await service.post(access, "/messaging/agents", registration(access));
  return { id: json.agent_id, post: (path, body) => service.post(access, path, body, { keyid: json.agent_id }) };
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
  for (const { problem } of [sending, opening]) expect(problem).toMatchObject({ status, code: problemCode });
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

test("what Kafka does not take of the settling costs the caller nothing", async () => {
  const held = await heldAgent();
  mailbox = { ...nothing, rekeys: [{ peerId: service.bob.agentId, sessionId: new Uint8Array(16) }] };
  service.ports.away.add("kafka");
  expect((await held.post("/messaging/open", {})).status).toBe(200);
  const sending = await held.post("/messaging/messages", { messages: [plain(service.bob.agentId)] });
  expect(sending.problem).toMatchObject({ status: 503, code: "unavailable" });
});
