import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import {
  addAgent,
  type InMemoryService,
  inMemoryService,
  jsonOf,
  read,
  someEnvelope,
} from "../../tests/in-memory-service.ts";
import { call, contentDigestOf, newIdentity, type SignedCall, sendSigned, signed } from "../../tests/signing.ts";
import type { ProblemCode } from "../problem.ts";

let service: InMemoryService;

beforeAll(async () => {
  service = await inMemoryService();
});
beforeEach(() => {
  service.ports.appended.length = 0;
});
afterAll(() => service.http.close());

const nowSeconds = () => Math.floor(Date.now() / 1000);

/** A send that would be taken. */
function goodSend(path = "/messaging/send") {
  const { alice, bob, http } = service;
  const body = { envelopes: [jsonOf(someEnvelope(alice.agentId, bob.agentId))] };
  return { method: "POST", url: http.url + path, body };
}

async function expectRefused(response: Response, status: number, code: ProblemCode, field: string) {
  const { problem, headers } = await read(response);
  expect(problem).toMatchObject({ status, code, field, type: `https://sealpost.dev/problems/${code}` });
  expect(response.status).toBe(status);
  expect(headers.get("content-type")).toBe("application/problem+json");
  expect(problem.fix).toBeTruthy();
  expect(service.ports.appended).toEqual([]);
  return problem;
}

test("a signature by another implementation is taken", async () => {
  const response = await call(service.alice, goodSend());
  expect(response.status).toBe(202);
  expect(service.ports.appended).toHaveLength(1);
});

test("a tag and components beyond the required ones do no harm", async () => {
  const components = ["@method", "@authority", "@path", "@query", "content-digest", "content-type"];
  expect((await call(service.alice, goodSend(), { components, tag: "anything" })).status).toBe(202);
});

test("a signature without the optional alg is taken", async () => {
  const parameters = ["created", "expires", "nonce", "keyid"];
  expect((await call(service.alice, goodSend(), { parameters })).status).toBe(202);
});

test("an unsigned request is refused, and told how to sign", async () => {
  const { url, body } = goodSend();
  const response = await fetch(url, {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json" },
  });
  expect(response.headers.get("accept-signature")).toContain('"@query"');
  await expectRefused(response, 401, "signature-missing", "Signature-Input");
});

test("a request signed with another key than the one of keyid is refused", async () => {
  const mallory = newIdentity();
  const response = await call(mallory, goodSend(), { keyid: service.alice.agentId });
  const problem = await expectRefused(response, 401, "signature-invalid", "Signature");
  expect(problem.server_authority).toBe(new URL(service.http.url).host);
  expect(JSON.stringify(problem)).not.toContain('"@signature-params"');
});

test("a key that nobody registered is refused", async () => {
  await expectRefused(await call(newIdentity(), goodSend()), 401, "agent-unknown", "keyid");
});

test("a suspended agent is refused", async () => {
  const carol = newIdentity();
  addAgent(service.ports, carol, "suspended");
  const { problem } = await service.post(carol, "/messaging/send", { envelopes: [] });
  expect(problem).toMatchObject({ status: 403, code: "agent-suspended" });
});

test("a request that was seen before is refused, and done once", async () => {
  const request = await signed(service.alice, goodSend());
  expect((await sendSigned(request)).status).toBe(202);
  service.ports.appended.length = 0;
  await expectRefused(await sendSigned(request), 401, "signature-replayed", "nonce");
});

test("an agent may use a nonce that another agent has used", async () => {
  const nonce = randomUUID();
  const { alice, bob, http } = service;
  const poll = { method: "GET", url: `${http.url}/messaging/receive` };
  expect((await call(alice, poll, { nonce })).status).toBe(200);
  expect((await call(bob, poll, { nonce })).status).toBe(200);
});

test("a badly signed request uses up no nonce", async () => {
  const nonce = randomUUID();
  const badly = { nonce, keyid: service.alice.agentId };
  expect((await call(newIdentity(), goodSend(), badly)).status).toBe(401);
  expect((await call(service.alice, goodSend(), { nonce })).status).toBe(202);
});

test.each([
  ["expired a minute ago", -120, -60, "signature-expired", "expires"],
  ["made in the future", 60, 120, "signature-invalid", "created"],
  ["good for more than 300 s", 0, 301, "signature-invalid", "expires"],
  ["at its end before its start", 0, -1, "signature-invalid", "expires"],
] as const)("a signature %s is refused, with the server's time", async (_, created, expires, code, field) => {
  const options = { created: nowSeconds() + created, expires: nowSeconds() + expires };
  const problem = await expectRefused(await call(service.alice, goodSend(), options), 401, code, field);
  expect(Math.abs(Date.parse(problem.server_time ?? "") - Date.now())).toBeLessThan(5_000);
});

test.each(["@method", "@authority", "@path", "@query", "content-digest"])(
  "a signature that leaves out %s is refused",
  async (left) => {
    const components = ["@method", "@authority", "@path", "@query", "content-digest"].filter((name) => name !== left);
    await expectRefused(await call(service.alice, goodSend(), { components }), 401, "signature-invalid", left);
  },
);

test.each(["created", "expires", "nonce", "keyid"])("a signature without the parameter %s is refused", async (left) => {
  const parameters = ["created", "expires", "nonce", "keyid"].filter((name) => name !== left);
  await expectRefused(await call(service.alice, goodSend(), { parameters }), 401, "signature-invalid", left);
});

test.each(["hmac-sha256", "rsa-pss-sha512", "none", "ED25519"])("the algorithm %s is refused", async (alg) => {
  await expectRefused(await call(service.alice, goodSend(), { alg }), 401, "signature-invalid", "alg");
});

test("a keyid that is no agent id, and a nonce that is too long, are refused", async () => {
  await expectRefused(await call(service.alice, goodSend(), { keyid: "alice" }), 401, "signature-invalid", "keyid");
  const nonce = "n".repeat(129);
  await expectRefused(await call(service.alice, goodSend(), { nonce }), 401, "signature-invalid", "nonce");
});

const tampered: [string, (request: SignedCall) => SignedCall, ProblemCode, string][] = [
  ["body", (request) => ({ ...request, body: Buffer.from('{"envelopes":[]}') }), "digest-mismatch", "Content-Digest"],
  [
    "body and digest",
    (request) => {
      const body = Buffer.from('{"envelopes":[]}');
      return { ...request, body, headers: { ...request.headers, "content-digest": contentDigestOf(body) } };
    },
    "signature-invalid",
    "Signature",
  ],
  ["query", (request) => ({ ...request, url: `${request.url}?after=0` }), "signature-invalid", "Signature"],
  [
    "path",
    (request) => ({ ...request, url: request.url.replace("send", "acknowledge") }),
    "signature-invalid",
    "Signature",
  ],
  [
    "nonce",
    ({ headers, ...request }) => ({
      ...request,
      headers: { ...headers, "Signature-Input": String(headers["Signature-Input"]).replace(/nonce="./, 'nonce="!') },
    }),
    "signature-invalid",
    "Signature",
  ],
];

test.each(tampered)("a request whose %s was changed on the way is refused", async (_, tamper, code, field) => {
  const request = await signed(service.alice, goodSend());
  await expectRefused(await sendSigned(tamper(request)), 401, code, field);
});

test("a request whose method was changed on the way is refused", async () => {
  const { alice, bob, http, ports } = service;
  const request = await signed(alice, { method: "GET", url: `${http.url}/messaging/prekeys/${bob.agentId}` });
  await expectRefused(await sendSigned({ ...request, method: "POST" }), 401, "signature-invalid", "Signature");
  expect(ports.counts.get("bundles_claimed")).toBeUndefined();
});

test("a request for another host is refused", async () => {
  const { url } = goodSend();
  const request = await signed(service.alice, { ...goodSend(), url: url.replace("127.0.0.1", "elsewhere.example") });
  await expectRefused(await sendSigned({ ...request, url }), 401, "signature-invalid", "Signature");
});

test("a digest that is missing, of another kind or no dictionary is refused", async () => {
  const response = await call(service.alice, goodSend(), { contentDigest: "md5=:AAAA:" });
  await expectRefused(response, 401, "digest-mismatch", "Content-Digest");
  const other = await call(service.alice, goodSend(), { contentDigest: "sha-256=nonsense;;;" });
  await expectRefused(other, 401, "digest-mismatch", "Content-Digest");
});

test("a body that was cut off entirely is refused", async () => {
  const request = await signed(service.alice, goodSend());
  await expectRefused(
    await sendSigned({ ...request, body: Buffer.alloc(0) }),
    401,
    "digest-mismatch",
    "Content-Digest",
  );
});

test.each([
  ["Signature-Input", "sig=((("],
  ["Signature-Input", 'sig=("@method" "@method");created=1'],
  ["Signature-Input", 'sig=("@method");created="yesterday"'],
  ["Signature-Input", 'sig=("@method";req "@unknown");created=1'],
  ["Signature", "sig=notbytes"],
  ["Signature", "other=:AAAA:"],
  ["Signature", "sig=:AAAA:"],
])("a malformed %s (%s) is refused", async (name, value) => {
  const request = await signed(service.alice, goodSend());
  const response = await sendSigned({ ...request, headers: { ...request.headers, [name]: value } });
  const { problem } = await read(response);
  expect(problem).toMatchObject({ status: 401, code: "signature-invalid" });
  expect(service.ports.appended).toEqual([]);
});

test("the replay memory's sign-again is passed on as retryable", async () => {
  const forgetful = await inMemoryService({ nonces: { remember: async () => "sign-again" } });
  const { problem } = await forgetful.get(forgetful.alice, "/messaging/receive");
  expect(problem).toMatchObject({ status: 401, code: "sign-again", retryable: true });
  await forgetful.http.close();
});

test("with a configured authority the Host header does not count", async () => {
  const behind = await inMemoryService({ publicAuthority: "api.example.com" });
  const request = await signed(behind.alice, { method: "GET", url: "https://api.example.com/messaging/receive" });
  const url = `${behind.http.url}/messaging/receive`;
  expect((await sendSigned({ ...request, url })).status).toBe(200);
  const direct = await call(behind.alice, { method: "GET", url });
  expect((await read(direct)).problem).toMatchObject({
    code: "signature-invalid",
    server_authority: "api.example.com",
  });
  await behind.http.close();
});
