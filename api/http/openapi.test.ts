import { afterAll, beforeAll, expect, test } from "vitest";
import { addAgent, type InMemoryService, inMemoryService } from "../../tests/in-memory-service.ts";
import { call, newIdentity } from "../../tests/signing.ts";
import { problemCodes } from "../problem.ts";
import { envelope } from "./message-schemas.ts";
import { codesOf, openApiDocument, servedRoutes, servedToOperators } from "./openapi.ts";

let service: InMemoryService;
/** For agents and probes, and for operators. */
let served: Document;
let servedOps: Document;
let text: string;

interface Document {
  readonly openapi: string;
  readonly paths: Record<string, Record<string, Operation>>;
  readonly components: { readonly schemas: Record<string, unknown> };
}

interface Operation {
  readonly operationId: string;
  readonly security: readonly Readonly<Record<string, unknown>>[];
  readonly parameters?: readonly { name: string; in: string }[];
  readonly requestBody?: { content: Record<string, { schema: { $ref: string } }> };
  readonly responses: Record<
    string,
    { description: string; content?: Record<string, { examples?: Record<string, { value: { code: string } }> }> }
  >;
}

beforeAll(async () => {
  service = await inMemoryService();
  const response = await fetch(`${service.http.url}/openapi.json`);
  expect(response.headers.get("content-type")).toBe("application/json");
  text = await response.text();
  served = JSON.parse(text);
  const headers = { authorization: `Bearer ${service.ports.opsToken}` };
  servedOps = (await (await fetch(`${service.ops.url}/openapi.json`, { headers })).json()) as Document;
});
afterAll(() => service.http.close());

const methods = ["get", "post", "put", "delete", "patch"] as const;
const documents = () => [
  { base: service.http.url, document: served },
  { base: service.ops.url, document: servedOps },
];
const operationsOf = ({ paths }: Document) =>
  Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method, operation })),
  );
const operations = () =>
  documents().flatMap(({ base, document }) => operationsOf(document).map((operation) => ({ base, ...operation })));
const allRoutes = [...servedRoutes, ...servedToOperators];

test("what is served is what is made from the routes", () => {
  expect(served.openapi).toBe("3.1.0");
  expect(served).toEqual(JSON.parse(JSON.stringify(openApiDocument(servedRoutes))));
  expect(servedOps).toEqual(JSON.parse(JSON.stringify(openApiDocument(servedToOperators))));
  expect(operations()).toHaveLength(allRoutes.length);
});

test("the calls of the design are there", () => {
  expect(
    operations()
      .map(({ path, method }) => `${method} ${path}`)
      .toSorted(),
  ).toEqual([
    "delete /messaging/contacts/{agent}",
    "delete /messaging/devices/{id}",
    "delete /messaging/policy/{list}/{agent}",
    "delete /messaging/signing-keys/{key_id}",
    "get /healthz",
    "get /messaging/contacts",
    "get /messaging/devices",
    "get /messaging/events",
    "get /messaging/ingress-key",
    "get /messaging/messages/{id}",
    "get /messaging/policy",
    "get /messaging/policy/{list}",
    "get /messaging/prekeys",
    "get /messaging/prekeys/{recipient}",
    "get /messaging/receive",
    "get /messaging/sessions",
    "get /messaging/sessions/{peer}",
    "get /messaging/signing-keys",
    "get /messaging/stream",
    "get /messaging/usage",
    "get /metrics",
    "get /openapi.json",
    "get /openapi.json",
    "get /ops/agents",
    "get /ops/agents/{id}/usage",
    "get /ops/audit/checkpoint",
    "get /ops/audit/consistency",
    "get /ops/audit/inclusion",
    "get /ops/audit/key",
    "get /ops/dead-letters",
    "get /ops/messages",
    "get /ops/usage",
    "get /owners/agents",
    "get /readyz",
    "post /messaging/acknowledge",
    "post /messaging/agents",
    "post /messaging/contacts/{agent}",
    "post /messaging/contacts/{agent}/accept",
    "post /messaging/contacts/{agent}/decline",
    "post /messaging/delegations/{jti}/revoke",
    "post /messaging/messages",
    "post /messaging/messages/status",
    "post /messaging/open",
    "post /messaging/prekeys/{recipient}",
    "post /messaging/retry-requests",
    "post /messaging/send",
    "post /messaging/sessions",
    "post /messaging/upload-prekeys",
    "post /ops/agents/{id}/resume",
    "post /ops/agents/{id}/revoke",
    "post /ops/agents/{id}/rotate",
    "post /ops/agents/{id}/suspend",
    "post /ops/audit/replays",
    "post /ops/dead-letters/replay",
    "post /ops/messages/delete",
    "post /ops/messages/retry",
    "post /owners/agents/{id}/resume",
    "post /owners/agents/{id}/revoke",
    "post /owners/agents/{id}/suspend",
    "put /messaging/devices/{id}",
    "put /messaging/policy",
    "put /messaging/policy/{list}/{agent}",
    "put /messaging/signing-keys/{key_id}",
  ]);
});

test("every documented call is served, and no other method of its path", async () => {
  for (const { base, document } of documents()) {
    for (const [path, item] of Object.entries(document.paths)) {
      for (const method of methods) {
        const url =
          base +
          path
            .replace("{id}", "0198c0de-7a11-7b2c-9d3e-4f5061728394")
            .replace("{list}", "block")
            .replace(/\{(recipient|peer|agent)\}/, service.bob.agentId);
        const response = await fetch(url, { method: method.toUpperCase() });
        await response.arrayBuffer();
        if (item[method] === undefined) expect(response.status, `${method} ${path}`).toBe(405);
        else expect([404, 405], `${method} ${path}`).not.toContain(response.status);
      }
    }
  }
});

test("a call that must be signed, or needs the operators' token, says so, and refuses who did not or has not", async () => {
  const refusals: Readonly<Record<string, string>> = {
    httpMessageSignature: "signature-missing",
    operatorToken: "operator-unknown",
    ownerToken: "owner-unknown",
  };
  let refused = 0;
  for (const { base, path, method, operation } of operations()) {
    const [scheme] = operation.security.flatMap((one) => Object.keys(one));
    if (scheme === undefined) continue;
    const headers = { "content-type": "application/json" };
    refused += 1;
    const response = await fetch(base + path, { method: method.toUpperCase(), headers });
    const { code } = (await response.json()) as { code: string };
    expect(code, `${method} ${path}`).toBe(refusals[scheme]);
    expect(Object.keys(operation.responses["401"]?.content?.["application/problem+json"]?.examples ?? {})).toContain(
      code,
    );
  }
  expect(refused).toBeGreaterThan(20);
});

test("every call of the operators' port refuses whoever has no token, another, or an agent's signature, before it looks at anything else", async () => {
  const calls = operationsOf(servedOps);
  expect(calls.length).toBeGreaterThan(6);
  for (const { path, method, operation } of calls) {
    expect(operation.security, path).toEqual([{ operatorToken: [] }]);
    const url = service.ops.url + path;
    const json = { "content-type": "application/json" };
    const bodied = method === "post" ? { body: "{" } : {};
    const answers = [
      fetch(url, { method: method.toUpperCase(), headers: json, ...bodied }),
      fetch(url, {
        ...{ method: method.toUpperCase(), ...bodied },
        headers: { ...json, authorization: "Bearer in-memory-token-of-the-operatorz" },
      }),
      call(service.bob, { method: method.toUpperCase(), url: url.replace("{id}", service.bob.agentId) }),
    ];
    for (const response of await Promise.all(answers)) {
      expect(response.status, `${method} ${path}`).toBe(401);
      expect(await response.json(), `${method} ${path}`).toMatchObject({ code: "operator-unknown" });
    }
  }
});

test("every call says what it answers and with which problems, each with an example", () => {
  for (const { operation } of operations()) {
    expect(Object.keys(operation.responses).some((status) => Number(status) < 300)).toBe(true);
    for (const [status, { description, content }] of Object.entries(operation.responses)) {
      expect(description).toBeTruthy();
      for (const [code, { value }] of Object.entries(content?.["application/problem+json"]?.examples ?? {})) {
        expect(value).toMatchObject({ code, status: Number(status) });
      }
    }
  }
});

test("the example of every body is taken by its schema", () => {
  const bodies = allRoutes.flatMap(({ request }) => request.body ?? []);
  expect(bodies.length).toBeGreaterThan(4);
  for (const body of bodies) {
    const { id, example } = body.meta() ?? {};
    if (example !== undefined) expect(body.safeParse(example), String(id)).toMatchObject({ success: true });
  }
  expect(envelope.safeParse(envelope.meta()?.example)).toMatchObject({ success: true });
});

test("operation ids and paths' parameters are complete", () => {
  const ids = operations().map(({ operation }) => operation.operationId);
  // Each port has its document.
  expect(new Set(ids).size).toBe(ids.length - 1);
  for (const { path, operation } of operations()) {
    const named = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
    const declared = (operation.parameters ?? [])
      .filter((parameter) => parameter.in === "path")
      .map(({ name }) => name);
    expect(declared).toEqual(named);
  }
});

test("every problem code can be the answer of some call", () => {
  const possible = new Set(allRoutes.flatMap((route) => [...codesOf(route)]));
  // The answer to what is no call.
  expect([...possible, "method-not-allowed"].toSorted()).toEqual(problemCodes.toSorted());
});

test("envelopes, prekeys and problems are described member by member", () => {
  const { Envelope, Problem, SignedPrekey } = served.components.schemas as Record<
    string,
    { properties: object; additionalProperties: unknown }
  >;
  expect(Object.keys(Envelope?.properties ?? {})).toEqual([
    "message_id",
    "sender_id",
    "recipient_id",
    "session_id",
    "send_counter",
    "previous_counter",
    "dh_public_key",
    "nonce",
    "ciphertext",
    "auth_tag",
    "timestamp",
    "flags",
    "initiation",
  ]);
  expect(Envelope?.additionalProperties).toBe(false);
  expect(Object.keys(SignedPrekey?.properties ?? {})).toEqual(["id", "created_at", "public_key", "signature"]);
  expect(Object.keys(Problem?.properties ?? {})).toContain("retryable");
});

test("a suspended agent's answer has the shape of a problem", async () => {
  const carol = newIdentity();
  addAgent(service.ports, carol, "suspended");
  const { json, status } = await service.get(carol, "/messaging/receive");
  expect([status, json.code]).toEqual([403, "agent-suspended"]);
});
