import { afterEach, beforeEach, expect, test } from "vitest";
import type { Identity } from "../../protocol/identity.ts";
import type { Policy, Rule } from "../../store/permissions.ts";
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
let alice: Identity;
let bob: Identity;
beforeEach(async () => {
  service = await inMemoryService();
  ({ alice, bob } = service);
});
afterEach(() => service.http.close());

async function ask(as: Identity, method: string, path: string, body?: unknown): Promise<Answer> {
  return read(await call(as, { method, url: service.http.url + path, ...(body === undefined ? {} : { body }) }));
}

const setPolicy = (as: Identity, policy: Policy) => ask(as, "PUT", "/messaging/policy", { policy });
const list = (as: Identity, onto: "allow" | "block", peer: Identity) =>
  ask(as, "PUT", `/messaging/policy/${onto}/${peer.agentId}`);
const request = (as: Identity, peer: Identity) => ask(as, "POST", `/messaging/contacts/${peer.agentId}`);
const accept = (as: Identity, peer: Identity) => ask(as, "POST", `/messaging/contacts/${peer.agentId}/accept`);
const decline = (as: Identity, peer: Identity) => ask(as, "POST", `/messaging/contacts/${peer.agentId}/decline`);
const remove = (as: Identity, peer: Identity) => ask(as, "DELETE", `/messaging/contacts/${peer.agentId}`);
const contacts = async (as: Identity, state: string) =>
  (await ask(as, "GET", `/messaging/contacts?state=${state}`)).json.contacts;

function send(as: Identity, ...to: Identity[]): Promise<Answer> {
  const envelopes = to.map(({ agentId }) => jsonOf(someEnvelope(as.agentId, agentId)));
  return ask(as, "POST", "/messaging/send", { envelopes });
}

/** The rule that a send is refused for; null when it is accepted. */
async function ruleFor(as: Identity, to: Identity): Promise<string | null> {
  const { status, problem } = await send(as, to);
  if (status === 202) return null;
  expect(problem).toMatchObject({ status: 403, code: "not-allowed", field: "/envelopes/0/recipient_id" });
  return problem.rule ?? null;
}

const laws: [law: string, given: () => Promise<unknown>, rule: Rule | null][] = [
  ["an agent that has said nothing takes messages from everybody", async () => {}, null],
  ["a blocked agent is refused", () => list(bob, "block", alice), "blocked"],
  ["contacts only: a stranger is refused", () => setPolicy(bob, "contacts"), "contacts-only"],
  [
    "contacts only: who is on the allow list is let in",
    async () => [await setPolicy(bob, "contacts"), await list(bob, "allow", alice)],
    null,
  ],
  ["allow list: who is not on it is refused", () => setPolicy(bob, "allow-list"), "not-on-allow-list"],
  [
    "allow list: who is on it is let in",
    async () => [await setPolicy(bob, "allow-list"), await list(bob, "allow", alice)],
    null,
  ],
  [
    "the block list comes before the allow list",
    async () => [await list(bob, "allow", alice), await list(bob, "block", alice)],
    "blocked",
  ],
  [
    "a contact is let in",
    async () => [await setPolicy(bob, "contacts"), await request(alice, bob), await accept(bob, alice)],
    null,
  ],
  [
    "a contact is not on the allow list",
    async () => [await setPolicy(bob, "allow-list"), await request(alice, bob), await accept(bob, alice)],
    "not-on-allow-list",
  ],
  [
    "who has only asked is no contact",
    async () => [await setPolicy(bob, "contacts"), await request(alice, bob)],
    "contacts-only",
  ],
  [
    "a blocked contact is refused",
    async () => [await request(alice, bob), await accept(bob, alice), await list(bob, "block", alice)],
    "blocked",
  ],
];

test.each(laws)("%s", async (_, given, rule) => {
  await given();
  expect(await ruleFor(alice, bob)).toBe(rule);
  // The other way nothing has changed: bob's word is about who may message bob.
  expect(await ruleFor(bob, alice)).toBeNull();
});

test("each refused envelope is named with its rule and its message, and none of the call is appended", async () => {
  const [carol, dave] = [newIdentity(), newIdentity()];
  for (const agent of [carol, dave]) addAgent(service.ports, agent);
  await setPolicy(bob, "contacts");
  await list(dave, "block", alice);
  const { status, problem } = await send(alice, carol, bob, dave);
  expect([status, problem.code, problem.rule, problem.retryable]).toEqual([403, "not-allowed", "contacts-only", false]);
  expect(problem.errors).toMatchObject([
    { pointer: "/envelopes/1/recipient_id", code: "not-allowed", rule: "contacts-only", recipient_id: bob.agentId },
    { pointer: "/envelopes/2/recipient_id", code: "not-allowed", rule: "blocked", recipient_id: dave.agentId },
  ]);
  for (const { message_id } of problem.errors ?? []) expect(message_id).toMatch(/^[0-9a-f-]{36}$/);
  expect(service.ports.appended).toEqual([]);
});

test("what was accepted is accepted again after its sender was blocked", async () => {
  const envelopes = [jsonOf(someEnvelope(alice.agentId, bob.agentId))];
  expect((await ask(alice, "POST", "/messaging/send", { envelopes })).status).toBe(202);
  await list(bob, "block", alice);
  expect((await ask(alice, "POST", "/messaging/send", { envelopes })).status).toBe(202);
  expect(service.ports.appended).toHaveLength(1);
});

test("what an agent says to itself is let through whatever it has said", async () => {
  await setPolicy(alice, "allow-list");
  expect(await ruleFor(alice, alice)).toBeNull();
  expect((await list(alice, "block", alice)).problem).toMatchObject({ code: "malformed", field: "/agent" });
});

test.each(["GET", "POST"])("no prekeys are claimed (%s) of who would refuse the messages", async (method) => {
  await setPolicy(bob, "contacts");
  const refused = await ask(alice, method, `/messaging/prekeys/${bob.agentId}`);
  expect(refused.problem).toMatchObject({
    status: 403,
    code: "not-allowed",
    rule: "contacts-only",
    field: "/recipient",
  });
  await list(bob, "allow", alice);
  const { problem } = await ask(alice, method, `/messaging/prekeys/${bob.agentId}`);
  expect(problem.code).toBe("prekeys-unavailable");
});

test("a stranger asks, sees that it waits, is accepted and is let in; so is the one that accepted", async () => {
  await setPolicy(alice, "contacts");
  await setPolicy(bob, "contacts");
  expect(await ruleFor(alice, bob)).toBe("contacts-only");
  const asked = await request(alice, bob);
  expect([asked.status, asked.json]).toMatchObject([201, { agent_id: bob.agentId, state: "requested" }]);
  expect((await request(alice, bob)).status).toBe(200);
  expect(await contacts(bob, "pending")).toMatchObject([{ agent_id: alice.agentId, state: "pending" }]);
  expect((await accept(bob, alice)).json).toMatchObject({ agent_id: alice.agentId, state: "accepted" });
  expect([await ruleFor(alice, bob), await ruleFor(bob, alice)]).toEqual([null, null]);
  expect(await contacts(alice, "accepted")).toMatchObject([{ agent_id: bob.agentId }]);
  expect((await remove(alice, bob)).json).toEqual({ agent_id: bob.agentId, removed: true });
  expect([await ruleFor(alice, bob), await ruleFor(bob, alice)]).toEqual(["contacts-only", "contacts-only"]);
});

test("two that ask each other are contacts", async () => {
  await request(alice, bob);
  const answer = await request(bob, alice);
  expect([answer.status, answer.json]).toMatchObject([201, { agent_id: alice.agentId, state: "accepted" }]);
  expect(await contacts(alice, "accepted")).toHaveLength(1);
});

test("who was declined is told so when it asks again, and the one that declined may ask itself", async () => {
  await request(alice, bob);
  expect((await decline(bob, alice)).json).toMatchObject({ state: "declined" });
  expect((await request(alice, bob)).problem).toMatchObject({ status: 403, code: "contact-declined" });
  expect((await request(bob, alice)).json).toMatchObject({ state: "requested" });
  expect((await accept(alice, bob)).json).toMatchObject({ state: "accepted" });
});

test("who is blocked is told the rule when it asks, as when it sends", async () => {
  await list(bob, "block", alice);
  expect((await request(alice, bob)).problem).toMatchObject({ status: 403, code: "not-allowed", rule: "blocked" });
  expect(await contacts(bob, "pending")).toEqual([]);
});

test("nobody accepts or declines for another, or what was not asked", async () => {
  await request(alice, bob);
  expect((await accept(alice, bob)).problem).toMatchObject({ status: 404, code: "contact-unknown" });
  expect((await decline(alice, bob)).problem).toMatchObject({ status: 404, code: "contact-unknown" });
  expect((await accept(bob, newIdentity())).problem.code).toBe("contact-unknown");
  expect((await request(alice, newIdentity())).problem).toMatchObject({ status: 404, code: "recipient-unknown" });
  expect((await request(alice, alice)).problem).toMatchObject({ status: 400, code: "malformed", field: "/agent" });
});

test("the sixty-first request in an hour is refused with the time to wait", async () => {
  for (let n = 0; n < 60; n++) {
    const peer = newIdentity();
    addAgent(service.ports, peer);
    expect((await request(alice, peer)).status).toBe(201);
  }
  const { problem, headers } = await request(alice, bob);
  expect(problem).toMatchObject({ status: 429, code: "rate-limited" });
  expect(Number(headers.get("retry-after"))).toBeGreaterThan(0);
});

test("who answers or ends contacts too often is refused with the time to wait, whether there was something or not", async () => {
  const { limits } = service.ports;
  await limits.consume({ name: "contacts", points: 2_000, seconds: 3_600 }, alice.agentId, 1_997);
  expect((await accept(alice, bob)).problem).toMatchObject({ code: "contact-unknown" });
  expect((await decline(alice, bob)).problem).toMatchObject({ code: "contact-unknown" });
  expect((await remove(alice, bob)).json).toMatchObject({ removed: false });
  for (const change of [accept, decline, remove]) {
    const { problem, headers } = await change(alice, bob);
    expect(problem).toMatchObject({ status: 429, code: "rate-limited" });
    expect(Number(headers.get("retry-after"))).toBeGreaterThan(0);
  }
  expect((await remove(bob, alice)).status).toBe(200);
});

test("an agent reads back its policy and its lists, page by page, and nobody else's", async () => {
  expect((await ask(alice, "GET", "/messaging/policy")).json).toEqual({ policy: "open", allowed: 0, blocked: 0 });
  expect((await setPolicy(alice, "contacts")).json).toEqual({ policy: "contacts", allowed: 0, blocked: 0 });
  const peers = Array.from({ length: 1_001 }, () => newIdentity().agentId).toSorted();
  for (const peer of peers) service.ports.policies.listed.add(`${alice.agentId} block ${peer}`);
  const first = await ask(alice, "GET", "/messaging/policy/block");
  expect([first.json.agents, first.json.cursor]).toEqual([peers.slice(0, 1_000), peers[999]]);
  const second = await ask(alice, "GET", `/messaging/policy/block?after=${first.json.cursor}`);
  expect(second.json).toEqual({ agents: peers.slice(1_000) });
  const path = `/messaging/policy/block/${peers[1_000]}`;
  expect((await ask(alice, "PUT", path)).json).toEqual({ agent_id: peers[1_000], added: false });
  expect((await ask(alice, "DELETE", path)).json).toEqual({ agent_id: peers[1_000], removed: true });
  expect((await ask(alice, "DELETE", path)).json).toMatchObject({ removed: false });
  expect((await ask(alice, "GET", "/messaging/policy")).json).toMatchObject({ allowed: 0, blocked: 1_000 });
  expect((await ask(bob, "GET", "/messaging/policy/block")).json).toEqual({ agents: [] });
});

const malformed: [method: string, path: string, body: unknown, field: string][] = [
  ["PUT", "/messaging/policy", { policy: "closed" }, "/policy"],
  ["PUT", "/messaging/policy", {}, "/policy"],
  ["PUT", `/messaging/policy/deny/${newIdentity().agentId}`, undefined, "/list"],
  ["PUT", "/messaging/policy/block/bob", undefined, "/agent"],
  ["POST", "/messaging/contacts/bob", undefined, "/agent"],
  ["GET", "/messaging/contacts?state=waiting", undefined, "/state"],
  ["GET", "/messaging/policy/allow?after=x", undefined, "/after"],
];

test.each(malformed)("%s %s %j is refused and names %s", async (method, path, body, field) => {
  expect((await ask(alice, method, path, body)).problem).toMatchObject({ status: 400, code: "malformed", field });
});

test("while Redis is away nothing is changed, and everything can be read; while PostgreSQL is away nobody is let in unasked", async () => {
  service.ports.away.add("redis");
  for (const { status } of [
    await setPolicy(bob, "contacts"),
    await request(alice, bob),
    await list(bob, "block", alice),
  ])
    expect(status).toBe(503);
  expect((await ask(alice, "GET", "/messaging/policy")).status).toBe(200);
  expect(await ruleFor(alice, bob)).toBeNull();
  service.ports.away.add("postgres");
  expect((await send(alice, bob)).problem).toMatchObject({ status: 503, code: "unavailable" });
});
