import { connect, type Socket } from "node:net";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import type { Envelope } from "../../protocol/envelope.ts";
import { makeMessageId } from "../../protocol/message-id.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import {
  addAgent,
  type InMemoryService,
  inMemoryService,
  jsonOf,
  read,
  someEnvelope,
} from "../../tests/in-memory-service.ts";
import { call, newIdentity, sendSigned, signed } from "../../tests/signing.ts";
import type { ProblemCode } from "../problem.ts";
import { BODY_BYTES_MAX } from "./body.ts";

const DAY_MS = 24 * 60 * 60 * 1000;
let service: InMemoryService;

beforeAll(async () => {
  service = await inMemoryService();
});
beforeEach(() => {
  service.ports.appended.length = 0;
  service.ports.bugs.length = 0;
});
afterAll(() => service.http.close());

async function expectRefused(path: string, body: unknown, status: number, code: ProblemCode, field: string) {
  const { problem } = await service.post(service.alice, path, body);
  expect(problem).toMatchObject({ status, code, field });
  expect(problem.detail).toBeTruthy();
  expect(problem.fix).toBeTruthy();
  expect(service.ports.appended).toEqual([]);
  expect(service.ports.bugs).toEqual([]);
  return problem;
}

const envelopeTo = (recipientId: string, changes: Partial<Envelope> = {}) =>
  someEnvelope(service.alice.agentId, recipientId, changes);

/** A good envelope's JSON with members changed, or (undefined) left out. */
function json(changes: Record<string, unknown> = {}): Record<string, unknown> {
  return { ...jsonOf(envelopeTo(service.bob.agentId)), ...changes };
}

function atTime(ms: number, changes: Partial<Envelope> = {}): Record<string, unknown> {
  return jsonOf(
    envelopeTo(service.bob.agentId, { timestamp: ms, messageId: makeMessageId(ms, nodeRandom), ...changes }),
  );
}

test.each([
  ["cut off", '{"envelopes":['],
  ["no JSON at all", "hello"],
  ["with a NUL byte between members", '{"envelopes":[]\u0000}'],
  ["with a NUL byte inside a string", '{"envelopes":["\u0000"]}'],
  ["not UTF-8", Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])],
  ["with a byte order mark", "\ufeff{}"],
  ["NaN", '{"envelopes": NaN}'],
])("a body that is %s is refused", async (_, body) => {
  await expectRefused("/messaging/send", body, 400, "malformed", "");
});

test("a body without bytes is refused", async () => {
  const request = await signed(service.alice, { method: "POST", url: `${service.http.url}/messaging/send` });
  const response = await sendSigned({
    ...request,
    headers: { ...request.headers, "content-type": "application/json" },
  });
  expect((await read(response)).problem).toMatchObject({ status: 400, code: "malformed", detail: "the body is empty" });
});

test.each([
  ["an array", [], ""],
  ["null", "null", ""],
  ["a string", '"envelopes"', ""],
  ["nested deep", `${"[".repeat(100_000)}${"]".repeat(100_000)}`, ""],
  ["without its member", {}, "/envelopes"],
  ["with an object for an array", { envelopes: {} }, "/envelopes"],
  ["with no envelopes", { envelopes: [] }, "/envelopes"],
  ["with an unknown member", { envelopes: [], more: 1 }, "/envelopes"],
  ["with __proto__", '{"envelopes":[{}],"__proto__":{"admin":true}}', "/envelopes/0/message_id"],
])("a body %s is refused, with a pointer", async (_, body, field) => {
  await expectRefused("/messaging/send", body, 400, "malformed", field);
});

test("unknown members are named, at every depth", async () => {
  const problem = await expectRefused(
    "/messaging/send",
    { envelopes: [json({ "a/b": 1 })], "x~": 2 },
    400,
    "malformed",
    "/envelopes/0/a~1b",
  );
  expect(problem.errors?.map(({ pointer }) => pointer)).toEqual(["/envelopes/0/a~1b", "/x~0"]);
});

const wrongMembers: [string, unknown, string?][] = [
  ["message_id", 17],
  ["message_id", "0198C0DE-7A11-7B2C-9D3E-4F5061728394"],
  ["message_id", "0198c0de-7a11-7b2c-9d3e-4f506172839\u0000"],
  ["message_id", "8f14e45f-ceea-467a-9575-24b1a1c1d2e3"],
  ["sender_id", "alice"],
  ["sender_id", null],
  ["recipient_id", ["x"]],
  ["recipient_id", `${"A".repeat(42)}\u0000`],
  ["recipient_id", `${"A".repeat(42)}B`],
  ["session_id", "AAAA"],
  ["session_id", "A".repeat(21) + "="],
  ["send_counter", 0],
  ["send_counter", "1"],
  ["send_counter", 1.5],
  ["send_counter", 4_294_967_296],
  ["previous_counter", -1],
  ["dh_public_key", "A".repeat(44)],
  ["nonce", ""],
  ["ciphertext", 5],
  ["ciphertext", "AA+/"],
  ["ciphertext", "AAA\u0000"],
  ["ciphertext", "A"],
  ["auth_tag", "A".repeat(21) + "B"],
  ["timestamp", 1_700_000_000_000],
  ["timestamp", "2026-02-31T00:00:00.000Z"],
  ["timestamp", "2026-02-01T00:00:00Z"],
  ["flags", 256],
  ["flags", true],
  ["initiation", ""],
  ["initiation", null],
  ["ciphertext", undefined],
];

test.each(wrongMembers)("an envelope whose %s is %j is refused", async (member, value) => {
  const problem = await expectRefused(
    "/messaging/send",
    { envelopes: [json(), json({ [member]: value })] },
    400,
    "malformed",
    `/envelopes/1/${member}`,
  );
  expect(problem.errors?.[0]).toMatchObject({ pointer: `/envelopes/1/${member}`, code: "malformed" });
});

test("101 envelopes are too many", async () => {
  const envelopes = Array.from({ length: 101 }, () => json());
  await expectRefused("/messaging/send", { envelopes }, 400, "too-many", "/envelopes");
});

test("a ciphertext of more than 65,536 bytes is too large; one of exactly as many is not", async () => {
  const large = jsonOf(envelopeTo(service.bob.agentId, { ciphertext: Buffer.alloc(65_537) }));
  await expectRefused("/messaging/send", { envelopes: [json(), large] }, 413, "too-large", "/envelopes/1/ciphertext");
  const exactly = jsonOf(envelopeTo(service.bob.agentId, { ciphertext: Buffer.alloc(65_536) }));
  expect((await service.post(service.alice, "/messaging/send", { envelopes: [exactly] })).status).toBe(202);
});

test("a body over 8 MiB is refused before it is read", async () => {
  const body = `{"envelopes":["${"A".repeat(BODY_BYTES_MAX)}"]}`;
  await expectRefused("/messaging/send", body, 413, "too-large", "");
});

test("a registration over 12 KiB is refused before it is read: anybody can send one", async () => {
  const body = { identity_key: "A".repeat(43), padding: "A".repeat(12 * 1024) };
  await expectRefused("/messaging/agents", body, 413, "too-large", "");
});

/** What the service sends on a connection until it ends. */
function untilClosed(use: (socket: Socket) => void): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(Number(new URL(service.http.url).port), "127.0.0.1", () => use(socket));
    let answer = "";
    socket.setEncoding("latin1").on("data", (data) => {
      answer += data;
    });
    // Writing on after the service has closed is what some of these tests do.
    socket.on("error", () => undefined).on("close", () => resolve(answer));
  });
}

/** A signed send as raw text up to its body, which goes on in chunks. */
async function headOfChunked(): Promise<string> {
  const { alice, http } = service;
  const { headers } = await signed(alice, { method: "POST", url: `${http.url}/messaging/send`, body: "{}" });
  const lines = Object.entries({ host: new URL(http.url).host, ...headers, "transfer-encoding": "chunked" }).map(
    ([name, value]) => `${name}: ${value}`,
  );
  return `POST /messaging/send HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`;
}

test("a body over 8 MiB that does not announce its size is answered, and cut off", async () => {
  const chunk = `100000\r\n${" ".repeat(0x100000)}\r\n`;
  const head = await headOfChunked();
  const answer = await untilClosed((socket) => socket.write(head + chunk.repeat(BODY_BYTES_MAX / 0x100000 + 1)));
  expect(answer).toMatch(/^HTTP\/1\.1 413 .*"code":"too-large"/s);
  expect(service.ports.appended).toEqual([]);
});

test("a second Signature-Input that is no ASCII is a bad signature, and no failure", async () => {
  const input = 'Signature-Input: sig=("@method");created=1;expires=2;nonce="n";keyid="k"\r\nSignature-Input: \xff';
  const head = `GET /messaging/receive HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${input}\r\nSignature: sig=:AA==:\r\n\r\n`;
  const answer = await untilClosed((socket) => socket.write(Buffer.from(head, "latin1")));
  expect(answer).toMatch(/^HTTP\/1\.1 401 .*"code":"signature-invalid"/s);
  expect(service.ports.bugs).toEqual([]);
});

test("a client that goes away in the middle of its body is no failure", async () => {
  const { counts, bugs } = service.ports;
  const before = new Map(counts);
  const head = await headOfChunked();
  await untilClosed((socket) => socket.write(`${head}5\r\n{"env\r\n`, () => setTimeout(() => socket.destroy(), 50)));
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect([counts, bugs]).toEqual([before, []]);
});

test("an envelope of another sender is refused", async () => {
  const foreign = jsonOf(someEnvelope(service.bob.agentId, service.alice.agentId));
  const problem = await expectRefused(
    "/messaging/send",
    { envelopes: [json(), foreign] },
    403,
    "sender-mismatch",
    "/envelopes/1/sender_id",
  );
  expect(problem.errors).toEqual([
    {
      pointer: "/envelopes/1/sender_id",
      code: "sender-mismatch",
      detail: expect.any(String),
      message_id: foreign["message_id"],
    },
  ]);
});

test("an envelope to nobody, or to a suspended agent, is refused", async () => {
  const suspended = newIdentity();
  addAgent(service.ports, suspended, "suspended");
  for (const recipient of [newIdentity(), suspended]) {
    const envelopes = [json(), jsonOf(envelopeTo(recipient.agentId))];
    await expectRefused("/messaging/send", { envelopes }, 404, "recipient-unknown", "/envelopes/1/recipient_id");
  }
});

test("an id that is older than 7 days, further ahead than 5 minutes, or not of the timestamp is refused", async () => {
  const now = Date.now();
  const send = (envelope: unknown, code: ProblemCode, field: string) =>
    expectRefused("/messaging/send", { envelopes: [envelope] }, 422, code, `/envelopes/0/${field}`);
  await send(atTime(now - 7 * DAY_MS - 1_000), "message-id-too-old", "message_id");
  await send(atTime(now + 5 * 60_000 + 5_000), "message-id-in-future", "message_id");
  await send(
    atTime(now, { timestamp: now + 1, messageId: makeMessageId(now, nodeRandom) }),
    "timestamp-mismatch",
    "timestamp",
  );
  for (const taken of [now - 7 * DAY_MS + 60_000, now + 4 * 60_000]) {
    expect((await service.post(service.alice, "/messaging/send", { envelopes: [atTime(taken)] })).status).toBe(202);
  }
});

test("every envelope at fault is named, in order, and none is appended", async () => {
  const envelopes = [
    jsonOf(envelopeTo(newIdentity().agentId)),
    json(),
    jsonOf(someEnvelope(service.bob.agentId, service.bob.agentId)),
    atTime(Date.now() - 8 * DAY_MS),
  ];
  const problem = await expectRefused(
    "/messaging/send",
    { envelopes },
    404,
    "recipient-unknown",
    "/envelopes/0/recipient_id",
  );
  expect(problem.errors?.map(({ pointer, code }) => [pointer, code])).toEqual([
    ["/envelopes/0/recipient_id", "recipient-unknown"],
    ["/envelopes/2/sender_id", "sender-mismatch"],
    ["/envelopes/3/message_id", "message-id-too-old"],
  ]);
  expect(problem.errors?.map(({ message_id }) => message_id)).toEqual(
    [0, 2, 3].map((n) => envelopes[n]?.["message_id"]),
  );
});

test.each([
  ["text/plain", undefined, "Content-Type"],
  ["application/json", "gzip", "Content-Encoding"],
])("a body of type %s, encoding %s, is refused", async (type, encoding, field) => {
  const headers = { "content-type": type, ...(encoding === undefined ? {} : { "content-encoding": encoding }) };
  const url = `${service.http.url}/messaging/send`;
  const { problem } = await read(
    await call(service.alice, { method: "POST", url, body: { envelopes: [json()] }, headers }),
  );
  expect(problem).toMatchObject({ status: 415, code: "unsupported-media-type", field });
  expect(service.ports.appended).toEqual([]);
});

test("a charset parameter is no other type", async () => {
  const headers = { "content-type": "application/json; charset=utf-8" };
  const url = `${service.http.url}/messaging/send`;
  const response = await call(service.alice, { method: "POST", url, body: { envelopes: [json()] }, headers });
  expect(response.status).toBe(202);
});

test.each([
  ["no items", { items: [] }, "malformed", "/items"],
  [
    "an item named twice over",
    { items: [{ seq: 1, message_id: "0198c0de-7a11-7b2c-9d3e-4f5061728394" }] },
    "malformed",
    "/items/0",
  ],
  ["an item without a name", { items: [{}] }, "malformed", "/items/0"],
  ["a seq of 0", { items: [{ seq: 0 }] }, "malformed", "/items/0/seq"],
  ["a code nobody knows", { items: [{ seq: 1, refused: "did-not-like-it" }] }, "malformed", "/items/0/refused"],
  ["1,001 items", { items: Array.from({ length: 1_001 }, (_, n) => ({ seq: n + 1 })) }, "too-many", "/items"],
] as const)("an acknowledgement with %s is refused", async (_, body, code, field) => {
  await expectRefused("/messaging/acknowledge", body, 400, code, field);
});

test.each([
  ["/messaging/receive?after=-1", "/after"],
  ["/messaging/receive?after=99999999999999999999", "/after"],
  ["/messaging/receive?after=1%00", "/after"],
  ["/messaging/receive?limit=101", "/limit"],
  ["/messaging/receive?limit=0", "/limit"],
  ["/messaging/receive?limit=ten", "/limit"],
  ["/messaging/receive?offset=1", "/offset"],
  ["/messaging/receive?limit=1&limit=2", "limit"],
  ["/messaging/messages/0198c0de-7a11-7b2c-9d3e-4f506172839", "/id"],
  ["/messaging/messages/%00", "/id"],
  ["/messaging/messages/%zz", "@path"],
  ["/messaging/messages/0198c0de-7a11-7b2c-9d3e-4f5061728394?sender=bob", "/sender"],
  ["/messaging/prekeys/bob", "/recipient"],
  [`/messaging/prekeys/${"A".repeat(43)}?x=1`, "@query"],
])("GET %s is refused", async (path, field) => {
  const { problem } = await service.get(service.alice, path);
  expect(problem).toMatchObject({ status: 400, code: "malformed", field });
});

const devicePath = "/messaging/devices/0198c0de-7a11-7b2c-9d3e-4f5061728394";
const apnsToken = "ab".repeat(32);

test.each([
  ["of no kind", { token: "t" }, 400, "malformed", "/kind"],
  ["of an unknown kind", { kind: "pager", token: "t" }, 400, "malformed", "/kind"],
  ["without a token", { kind: "fcm" }, 400, "malformed", "/token"],
  ["with an empty token", { kind: "fcm", token: "" }, 400, "malformed", "/token"],
  ["with a token that has a space", { kind: "fcm", token: "a b" }, 400, "malformed", "/token"],
  ["with a token of 4,097 characters", { kind: "fcm", token: "a".repeat(4_097) }, 400, "malformed", "/token"],
  ["with a token that would leave its path", { kind: "apns", token: "../x".repeat(16) }, 400, "malformed", "/token"],
  ["with a URL for a token", { kind: "fcm", token: "t", url: "https://a.example/" }, 400, "malformed", "/url"],
  ["without a URL", { kind: "webhook" }, 400, "malformed", "/url"],
  ["in an unknown environment", { kind: "apns", token: apnsToken, environment: "x" }, 400, "malformed", "/environment"],
  [
    "in an environment it has not",
    { kind: "fcm", token: "t", environment: "sandbox" },
    400,
    "malformed",
    "/environment",
  ],
  ["of unknown urgency", { kind: "fcm", token: "t", urgency: "very" }, 400, "malformed", "/urgency"],
  [
    "with a secret of its own",
    { kind: "webhook", url: "https://a.example/", secret: "s" },
    400,
    "malformed",
    "/secret",
  ],
  ["with a NUL byte", { kind: "webhook", url: "https://a.example/\u0000" }, 400, "malformed", "/url"],
  ["that is no URL", { kind: "webhook", url: "a.example" }, 422, "webhook-refused", "/url"],
  ["that is not https", { kind: "webhook", url: "http://a.example/" }, 422, "webhook-refused", "/url"],
  ["on another scheme", { kind: "webhook", url: "file:///etc/passwd" }, 422, "webhook-refused", "/url"],
  ["with a user", { kind: "webhook", url: "https://a:b@a.example/" }, 422, "webhook-refused", "/url"],
  ["with a fragment", { kind: "webhook", url: "https://a.example/#b" }, 422, "webhook-refused", "/url"],
  ["on a port of other services", { kind: "webhook", url: "https://a.example:25/" }, 422, "webhook-refused", "/url"],
  ["at this host", { kind: "webhook", url: "https://localhost/" }, 422, "webhook-refused", "/url"],
  ["at a public address", { kind: "webhook", url: "https://93.184.216.34/" }, 422, "webhook-refused", "/url"],
  ["at an address in one number", { kind: "webhook", url: "https://2130706433/" }, 422, "webhook-refused", "/url"],
  ["at an address in hexadecimal", { kind: "webhook", url: "https://0x7f.1/" }, 422, "webhook-refused", "/url"],
  ["at an address of IPv6", { kind: "webhook", url: "https://[::1]/" }, 422, "webhook-refused", "/url"],
] as const)("a device %s is refused", async (_, body, status, code, field) => {
  const answer = await read(await call(service.alice, { method: "PUT", url: service.http.url + devicePath, body }));
  expect(answer.problem).toMatchObject({ status, code, field });
  expect(answer.problem.detail).toBeTruthy();
  expect(service.ports.devices.size).toBe(0);
});

test.each(["PUT", "DELETE"])("%s for a device whose id is no UUID is refused", async (method) => {
  const body = method === "PUT" ? { kind: "fcm", token: "t" } : undefined;
  const url = `${service.http.url}/messaging/devices/first`;
  const { problem } = await read(await call(service.alice, { method, url, body }));
  expect(problem).toMatchObject({ status: 400, code: "malformed", field: "/id" });
});

test("a body where none belongs is refused", async () => {
  await expectRefused(`/messaging/prekeys/${service.bob.agentId}`, { a: 1 }, 400, "malformed", "");
});

test.each(["", '"', 'a"b', "x".repeat(201), "tab\tkey", '"a\\"b"'])(
  "the Idempotency-Key %j is refused",
  async (key) => {
    const { problem } = await service.get(service.alice, `/messaging/prekeys/${service.bob.agentId}`, {
      "idempotency-key": key,
    });
    expect(problem).toMatchObject({ status: 400, code: "malformed", field: "Idempotency-Key" });
  },
);

test("paths are exact, and methods are those of the document", async () => {
  for (const path of [
    "/",
    "/messaging",
    "/messaging/send/",
    "/Messaging/send",
    "/messaging//send",
    "/messaging/send/x",
  ]) {
    expect((await service.post(service.alice, path, {})).problem, path).toMatchObject({
      status: 404,
      code: "not-found",
    });
  }
  for (const [method, path, allow] of [
    ["GET", "/messaging/send", "POST"],
    ["DELETE", "/messaging/receive", "GET"],
    ["HEAD", "/messaging/receive", "GET"],
    ["PUT", `/messaging/prekeys/${service.bob.agentId}`, "GET, POST"],
    ["OPTIONS", "/messaging/agents", "POST"],
  ] as const) {
    const response = await fetch(service.http.url + path, { method });
    expect([response.status, response.headers.get("allow")], `${method} ${path}`).toEqual([405, allow]);
  }
});

test("the stream's path asks for an upgrade", async () => {
  const response = await fetch(`${service.http.url}/messaging/stream`);
  expect((await read(response)).problem).toMatchObject({ status: 426, code: "upgrade-required" });
  expect(response.headers.get("upgrade")).toBe("websocket");
});

test("what is no HTTP, or has too large headers, is answered and cut off", async () => {
  const ask = (text: string) => untilClosed((socket) => socket.write(text));
  expect(await ask("HELLO\r\n\r\n")).toMatch(/^HTTP\/1\.1 400 .*"code":"malformed"/s);
  expect(await ask("GET /healthz HTTP/1.1\r\nhost: a\u0000b\r\n\r\n")).toMatch(/^HTTP\/1\.1 400 /);
  expect(await ask(`GET /healthz HTTP/1.1\r\nhost: a\r\nx: ${"y".repeat(20_000)}\r\n\r\n`)).toMatch(/^HTTP\/1\.1 431 /);
  expect(await ask("GET http://x/healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).toMatch(
    /^HTTP\/1\.1 (400|404) /,
  );
});
