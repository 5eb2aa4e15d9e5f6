import { expect, test } from "vitest";
import { chainOf } from "../../tests/delegations.ts";
import {
  addAgent,
  type InMemoryService,
  inMemoryService,
  jsonOf,
  read,
  someEnvelope,
} from "../../tests/in-memory-service.ts";
import { call, newIdentity, type SignedCall, sendSigned, signed } from "../../tests/signing.ts";
import { openAddresses } from "../client-address.ts";
import { generousRates } from "../in-memory-rates.ts";
import { ownershipOf } from "../owners/ownership.ts";
import type { RateLimits } from "../rate-limits.ts";

/** A service of which these limits are small. */
async function serviceWith(points: Partial<Record<keyof RateLimits, number>>, trusted: string[] = []) {
  const small = Object.entries(points).map(([name, most]) => [
    name,
    { ...generousRates[name as keyof RateLimits], points: most },
  ]);
  const rateLimits = { ...generousRates, ...Object.fromEntries(small) };
  return inMemoryService({ rateLimits, addressOf: openAddresses(trusted) });
}

const receive = "/messaging/receive";

function envelopesTo({ alice }: InMemoryService, ...recipients: string[]) {
  return recipients.map((recipientId) => jsonOf(someEnvelope(alice.agentId, recipientId)));
}

test("an agent's calls are counted, told in the headers, and refused beyond its limit, and no one else's are", async () => {
  const service = await serviceWith({ calls: 3 });
  const { alice, bob, http } = service;
  for (const left of [2, 1, 0]) {
    const { status, headers } = await service.get(alice, receive);
    expect([status, headers.get("ratelimit-policy")]).toEqual([200, '"calls";q=3;w=60']);
    expect(headers.get("ratelimit")).toMatch(new RegExp(`^"calls";r=${left};t=(59|60)$`));
  }
  const { problem, headers } = await service.post(alice, "/messaging/send", { envelopes: [] });
  expect(problem).toMatchObject({ status: 429, code: "rate-limited", policy: "calls", retryable: true });
  expect(problem.detail).toBe("more than 3 calls of one caller in 60 seconds");
  expect(headers.get("ratelimit")).toMatch(/^"calls";r=0;t=\d+, "messages";r=100000;/);
  expect(headers.get("retry-after")).toBe(String(problem.retry_after));
  expect(problem.retry_after).toBeGreaterThan(50);
  expect((await service.get(bob, receive)).status).toBe(200);
  await http.close();
});

test("a chain that does not hold costs its presenter a call, and the service nothing more beyond the limit", async () => {
  const service = await serviceWith({ calls: 3 });
  const { alice, http, ports } = service;
  let looked = 0;
  Object.assign(ports, { findRevoked: async () => ++looked > 0 });
  const carol = newIdentity();
  addAgent(ports, carol);
  const headers = { "sealpost-delegation": chainOf([carol, alice], new URL(http.url).host) };
  const request = await signed(alice, { method: "GET", url: http.url + receive, headers });
  const presented = async () => (await read(await fetch(request.url, { headers: request.headers }))).problem;
  expect(await presented()).toMatchObject({ status: 403, code: "delegation-refused", rule: "revoked" });
  expect(await presented()).toMatchObject({ status: 401, code: "signature-replayed" });
  const anew = async () => (await service.get(alice, receive, headers)).problem;
  for (let n = 0; n < 2; n++) expect(await anew()).toMatchObject({ code: "delegation-refused" });
  for (let n = 0; n < 3; n++) expect(await anew()).toMatchObject({ status: 429, policy: "calls" });
  expect(looked).toBe(3);
  await http.close();
});

/** Whoever has seen a request of an agent sends it again: as it is, and with another body. */
async function sendAgain(request: SignedCall, from: Record<string, string> = {}): Promise<string[]> {
  const headers = { ...request.headers, ...from };
  const again = [request, { ...request, body: request.body && Buffer.from("{}") }];
  return Promise.all(
    again.map(async (one) => (await read(await sendSigned({ ...one, headers }))).problem.code ?? "taken"),
  );
}

test("a request that was seen before takes nothing of its agent's rate, however often it comes", async () => {
  const service = await serviceWith({ calls: 45 });
  const { alice, bob, http } = service;
  const body = { envelopes: envelopesTo(service, bob.agentId) };
  const sent = await signed(alice, { method: "POST", url: `${http.url}/messaging/send`, body });
  const costly = await signed(alice, { method: "GET", url: `${http.url}/messaging/prekeys` });
  for (const request of [sent, costly]) expect((await sendSigned(request)).status).toBeLessThan(300);
  for (let n = 0; n < 15; n++) {
    for (const request of [sent, costly])
      expect(new Set(await sendAgain(request))).toEqual(new Set(["signature-replayed"]));
  }
  expect((await service.get(alice, receive)).headers.get("ratelimit")).toContain('"calls";r=23;');
  expect(service.ports.appended).toHaveLength(1);
  await http.close();
});

test("it counts against the address that it comes from, and beyond the limit nothing is looked up for it", async () => {
  const service = await serviceWith({ unproven: 4 }, ["loopback"]);
  const { alice, http, ports } = service;
  const from = (address: string) => ({ "x-forwarded-for": address });
  const request = await signed(alice, { method: "GET", url: http.url + receive, headers: from("203.0.113.1") });
  expect((await sendSigned(request)).status).toBe(200);
  let looked = 0;
  const { findAgents } = ports;
  Object.assign(ports, { findAgents: (ids: string[]) => ++looked && findAgents(ids) });
  const elsewhere = from("203.0.113.2");
  for (let n = 0; n < 2; n++) {
    expect(await sendAgain(request, elsewhere)).toEqual(["signature-replayed", "signature-replayed"]);
  }
  expect(looked).toBe(4);
  expect(await sendAgain(request, elsewhere)).toEqual(["rate-limited", "rate-limited"]);
  expect(looked).toBe(4);
  expect((await service.get(alice, receive, from("203.0.113.1"))).status).toBe(200);
  await http.close();
});

test.each([
  { path: receive, points: 2 },
  { path: "/messaging/prekeys", points: 59 },
])("an agent beyond its rate uses up no nonces: $path", async ({ path, points }) => {
  const nonces: string[] = [];
  const remember = async (_: string, nonce: string) => {
    nonces.push(nonce);
    return "fresh" as const;
  };
  const rateLimits = { ...generousRates, calls: { ...generousRates.calls, points } };
  const service = await inMemoryService({ rateLimits, nonces: { remember } });
  const statuses: number[] = [];
  for (let n = 0; n < 4; n++) statuses.push((await service.get(service.alice, path)).status);
  expect(statuses).toEqual([200, 200, 429, 429]);
  expect(nonces).toHaveLength(2);
  await service.http.close();
});

test("a call that makes the service read all prekeys counts as twenty", async () => {
  const service = await serviceWith({ calls: 45 });
  for (const left of [25, 5]) {
    const { headers } = await service.get(service.alice, "/messaging/prekeys");
    expect(headers.get("ratelimit")).toContain(`"calls";r=${left};`);
  }
  expect((await service.get(service.alice, "/messaging/prekeys")).problem).toMatchObject({ code: "rate-limited" });
  expect((await service.get(service.alice, receive)).status).toBe(200);
  await service.http.close();
});

test("a sender's messages are counted, whoever gets them; a call is sent whole or not at all", async () => {
  const service = await serviceWith({ messages: 3 });
  const { alice, bob } = service;
  const first = await service.post(alice, "/messaging/send", {
    envelopes: envelopesTo(service, bob.agentId, bob.agentId),
  });
  expect(first.status).toBe(202);
  expect(first.headers.get("ratelimit-policy")).toBe('"calls";q=100000;w=60, "messages";q=3;w=60');
  expect(first.headers.get("ratelimit")).toMatch(/, "messages";r=1;t=\d+$/);
  const over = { envelopes: envelopesTo(service, alice.agentId, bob.agentId) };
  const { problem, headers } = await service.post(alice, "/messaging/send", over);
  expect(problem).toMatchObject({ status: 429, code: "rate-limited", policy: "messages" });
  expect(problem.errors).toBeUndefined();
  expect(headers.get("ratelimit")).toMatch(/, "messages";r=1;t=\d+$/);
  expect(service.ports.appended).toHaveLength(2);
  const rest = { envelopes: over.envelopes.slice(0, 1) };
  expect((await service.post(alice, "/messaging/send", rest)).status).toBe(202);
  await service.http.close();
});

test("messages to one recipient are counted by themselves: who waits is named, and the others may go at once", async () => {
  const service = await serviceWith({ pair: 2, messages: 10 });
  const { alice, bob } = service;
  const two = { envelopes: envelopesTo(service, bob.agentId, bob.agentId) };
  expect((await service.post(alice, "/messaging/send", two)).status).toBe(202);
  const mixed = { envelopes: envelopesTo(service, alice.agentId, bob.agentId, alice.agentId) };
  const { problem, headers } = await service.post(alice, "/messaging/send", mixed);
  expect(problem).toMatchObject({ status: 429, code: "rate-limited", policy: "pair" });
  expect(problem.errors).toEqual([
    {
      pointer: "/envelopes/1/recipient_id",
      code: "rate-limited",
      detail: "more than 2 messages of one sender to one recipient in 60 seconds",
      message_id: mixed.envelopes[1]?.["message_id"],
      recipient_id: bob.agentId,
    },
  ]);
  expect(headers.get("retry-after")).toBe(String(problem.retry_after));
  // Nothing of it was counted: eight are left of the sender's, and both of the other recipient's.
  expect(headers.get("ratelimit")).toContain('"messages";r=8;');
  const others = { envelopes: [mixed.envelopes[0], mixed.envelopes[2]] };
  expect((await service.post(alice, "/messaging/send", others)).status).toBe(202);
  await service.http.close();
});

test("a repeat is not counted as a message", async () => {
  const service = await serviceWith({ messages: 1 });
  const once = { envelopes: envelopesTo(service, service.bob.agentId) };
  for (let n = 0; n < 3; n++) expect((await service.post(service.alice, "/messaging/send", once)).status).toBe(202);
  await service.http.close();
});

test("messages that find no room do not count", async () => {
  const service = await serviceWith({ messages: 5 });
  const { alice, bob, ports } = service;
  Object.assign(ports.room, { take: async (_: string, all: readonly unknown[]) => all.map(() => "pair-full") });
  const { problem, headers } = await service.post(alice, "/messaging/send", {
    envelopes: envelopesTo(service, bob.agentId),
  });
  expect(problem).toMatchObject({ code: "pair-full" });
  expect(headers.get("ratelimit")).toContain('"messages";r=5;');
  await service.http.close();
});

test("an address that sends too many calls without a valid signature is refused, and who has proven itself there is not", async () => {
  const service = await serviceWith({ unproven: 3 });
  const { alice, bob, http } = service;
  expect((await service.get(alice, receive)).status).toBe(200);
  for (let n = 0; n < 3; n++) expect((await service.get(newIdentity(), receive)).status).toBe(401);
  for (const who of [newIdentity(), bob]) {
    const { problem, headers } = await service.get(who, receive);
    expect(problem).toMatchObject({ status: 429, code: "rate-limited", policy: "unproven" });
    expect(headers.get("retry-after")).toBe("60");
  }
  expect((await fetch(http.url + receive)).status).toBe(429);
  expect((await service.get(alice, receive)).status).toBe(200);
  expect((await fetch(`${http.url}/healthz`)).status).toBe(200);
  await http.close();
});

test("whoever claims to be a neighbour is still verified", async () => {
  const service = await serviceWith({ unproven: 1 });
  await service.get(service.alice, receive);
  const url = service.http.url + receive;
  for (let n = 0; n < 3; n++) {
    const answer = await call(newIdentity(), { method: "GET", url }, { keyid: service.alice.agentId });
    expect((await read(answer)).problem).toMatchObject({ status: 401, code: "signature-invalid" });
  }
  await service.http.close();
});

test("who only registers has not proven itself: with keys that it makes up it gets past no limit", async () => {
  const ownership = ownershipOf({ registration: "owned", issuers: [] });
  const rateLimits = { ...generousRates, unproven: { ...generousRates.unproven, points: 2 } };
  const service = await inMemoryService({ rateLimits, ownership });
  const stranger = newIdentity();
  const identity_key = Buffer.from(stranger.signing.publicKey).toString("base64url");
  const registration = await service.post(stranger, "/messaging/agents", { identity_key });
  expect(registration.problem).toMatchObject({ status: 403, code: "registration-closed" });
  for (let n = 0; n < 2; n++) expect((await service.get(stranger, receive)).status).toBe(401);
  expect((await service.get(stranger, receive)).problem).toMatchObject({ status: 429, policy: "unproven" });
  await service.http.close();
});

test("a sign-again, which is ours, counts against nobody", async () => {
  const rateLimits = { ...generousRates, unproven: { ...generousRates.unproven, points: 1 } };
  const service = await inMemoryService({ rateLimits, nonces: { remember: async () => "sign-again" } });
  for (let n = 0; n < 3; n++) {
    expect((await service.get(service.alice, receive)).problem).toMatchObject({ code: "sign-again" });
  }
  await service.http.close();
});

test("registrations of an address are counted, before their body is read", async () => {
  const service = await serviceWith({ registrations: 2 });
  const register = (who = newIdentity()) =>
    service.post(who, "/messaging/agents", { identity_key: Buffer.from(who.signing.publicKey).toString("base64url") });
  expect((await register()).status).toBe(201);
  expect((await service.post(service.alice, "/messaging/agents", "no registration")).status).toBe(400);
  const { problem, headers } = await register();
  expect(problem).toMatchObject({ status: 429, code: "rate-limited", policy: "registrations" });
  expect(headers.get("ratelimit-policy")).toBe('"registrations";q=2;w=3600');
  expect(headers.get("ratelimit")).toMatch(/^"registrations";r=0;t=3600$/);
  await service.http.close();
});

test("behind a trusted proxy each client has its own limit, and what others write into the header is not believed", async () => {
  const from = (address: string) => ({ "x-forwarded-for": address });
  const behind = await serviceWith({ unproven: 1 }, ["loopback"]);
  const status = async (service: InMemoryService, headers: Record<string, string>) =>
    (await fetch(service.http.url + receive, { headers })).status;
  expect(await status(behind, from("203.0.113.1"))).toBe(401);
  expect(await status(behind, from("203.0.113.1"))).toBe(429);
  expect(await status(behind, from("198.51.100.7, 203.0.113.1"))).toBe(429);
  expect(await status(behind, from("203.0.113.2"))).toBe(401);
  const direct = await serviceWith({ unproven: 1 });
  expect(await status(direct, from("203.0.113.1"))).toBe(401);
  expect(await status(direct, from("203.0.113.2"))).toBe(429);
  await Promise.all([behind.http.close(), direct.http.close()]);
});
