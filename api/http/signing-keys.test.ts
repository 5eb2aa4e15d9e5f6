import { afterAll, beforeAll, expect, test } from "vitest";
import { signingKeysMax } from "../../store/signing-keys.ts";
import { type Answer, addAgent, type InMemoryService, inMemoryService, read } from "../../tests/in-memory-service.ts";
import { certified } from "../../tests/owners.ts";
import { call, newIdentity } from "../../tests/signing.ts";

type Identity = ReturnType<typeof newIdentity>;

let service: InMemoryService;

beforeAll(async () => {
  service = await inMemoryService();
});
afterAll(() => service.http.close());

async function put(as: Identity, worker: Identity, body: unknown, keyId = worker.agentId): Promise<Answer> {
  return read(await call(as, { method: "PUT", url: `${service.http.url}/messaging/signing-keys/${keyId}`, body }));
}

async function remove(as: Identity, worker: Identity): Promise<Answer> {
  const url = `${service.http.url}/messaging/signing-keys/${worker.agentId}`;
  return read(await call(as, { method: "DELETE", url }));
}

function newAgent(): Identity {
  const agent = newIdentity();
  addAgent(service.ports, agent);
  return agent;
}

test("a certified key signs for its agent, and is that agent", async () => {
  const [agent, worker] = [newAgent(), newIdentity()];
  const before = await service.get(worker, "/messaging/receive");
  expect(before.problem).toMatchObject({ status: 401, code: "agent-unknown", field: "keyid" });
  const added = await put(agent, worker, certified(agent, worker));
  expect([added.status, added.json.key_id]).toEqual([201, worker.agentId]);
  const own = await service.get(worker, "/messaging/prekeys");
  expect([own.status, own.json.agent_id]).toEqual([200, agent.agentId]);
  const { json } = await service.get(worker, "/messaging/signing-keys");
  expect(json.keys).toMatchObject([{ key_id: worker.agentId }]);
});

test("a certified key adds another that the agent's own key has certified, and certifies none itself", async () => {
  const [agent, worker, next] = [newAgent(), newIdentity(), newIdentity()];
  await put(agent, worker, certified(agent, worker));
  const byWorker = await put(worker, next, certified(worker, next, { agentId: agent.agentId }));
  expect(byWorker.problem).toMatchObject({ status: 422, code: "signing-key-invalid", field: "/certificate" });
  expect((await put(worker, next, certified(agent, next))).status).toBe(201);
});

test("what was not certified for exactly this agent, key and time is refused", async () => {
  const [agent, other, worker, stranger] = [newAgent(), newAgent(), newIdentity(), newIdentity()];
  const good = certified(agent, worker);
  const cases: [string, Identity, unknown, string][] = [
    ["a certificate of another agent", other, good, "/certificate"],
    ["another key", agent, { ...certified(agent, stranger), public_key: good.public_key }, "/certificate"],
    ["another time", agent, { ...good, not_after: "2027-01-01T00:00:00.000Z" }, "/certificate"],
    ["another's certificate", agent, { ...good, certificate: certified(other, worker).certificate }, "/certificate"],
    ["a proof as certificate", agent, { ...good, certificate: good.proof }, "/certificate"],
    ["a proof by somebody else", agent, { ...good, proof: certified(agent, stranger).proof }, "/proof"],
    ["a proof for another agent", agent, { ...good, proof: certified(other, worker).proof }, "/proof"],
    ["a past end", agent, certified(agent, worker, { notAfter: Date.now() - 1 }), "/not_after"],
    ["too late an end", agent, certified(agent, worker, { notAfter: Date.now() + 367 * 86_400_000 }), "/not_after"],
  ];
  for (const [what, as, body, field] of cases) {
    const { problem } = await put(as, worker, body);
    expect(problem, what).toMatchObject({ status: 422, code: "signing-key-invalid", field });
  }
  const elsewhere = await put(agent, worker, good, stranger.agentId);
  expect(elsewhere.problem).toMatchObject({ code: "signing-key-invalid", field: "key_id" });
  expect((await service.get(worker, "/messaging/receive")).problem.code).toBe("agent-unknown");
});

test("nobody claims an agent's own key, or the key of another agent's worker", async () => {
  const [agent, other, worker] = [newAgent(), newAgent(), newIdentity()];
  // With the other's consent, even: an id must say whose it is.
  expect((await put(agent, other, certified(agent, other))).problem.code).toBe("signing-key-taken");
  await put(agent, worker, certified(agent, worker));
  expect((await put(other, worker, certified(other, worker))).problem.code).toBe("signing-key-taken");
  expect((await service.get(worker, "/messaging/prekeys")).json.agent_id).toBe(agent.agentId);
});

test("a key that signs with another key's id is refused", async () => {
  const [agent, worker, stranger] = [newAgent(), newIdentity(), newIdentity()];
  await put(agent, worker, certified(agent, worker));
  const url = `${service.http.url}/messaging/receive`;
  const { problem } = await read(await call(stranger, { method: "GET", url }, { keyid: worker.agentId }));
  expect(problem).toMatchObject({ status: 401, code: "signature-invalid" });
  const asAgent = await read(await call(worker, { method: "GET", url }, { keyid: agent.agentId }));
  expect(asAgent.problem).toMatchObject({ status: 401, code: "signature-invalid" });
});

test("a removed key signs nothing any more, and its certificate does not bring it back", async () => {
  const [agent, worker] = [newAgent(), newIdentity()];
  const body = certified(agent, worker);
  await put(agent, worker, body);
  expect((await remove(newAgent(), worker)).json.removed).toBe(false);
  expect((await remove(agent, worker)).json).toEqual({ key_id: worker.agentId, removed: true });
  expect((await remove(agent, worker)).json.removed).toBe(false);
  expect((await service.get(worker, "/messaging/receive")).problem).toMatchObject({
    status: 401,
    code: "signing-key-ended",
    field: "keyid",
  });
  expect((await put(agent, worker, body)).problem).toMatchObject({ status: 409, code: "signing-key-removed" });
});

test("a key of a suspended agent is suspended with it", async () => {
  const [agent, worker] = [newAgent(), newIdentity()];
  await put(agent, worker, certified(agent, worker));
  addAgent(service.ports, agent, "suspended");
  expect((await service.get(worker, "/messaging/receive")).problem.code).toBe("agent-suspended");
});

test("the keys of a server-custody agent are certified by its access key, not by the identity that the service holds", async () => {
  const [access, held, worker] = [newIdentity(), newIdentity(), newIdentity()];
  const { agentId } = held;
  const keys = { identityKey: held.signing.publicKey, accessKey: access.signing.publicKey };
  service.ports.agents.set(agentId, { agentId, custody: "server", ...keys, status: "active", createdAt: 1 });
  const asHeld = { ...access, agentId };
  const byIdentity = await put(asHeld, worker, certified(held, worker));
  expect(byIdentity.problem).toMatchObject({ code: "signing-key-invalid", field: "/certificate" });
  expect((await put(asHeld, worker, certified(access, worker, { agentId }))).status).toBe(201);
  expect((await service.get(worker, "/messaging/prekeys")).json.agent_id).toBe(agentId);
});

test("an agent has sixteen keys at most", async () => {
  const agent = newAgent();
  for (let n = 0; n < signingKeysMax; n++) {
    const worker = newIdentity();
    expect((await put(agent, worker, certified(agent, worker))).status).toBe(201);
  }
  const one = newIdentity();
  expect((await put(agent, one, certified(agent, one))).problem).toMatchObject({
    status: 409,
    code: "signing-keys-full",
  });
});

test("nonces of two keys of one agent are not confused", async () => {
  const [agent, worker, other] = [newAgent(), newIdentity(), newIdentity()];
  for (const key of [worker, other]) await put(agent, key, certified(agent, key));
  const url = `${service.http.url}/messaging/receive`;
  for (const [key, status] of [
    [worker, 200],
    [other, 200],
    [worker, 401],
  ] as const) {
    expect((await read(await call(key, { method: "GET", url }, { nonce: "one" }))).status).toBe(status);
  }
});
