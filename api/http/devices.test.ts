import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { devicesMax } from "../../store/devices.ts";
import { type Answer, type InMemoryService, inMemoryService, read } from "../../tests/in-memory-service.ts";
import { call, newIdentity } from "../../tests/signing.ts";

type Identity = ReturnType<typeof newIdentity>;

let service: InMemoryService;

beforeAll(async () => {
  service = await inMemoryService();
});
afterAll(() => service.http.close());

const url = "https://agent.example.com/wake?of=alice";

async function put(as: Identity, id: string, body: unknown): Promise<Answer> {
  return read(await call(as, { method: "PUT", url: `${service.http.url}/messaging/devices/${id}`, body }));
}

async function remove(as: Identity, id: string): Promise<Answer> {
  return read(await call(as, { method: "DELETE", url: `${service.http.url}/messaging/devices/${id}` }));
}

async function list(as: Identity): Promise<Record<string, unknown>[]> {
  return (await service.get(as, "/messaging/devices")).json.devices;
}

async function newAgent(): Promise<Identity> {
  const agent = newIdentity();
  const { signing } = agent;
  await service.post(agent, "/messaging/agents", {
    identity_key: Buffer.from(signing.publicKey).toString("base64url"),
  });
  return agent;
}

test("a webhook's secret is shown by the answer that made it, once; tokens and URLs never", async () => {
  const agent = await newAgent();
  const id = randomUUID();
  const first = await put(agent, id, { kind: "webhook", url });
  expect(first.status).toBe(201);
  expect(Buffer.from(first.json.secret.replace("whsec_", ""), "base64")).toHaveLength(32);
  const again = await put(agent, id, { kind: "webhook", url });
  expect([again.status, again.json.secret]).toEqual([200, undefined]);
  const fcm = await put(agent, randomUUID(), { kind: "fcm", token: "secret-token", urgency: "urgent" });
  expect(fcm.json).toMatchObject({ kind: "fcm", urgency: "urgent", stale: false });
  const other = await put(agent, id, { kind: "webhook", url, new_secret: true });
  expect(other.json.secret).not.toBe(first.json.secret);
  const shown = JSON.stringify([again.json, fcm.json, await list(agent)]);
  for (const hidden of [url, "secret-token", first.json.secret, other.json.secret]) expect(shown).not.toContain(hidden);
});

test("an agent sees and forgets its own devices only", async () => {
  const [agent, other] = [await newAgent(), await newAgent()];
  const id = randomUUID();
  await put(agent, id, { kind: "apns", token: "ab".repeat(32) });
  expect(await list(agent)).toMatchObject([{ device_id: id, kind: "apns", environment: "production" }]);
  expect(await list(other)).toEqual([]);
  expect((await remove(other, id)).json).toEqual({ device_id: id, removed: false });
  expect((await remove(agent, id)).json).toEqual({ device_id: id, removed: true });
  expect((await remove(agent, id)).json).toEqual({ device_id: id, removed: false });
  expect(await list(agent)).toEqual([]);
});

test("an agent has ten devices at most; one that is there can be registered again", async () => {
  const agent = await newAgent();
  const ids = Array.from({ length: devicesMax }, () => randomUUID());
  for (const id of ids) expect((await put(agent, id, { kind: "fcm", token: "t" })).status).toBe(201);
  expect((await put(agent, randomUUID(), { kind: "fcm", token: "t" })).problem).toMatchObject({
    status: 409,
    code: "devices-full",
  });
  expect((await put(agent, ids[3] as string, { kind: "fcm", token: "u" })).status).toBe(200);
});

test("a device that was not registered for 30 days is stale", async () => {
  const agent = await newAgent();
  const id = randomUUID();
  await put(agent, id, { kind: "fcm", token: "t" });
  const [device] = service.ports.devices.get(agent.agentId) ?? [];
  if (device === undefined) throw new Error("the device was not stored");
  const monthAgo = Date.now() - 30 * 24 * 60 * 60 * 1000;
  service.ports.devices.set(agent.agentId, [{ ...device, refreshedAt: monthAgo - 1_000 }]);
  expect(await list(agent)).toMatchObject([{ stale: true }]);
  service.ports.devices.set(agent.agentId, [{ ...device, refreshedAt: monthAgo + 60_000 }]);
  expect(await list(agent)).toMatchObject([{ stale: false }]);
});

test("devices are registered 60 times an hour at most", async () => {
  const agent = await newAgent();
  const id = randomUUID();
  for (let n = 0; n < 60; n++) await put(agent, id, { kind: "fcm", token: `t${n}` });
  const refused = await put(agent, id, { kind: "fcm", token: "t" });
  expect(refused.problem).toMatchObject({ status: 429, code: "rate-limited" });
  expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
});

test("while Redis is away nothing is registered and nothing forgotten; devices can be seen", async () => {
  const agent = await newAgent();
  const id = randomUUID();
  await put(agent, id, { kind: "fcm", token: "t" });
  service.ports.away.add("redis");
  expect((await put(agent, randomUUID(), { kind: "fcm", token: "t" })).status).toBe(503);
  expect((await remove(agent, id)).status).toBe(503);
  expect(await list(agent)).toHaveLength(1);
  service.ports.away.delete("redis");
});

test("what the service cannot wake is refused; http is taken where the operator allows any webhook", async () => {
  const body = { kind: "webhook", url: "http://127.0.0.1:9999/wake" };
  const path = `/messaging/devices/${randomUUID()}`;
  for (const [push, status, code] of [
    [{ kinds: new Set(["fcm" as const]), anyWebhook: true }, 501, "push-unavailable"],
    [{ kinds: new Set(["webhook" as const]), anyWebhook: false }, 422, "webhook-refused"],
    [{ kinds: new Set(["webhook" as const]), anyWebhook: true }, 201, undefined],
  ] as const) {
    const { http, alice } = await inMemoryService({ push });
    const answer = await read(await call(alice, { method: "PUT", url: http.url + path, body }));
    expect([answer.status, answer.problem.code]).toEqual([status, code]);
    await http.close();
  }
});
