import { afterEach, expect, test } from "vitest";
import { addAgent, type InMemoryService, inMemoryService, read } from "../../tests/in-memory-service.ts";
import { call, newIdentity, signed } from "../../tests/signing.ts";
import type { HttpDeps } from "./route.ts";

const token = "a-token-of-the-operators-0123456789";
const rotated = { outcome: "rotated", signedPrekeyId: "0198c0de-7a11-7b2c-9d3e-4f5061728394" } as const;

let service: InMemoryService;
afterEach(() => service.http.close());

async function start(answer: Awaited<ReturnType<HttpDeps["rotatePrekeys"]>>, opsToken: string | undefined = token) {
  const asked: string[] = [];
  service = await inMemoryService({
    opsToken,
    rotatePrekeys: async (agentId) => {
      asked.push(agentId);
      return answer;
    },
  });
  return asked;
}

async function rotate(headers: Record<string, string>, id = service.bob.agentId, method = "POST") {
  return read(await fetch(`${service.ops.url}/ops/agents/${id}/rotate`, { method, headers }));
}

const asOperator = { authorization: `Bearer ${token}` };

test("with the token an operator rotates the prekeys of an agent", async () => {
  const asked = await start(rotated);
  const { status, json } = await rotate(asOperator);
  expect([status, json]).toEqual([
    200,
    { agent_id: service.bob.agentId, signed_prekey_id: "0198c0de-7a11-7b2c-9d3e-4f5061728394" },
  ]);
  expect(asked).toEqual([service.bob.agentId]);
});

test.each([true, false])(
  "an agent that has its keys itself is asked, and the operator hears whether it is connected: %s",
  async (connected) => {
    await start({ outcome: "asked", connected });
    const { status, json } = await rotate(asOperator);
    expect([status, json]).toEqual([202, { agent_id: service.bob.agentId, connected }]);
  },
);

test.each([
  ["there is no such agent", null, 404, "no-such-agent"],
  ["its keys are not here", { outcome: "failed", code: "keys-unavailable" }, 409, "keys-unavailable"],
  ["its keys cannot be reached now", { outcome: "failed", code: "unavailable" }, 503, "unavailable"],
  ["a bug is in the way", { outcome: "failed", code: "internal" }, 500, "internal"],
] as const)("when %s, the answer says so", async (_, answer, status, code) => {
  await start(answer);
  expect((await rotate(asOperator)).problem).toMatchObject({ status, code });
});

test.each([
  ["no header", {}],
  ["another token", { authorization: `Bearer ${token.replace("9", "8")}` }],
  ["the beginning of the token", { authorization: `Bearer ${token.slice(0, -1)}` }],
  ["the token and more", { authorization: `Bearer ${token}0` }],
  ["another scheme", { authorization: `Basic ${token}` }],
  ["the token alone", { authorization: token }],
  ["no token", { authorization: "Bearer" }],
])("%s opens nothing, and the answer asks for a bearer", async (_, headers) => {
  const asked = await start(rotated);
  const { problem, headers: answered } = await rotate(headers as Record<string, string>);
  expect(problem).toMatchObject({ status: 401, code: "operator-unknown", field: "Authorization" });
  expect(answered.get("www-authenticate")).toBe("Bearer");
  expect(answered.get("accept-signature")).toBeNull();
  expect(asked).toEqual([]);
});

test("an agent's signature opens no call for operators", async () => {
  const asked = await start(rotated);
  const url = `${service.ops.url}/ops/agents/${service.bob.agentId}/rotate`;
  const { problem } = await read(await call(service.bob, { method: "POST", url }));
  expect(problem).toMatchObject({ status: 401, code: "operator-unknown" });
  expect(asked).toEqual([]);
});

test("the token is no agent: without a signature it opens nothing, and beside one it changes nothing", async () => {
  await start(rotated);
  const url = `${service.http.url}/messaging/receive`;
  const alone = await read(await fetch(url, { headers: asOperator }));
  expect(alone.problem).toMatchObject({ status: 401, code: "signature-missing" });
  const stranger = await signed(newIdentity(), { method: "GET", url, headers: asOperator });
  const beside = await read(await fetch(url, { headers: stranger.headers }));
  expect(beside.problem).toMatchObject({ status: 401, code: "agent-unknown" });
  const suspended = newIdentity();
  addAgent(service.ports, suspended, "suspended");
  expect((await service.get(suspended, "/messaging/receive", asOperator)).problem.code).toBe("agent-suspended");
});

test("without a token in the environment the paths are not there, whatever is sent", async () => {
  service = await inMemoryService({ opsToken: undefined });
  for (const headers of [{}, asOperator, { authorization: "Bearer undefined" }, { authorization: "Bearer " }]) {
    for (const method of ["POST", "GET", "OPTIONS"]) {
      expect((await rotate(headers as Record<string, string>, service.bob.agentId, method)).problem).toMatchObject({
        status: 404,
        code: "not-found",
      });
    }
  }
  expect((await service.get(service.bob, "/messaging/receive")).status).toBe(200);
});

test("on the agents' port there is no call for operators, and on the operators' none for agents", async () => {
  await start(rotated);
  for (const url of [
    `${service.http.url}/ops/agents/${service.bob.agentId}/rotate`,
    `${service.http.url}/ops/messages`,
  ]) {
    for (const method of ["GET", "POST"]) {
      expect((await read(await fetch(url, { method, headers: asOperator }))).problem).toMatchObject({
        code: "not-found",
      });
    }
  }
  for (const path of ["/messaging/receive", "/messaging/stream", "/metrics", "/readyz"]) {
    const answer = await read(await call(service.bob, { method: "GET", url: service.ops.url + path }));
    expect(answer.problem).toMatchObject({ status: 404, code: "not-found" });
  }
});

test("what is not an agent's id, a body and a query are refused", async () => {
  const asked = await start(rotated);
  expect((await rotate(asOperator, "bob")).problem).toMatchObject({ status: 400, code: "malformed", field: "/id" });
  const url = `${service.ops.url}/ops/agents/${service.bob.agentId}/rotate`;
  const headers = { ...asOperator, "content-type": "application/json" };
  const withBody = await read(await fetch(url, { method: "POST", headers, body: "{}" }));
  expect(withBody.problem).toMatchObject({ status: 400, code: "malformed" });
  const withQuery = await read(await fetch(`${url}?now=1`, { method: "POST", headers: asOperator }));
  expect(withQuery.problem).toMatchObject({ status: 400, code: "malformed", field: "@query" });
  expect(asked).toEqual([]);
});
