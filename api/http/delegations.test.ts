import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { CHAIN_LENGTH_MAX } from "../../protocol/delegation.ts";
import type { Identity } from "../../protocol/identity.ts";
import type { MessageEncrypted } from "../../schemas/values.ts";
import { type Changes, chainOf } from "../../tests/delegations.ts";
import {
  type Answer,
  addAgent,
  type InMemoryService,
  inMemoryService,
  jsonOf,
  read,
  someEnvelope,
} from "../../tests/in-memory-service.ts";
import { call, newIdentity } from "../../tests/signing.ts";

let service: InMemoryService;
let audience: string;
/** Delegates. */
const carol = newIdentity();

beforeAll(async () => {
  service = await inMemoryService();
  audience = new URL(service.http.url).host;
  addAgent(service.ports, carol);
});
beforeEach(() => {
  service.ports.appended.length = 0;
});
afterAll(() => service.http.close());

async function present(
  as: Identity,
  method: string,
  path: string,
  chain: string,
  { body, ...signing }: { readonly body?: unknown; readonly components?: readonly string[] } = {},
): Promise<Answer> {
  const wanted = { method, url: service.http.url + path, headers: { "sealpost-delegation": chain } };
  return read(await call(as, body === undefined ? wanted : { ...wanted, body }, signing));
}

function send(as: Identity, to: Identity, chain: string): Promise<Answer> {
  const body = { envelopes: [jsonOf(someEnvelope(as.agentId, to.agentId))] };
  return present(as, "POST", "/messaging/send", chain, { body });
}

function sentUnder(): unknown {
  return service.ports.appended.map(({ value }) => (value as MessageEncrypted).delegation);
}

const fromCarol = (changes: Changes = {}) => chainOf([carol, service.alice], audience, [changes]);

test("a message is recorded with the chain that its sender presented, from its root", async () => {
  const jtis = [randomUUID(), randomUUID()];
  const dave = newIdentity();
  addAgent(service.ports, dave);
  const chain = chainOf(
    [carol, dave, service.alice],
    audience,
    jtis.map((jti) => ({ jti })),
  );
  expect((await send(service.alice, service.bob, chain)).status).toBe(202);
  expect(sentUnder()).toEqual([
    [
      { issuerId: carol.agentId, tokenId: jtis[0] },
      { issuerId: dave.agentId, tokenId: jtis[1] },
    ],
  ]);
});

test("a message that the chain does not cover, and one without a chain, is the sender's own", async () => {
  expect((await send(service.alice, service.bob, fromCarol({ to: [carol.agentId] }))).status).toBe(202);
  expect((await send(service.alice, service.bob, fromCarol({ scope: "claim" }))).status).toBe(202);
  const envelopes = [jsonOf(someEnvelope(service.alice.agentId, service.bob.agentId))];
  expect((await service.post(service.alice, "/messaging/send", { envelopes })).status).toBe(202);
  expect(sentUnder()).toEqual([[], [], []]);
});

test.each([
  ["GET", "/messaging/receive", undefined],
  ["GET", "/messaging/devices", undefined],
  ["GET", "/messaging/events", undefined],
  ["POST", "/messaging/messages/status", { messages: [{ message_id: "0198c0de-7a11-7b2c-9d3e-4f5061728394" }] }],
])("a chain that does not hold is refused wherever it is presented: %s %s", async (method, path, body) => {
  const options = body === undefined ? {} : { body };
  expect(
    (await present(service.alice, method, path, fromCarol({ exp: 1_000, iat: 900 }), options)).problem,
  ).toMatchObject({
    ...{ status: 403, code: "delegation-refused", rule: "expired", field: "sealpost-delegation" },
    ...{ detail: "link 1 of 1: exp has passed", retryable: false },
  });
  expect((await present(service.alice, method, path, "nonsense", options)).problem).toMatchObject({
    rule: "malformed",
  });
});

test("the largest chain there can be is taken", async () => {
  const between = [newIdentity(), newIdentity(), newIdentity()];
  for (const agent of between) addAgent(service.ports, agent);
  const to = [service.bob.agentId, ...Array.from({ length: 15 }, () => newIdentity().agentId)];
  const link = () => ({ to, jti: "j".repeat(64), scope: "send claim", nbf: 1 });
  const chain = chainOf([carol, ...between, service.alice], audience, [link(), link(), link(), link()]);
  expect(chain.length).toBeGreaterThan(6_000);
  expect((await send(service.alice, service.bob, chain)).status).toBe(202);
  // As long as a chain may be at all: refused as what it is, and not for its headers.
  const padded = await send(service.alice, service.bob, "x".repeat(CHAIN_LENGTH_MAX));
  expect(padded.problem).toMatchObject({ status: 403, code: "delegation-refused", rule: "malformed" });
});

test("a chain for another service is told which one this is", async () => {
  const { problem } = await send(service.alice, service.bob, fromCarol({ aud: "other.example" }));
  expect(problem).toMatchObject({ rule: "wrong-audience", server_authority: audience });
  expect(service.ports.appended).toEqual([]);
});

test("a chain that the signature does not cover is refused: it could be somebody else's", async () => {
  const components = ["@method", "@authority", "@path", "@query"];
  const answer = await present(service.alice, "GET", "/messaging/receive", fromCarol(), { components });
  expect(answer.problem).toMatchObject({ status: 401, code: "signature-invalid", field: "sealpost-delegation" });
});

test("a chain cannot be presented by anybody but its delegate", async () => {
  expect((await send(service.bob, service.alice, fromCarol())).problem).toMatchObject({ rule: "key-mismatch" });
});

test("an issuer takes its delegation back, once, and tells it once", async () => {
  const jti = randomUUID();
  const chain = fromCarol({ jti });
  expect((await send(service.alice, service.bob, chain)).status).toBe(202);
  service.ports.appended.length = 0;
  const path = `/messaging/delegations/${jti}/revoke`;
  const revoke = async (as: Identity) => read(await call(as, { method: "POST", url: service.http.url + path }));
  // Somebody else's token of the same name.
  expect((await revoke(service.bob)).status).toBe(200);
  expect((await send(service.alice, service.bob, chain)).status).toBe(202);
  service.ports.appended.length = 0;
  const first = await revoke(carol);
  expect(first.json).toEqual({ issuer_id: carol.agentId, jti, revoked_at: expect.any(String) });
  expect((await revoke(carol)).json).toEqual(first.json);
  expect(service.ports.appended.map(({ value }) => value)).toMatchObject([
    { agentId: carol.agentId, change: "delegation-revoked", tokenId: jti },
  ]);
  service.ports.appended.length = 0;
  expect((await send(service.alice, service.bob, chain)).problem).toMatchObject({ rule: "revoked" });
  expect(service.ports.appended).toEqual([]);
});

test("a delegation is taken back without Redis, and none is presented while PostgreSQL cannot be asked", async () => {
  const jti = randomUUID();
  const url = `${service.http.url}/messaging/delegations/${jti}/revoke`;
  service.ports.away.add("redis");
  expect((await call(carol, { method: "POST", url })).status).toBe(200);
  service.ports.away.delete("redis");
  service.ports.away.add("postgres");
  expect((await send(service.alice, service.bob, fromCarol())).status).toBe(503);
  service.ports.away.delete("postgres");
});

test("a name that no token can have is not revoked", async () => {
  const url = `${service.http.url}/messaging/delegations/short/revoke`;
  expect((await read(await call(carol, { method: "POST", url }))).problem).toMatchObject({
    ...{ status: 400, code: "malformed", field: "/jti" },
  });
});

test("an agent messages itself whatever chain it presents, and lets in who speaks in its own name", async () => {
  const { alice, ports } = service;
  ports.policies.policies.set(alice.agentId, "allow-list");
  ports.policies.policies.set(carol.agentId, "allow-list");
  expect((await send(alice, alice, fromCarol())).status).toBe(202);
  expect((await send(alice, carol, fromCarol())).status).toBe(202);
  const envelopes = [jsonOf(someEnvelope(alice.agentId, carol.agentId))];
  expect((await service.post(alice, "/messaging/send", { envelopes })).problem).toMatchObject({ code: "not-allowed" });
  ports.policies.policies.clear();
});

test("a chain opens the door that its root may pass, for what it covers, and no block list", async () => {
  const { alice, bob, post, ports } = service;
  const put = async (path: string, body?: unknown) =>
    (
      await call(bob, {
        method: "PUT",
        url: `${service.http.url}/messaging/${path}`,
        ...(body === undefined ? {} : { body }),
      })
    ).status;
  expect(await put("policy", { policy: "allow-list" })).toBe(200);
  expect(await put(`policy/allow/${carol.agentId}`)).toBe(200);
  const envelopes = [jsonOf(someEnvelope(alice.agentId, bob.agentId))];
  const notListed = { code: "not-allowed", rule: "not-on-allow-list" };
  expect((await post(alice, "/messaging/send", { envelopes })).problem).toMatchObject(notListed);
  expect((await send(alice, bob, fromCarol())).status).toBe(202);
  expect((await send(alice, bob, fromCarol({ to: [carol.agentId] }))).problem).toMatchObject(notListed);
  expect((await send(alice, bob, fromCarol({ scope: "claim" }))).problem).toMatchObject(notListed);
  // Of the claim it is known that it was let in: there is nothing to claim.
  const claim = (chain: string) => present(alice, "POST", `/messaging/prekeys/${bob.agentId}`, chain);
  expect((await claim(fromCarol())).problem).toMatchObject({ code: "prekeys-unavailable" });
  expect((await claim(fromCarol({ scope: "send" }))).problem).toMatchObject(notListed);
  // A root that may not pass itself opens nothing.
  const dave = newIdentity();
  addAgent(ports, dave);
  expect((await send(alice, bob, chainOf([dave, alice], audience))).problem).toMatchObject(notListed);
  for (const blocked of [alice, carol]) {
    expect(await put(`policy/block/${blocked.agentId}`)).toBe(200);
    expect((await send(alice, bob, fromCarol())).problem).toMatchObject({ code: "not-allowed", rule: "blocked" });
    const url = `${service.http.url}/messaging/policy/block/${blocked.agentId}`;
    expect((await call(bob, { method: "DELETE", url })).status).toBe(200);
  }
  expect(await put("policy", { policy: "open" })).toBe(200);
});

test("the longest chain that there may be fits into the headers", async () => {
  const answer = await present(service.alice, "GET", "/messaging/receive", "a".repeat(CHAIN_LENGTH_MAX));
  expect(answer.problem).toMatchObject({ status: 403, code: "delegation-refused", rule: "malformed" });
});
