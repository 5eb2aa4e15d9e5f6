import { request } from "node:http";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Answer, type InMemoryService, inMemoryService, read } from "../../tests/in-memory-service.ts";
import { type OwnerForTests, ownerForTests } from "../../tests/owners.ts";
import { newIdentity } from "../../tests/signing.ts";
import { generousRates } from "../in-memory-rates.ts";
import { givenKeys } from "../owners/issuer-keys.ts";
import { ownershipOf } from "../owners/ownership.ts";
import { statementIssuer } from "../owners/statements.ts";
import { BodiesHeld } from "./bodies-held.ts";

type Identity = ReturnType<typeof newIdentity>;

const audience = "https://sealpost.example";

let service: InMemoryService;
let acme: OwnerForTests;

beforeAll(async () => {
  acme = await ownerForTests("https://acme.example", audience);
  const issuers = [statementIssuer(acme.issuer, audience, givenKeys(acme.jwks))];
  service = await inMemoryService({ ownership: ownershipOf({ registration: "owned", issuers }) });
});
afterAll(() => service.http.close());

function register(agent: Identity, statement?: string): Promise<Answer> {
  return service.post(agent, "/messaging/agents", {
    identity_key: Buffer.from(agent.signing.publicKey).toString("base64url"),
    ...(statement === undefined ? {} : { owner_statement: statement }),
  });
}

async function owned(subject: string): Promise<Identity> {
  const agent = newIdentity();
  expect((await register(agent, await acme.register(subject, agent.agentId))).status).toBe(201);
  return agent;
}

async function asOwner(subject: string, method: string, path: string, body?: unknown): Promise<Answer> {
  return sent(service.http.url + path, await acme.manage(subject), method, body);
}

async function sent(url: string, token: string, method: string, body?: unknown): Promise<Answer> {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  return read(await fetch(url, { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) }));
}

const asOperator = (method: string, path: string, body?: unknown) =>
  sent(service.ops.url + path, "in-memory-token-of-the-operators", method, body);

const because = { reason: "because" };

test("an agent registers with its owner's statement, and again with another one of the same owner", async () => {
  const agent = newIdentity();
  const first = await register(agent, await acme.register("team-1", agent.agentId));
  expect([first.status, first.json.owner]).toEqual([201, { issuer: acme.issuer, subject: "team-1" }]);
  const again = await register(agent, await acme.register("team-1", agent.agentId, 60));
  expect([again.status, again.json.created_at]).toEqual([200, first.json.created_at]);
});

test("another owner of an agent that exists is refused, and changes nothing", async () => {
  const agent = await owned("team-1");
  const { problem } = await register(agent, await acme.register("team-2", agent.agentId));
  expect(problem).toMatchObject({ status: 409, code: "owner-mismatch" });
  expect(service.ports.owned.owners.get(agent.agentId)?.subject).toBe("team-1");
});

test("without a statement, or with one for another key, nobody registers, and nobody uploads prekeys", async () => {
  const agent = newIdentity();
  expect((await register(agent)).problem).toMatchObject({ status: 403, code: "owner-statement-missing" });
  const stolen = await acme.register("team-1", service.alice.agentId);
  expect((await register(agent, stolen)).problem).toMatchObject({
    status: 403,
    code: "owner-statement-invalid",
    field: "/owner_statement",
    detail: "cnf.jkt is not the thumbprint of the key that registers",
  });
  expect(service.ports.agents.has(agent.agentId)).toBe(false);
  const upload = await service.post(agent, "/messaging/upload-prekeys", { one_time_prekeys: [] });
  expect(upload.problem).toMatchObject({ status: 401, code: "agent-unknown" });
});

test("an agent without an owner gets the first that is proven", async () => {
  const { alice } = service;
  const { status } = await register(alice, await acme.register("team-1", alice.agentId));
  expect(status).toBe(200);
  expect(service.ports.owned.owners.get(alice.agentId)).toEqual({ issuer: acme.issuer, subject: "team-1" });
});

test("the fact of a registration names who answers for the agent", async () => {
  const agent = await owned("team-3");
  const fact = service.ports.appended.find(({ key }) => key === agent.agentId);
  expect(fact?.value).toMatchObject({ change: "registered", actor: "owner:https://acme.example#team-3" });
});

test("an owner sees its own agents, page by page, and nobody else's", async () => {
  const mine = [await owned("team-4"), await owned("team-4"), await owned("team-4")]
    .map(({ agentId }) => agentId)
    .sort();
  await owned("team-5");
  const first = await asOwner("team-4", "GET", "/owners/agents?limit=2");
  expect(first.json.agents.map(({ agent_id: id }: { agent_id: string }) => id)).toEqual(mine.slice(0, 2));
  const second = await asOwner("team-4", "GET", `/owners/agents?limit=2&after=${first.json.cursor}`);
  expect(second.json).toMatchObject({ agents: [{ agent_id: mine[2], custody: "agent", status: "active" }] });
  expect(second.json.cursor).toBeUndefined();
});

test("an owner suspends, resumes and revokes its agent; revoked is final", async () => {
  const { agentId, ...agent } = await owned("team-6");
  const call = (verb: string) => asOwner("team-6", "POST", `/owners/agents/${agentId}/${verb}`, because);
  expect((await call("suspend")).json.status).toBe("suspended");
  expect((await call("suspend")).json.status).toBe("suspended");
  expect((await service.get({ agentId, ...agent }, "/messaging/receive")).problem.code).toBe("agent-suspended");
  expect((await call("resume")).json.status).toBe("active");
  expect((await service.get({ agentId, ...agent }, "/messaging/receive")).status).toBe(200);
  expect((await call("revoke")).json.status).toBe("revoked");
  expect((await call("revoke")).status).toBe(200);
  for (const verb of ["resume", "suspend"]) {
    expect((await call(verb)).problem).toMatchObject({ status: 409, code: "agent-revoked" });
  }
  const actor = "owner:https://acme.example#team-6";
  const decided = service.ports.owned.decisions.filter((decision) => decision.agentId === agentId);
  expect(decided).toEqual(["suspended", "active", "revoked"].map((to) => ({ agentId, to, actor, reason: "because" })));
});

test("another owner's agent, one without an owner and one that is not there are the same to an owner", async () => {
  const other = await owned("team-7");
  const answers = [];
  for (const id of [other.agentId, service.bob.agentId, newIdentity().agentId]) {
    for (const verb of ["suspend", "resume", "revoke"]) {
      const { status, problem } = await asOwner("team-8", "POST", `/owners/agents/${id}/${verb}`, because);
      answers.push(JSON.stringify([status, problem]));
    }
  }
  expect(new Set(answers).size).toBe(1);
  expect(answers[0]).toContain("no-such-agent");
  expect(service.ports.agents.get(other.agentId)?.status).toBe("active");
});

test("a statement for a registration, an agent's signature and the operators' token open no owner's call", async () => {
  const agent = await owned("team-9");
  const tokens = [await acme.register("team-9", agent.agentId), "in-memory-token-of-the-operators"];
  for (const token of tokens) {
    const { problem, headers } = await sent(`${service.http.url}/owners/agents`, token, "GET");
    expect(problem).toMatchObject({ status: 401, code: "owner-unknown", field: "Authorization" });
    expect(headers.get("www-authenticate")).toBe("Bearer");
  }
  expect((await service.get(agent, "/owners/agents")).problem.code).toBe("owner-unknown");
});

test("an owner's token opens nothing of an agent's, nor of operators'", async () => {
  const token = await acme.manage("team-1");
  expect((await sent(`${service.http.url}/messaging/receive`, token, "GET")).problem.code).toBe("signature-missing");
  expect((await sent(`${service.ops.url}/ops/agents`, token, "GET")).problem.code).toBe("operator-unknown");
  expect((await sent(`${service.ops.url}/owners/agents`, token, "GET")).status).toBe(404);
});

test("an operator sees all agents, or an owner's, and decides about any", async () => {
  const { agentId } = await owned("team-10");
  const path = `/ops/agents?owner_issuer=${encodeURIComponent(acme.issuer)}&owner_subject=team-10`;
  const { agents } = (await asOperator("GET", path)).json;
  expect(agents).toMatchObject([{ agent_id: agentId, owner: { subject: "team-10" } }]);
  expect((await asOperator("GET", "/ops/agents?owner_subject=team-10")).problem).toMatchObject({
    status: 400,
    field: "/owner_issuer",
  });
  expect((await asOperator("POST", `/ops/agents/${agentId}/revoke`, because)).json.status).toBe("revoked");
  const revoked = (await asOperator("GET", "/ops/agents?status=revoked")).json.agents;
  expect(revoked.map(({ agent_id: id }: { agent_id: string }) => id)).toContain(agentId);
  expect(service.ports.owned.decisions.at(-1)).toMatchObject({ agentId, actor: "operator", reason: "because" });
  const stranger = newIdentity().agentId;
  expect((await asOperator("POST", `/ops/agents/${stranger}/suspend`, because)).problem.code).toBe("no-such-agent");
});

test("a decision needs a reason of one printable line", async () => {
  const { agentId } = await owned("team-11");
  for (const body of [{}, { reason: "" }, { reason: "a\nb" }, { reason: "a".repeat(201) }]) {
    const { problem } = await asOwner("team-11", "POST", `/owners/agents/${agentId}/suspend`, body);
    expect(problem).toMatchObject({ status: 400, code: "malformed", field: "/reason" });
  }
});

test("whatever is sent from an owner's address, it can still suspend, and who has proven itself there whatever else owners send", async () => {
  const rateLimits = { ...generousRates, unproven: { ...generousRates.unproven, points: 2 } };
  const { http } = await inMemoryService({ rateLimits, ownership: service.ports.ownership });
  const list = async (token: string) => (await sent(`${http.url}/owners/agents`, token, "GET")).status;
  const statuses = async (times: number, ask: () => Promise<number>) => {
    const found: number[] = [];
    for (let n = 0; n < times; n++) found.push(await ask());
    return found;
  };
  const unsigned = async () => (await fetch(`${http.url}/messaging/receive`)).status;
  expect(await statuses(3, unsigned)).toEqual([401, 401, 429]);
  expect(await list(await acme.manage("team-1"))).toBe(200);
  expect(await statuses(3, () => list("nonsense"))).toEqual([401, 401, 429]);
  expect(await list(await acme.manage("team-1"))).toBe(200);
  expect(await list(await acme.manage("team-2"))).toBe(429);
  // Claiming to be a neighbour is not enough.
  const forged = await (await ownerForTests(acme.issuer, audience)).manage("team-1");
  expect(await list(forged)).toBe(401);
  await http.close();
});

test("an owner's calls are counted and limited for themselves, and its bodies are small", async () => {
  const rateLimits = { ...generousRates, calls: { ...generousRates.calls, points: 2 } };
  const { http } = await inMemoryService({ rateLimits, ownership: service.ports.ownership });
  const list = async (subject: string) => sent(`${http.url}/owners/agents`, await acme.manage(subject), "GET");
  expect((await list("team-1")).headers.get("ratelimit")).toMatch(/^"calls";r=1;/);
  const agent = newIdentity().agentId;
  const large = { reason: "r".repeat(4 * 1024) };
  const answer = await sent(`${http.url}/owners/agents/${agent}/suspend`, await acme.manage("team-1"), "POST", large);
  expect(answer.problem).toMatchObject({ status: 413, code: "too-large" });
  expect((await list("team-1")).problem).toMatchObject({ status: 429, code: "rate-limited", policy: "calls" });
  expect((await list("team-2")).status).toBe(200);
  await http.close();
});

test("the bodies of one owner's calls leave room for another's", async () => {
  const bodies = new BodiesHeld({ bytesMax: 1_000, bytesOfOneMax: 100 });
  const { http } = await inMemoryService({ bodies, ownership: service.ports.ownership });
  const path = `/owners/agents/${newIdentity().agentId}/suspend`;
  const unfinished = request(http.url + path, {
    method: "POST",
    headers: { authorization: `Bearer ${await acme.manage("team-1")}`, "content-type": "application/json" },
  });
  unfinished.write(" ".repeat(90));
  await expect.poll(() => bodies.bytes).toBe(90);
  const suspend = async (subject: string) => sent(http.url + path, await acme.manage(subject), "POST", because);
  expect((await suspend("team-1")).problem).toMatchObject({ status: 503 });
  expect((await suspend("team-2")).problem).toMatchObject({ status: 404, code: "no-such-agent" });
  unfinished.on("error", () => undefined).destroy();
  await http.close();
});
