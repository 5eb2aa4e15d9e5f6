import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openSampleDatabase, sampleAgentId } from "../tests/messaging.ts";
import {
  type Device,
  type DeviceRegistration,
  devicesMax,
  findDevices,
  forgetDevice,
  listDevices,
  type MakeDeviceFact,
  moveDevice,
  putDevice,
  removeDevice,
} from "./devices.ts";
import type { Postgres } from "./postgres.ts";

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

const fact: MakeDeviceFact = ({ change, agentId, deviceId }) => {
  return {
    id: randomUUID(),
    topic: "agent.changed.v1",
    key: agentId,
    value: Buffer.from(`${change} ${deviceId}`),
    headers: {},
  };
};

async function newAgent(status = "active"): Promise<string> {
  const agentId = sampleAgentId();
  await postgres.query({
    text: `INSERT INTO messaging_agents (agent_id, identity_key, custody, status, created_at) VALUES ($1, $2, 'agent', $3, 1)`,
    values: [agentId, Buffer.alloc(32), status],
  });
  return agentId;
}

function put(agentId: string, changes: Partial<DeviceRegistration> = {}, now = 1_000) {
  const usual = { deviceId: randomUUID(), kind: "apns", address: "token", environment: "production" } as const;
  const registration = { agentId, ...usual, urgency: "background", newSecret: false, ...changes } as const;
  return putDevice(postgres, fact, registration, now);
}

async function facts(agentId: string): Promise<string[]> {
  const { rows } = await postgres.query<{ value: Buffer }>({
    text: "SELECT value FROM facts WHERE key = $1 ORDER BY counter",
    values: [agentId],
  });
  return rows.map(({ value }) => value.toString("utf8"));
}

async function only(agentId: string): Promise<Device> {
  const [device, ...others] = await findDevices(postgres, [agentId]);
  expect(others).toEqual([]);
  if (device === undefined) throw new Error("the agent has no device");
  return device;
}

test("the same registration again is fresh and no news; another one is told", async () => {
  const agentId = await newAgent();
  const { device, created } = await put(agentId);
  expect([created, device.createdAt, device.refreshedAt]).toEqual([true, 1_000, 1_000]);
  const { deviceId } = device;
  const again = await put(agentId, { deviceId }, 2_000);
  expect([again.created, again.device.createdAt, again.device.refreshedAt]).toEqual([false, 1_000, 2_000]);
  expect(await facts(agentId)).toEqual([`device-registered ${deviceId}`]);
  await put(agentId, { deviceId, address: "other" }, 3_000);
  expect(await facts(agentId)).toHaveLength(2);
  expect(await only(agentId)).toMatchObject({ address: "other", refreshedAt: 3_000, secret: null });
});

test("a webhook keeps its secret until another one is asked for, or it was something else in between", async () => {
  const agentId = await newAgent();
  const webhook = {
    deviceId: randomUUID(),
    kind: "webhook",
    environment: null,
    address: "https://a.example/",
  } as const;
  const first = (await put(agentId, webhook)).secret;
  expect(first).toMatch(/^whsec_/);
  expect((await put(agentId, { ...webhook, address: "https://b.example/" })).secret).toBeNull();
  expect((await only(agentId)).secret).toBe(first);
  const second = (await put(agentId, { ...webhook, newSecret: true })).secret;
  expect(second).not.toBe(first);
  expect((await only(agentId)).secret).toBe(second);
  await put(agentId, { ...webhook, kind: "fcm" });
  expect((await only(agentId)).secret).toBeNull();
  expect([first, second, null]).not.toContain((await put(agentId, webhook)).secret);
});

test("of registrations at the same moment no more than ten stand", async () => {
  const agentId = await newAgent();
  const outcomes = await Promise.allSettled(Array.from({ length: devicesMax + 5 }, () => put(agentId)));
  const refused = outcomes.filter((outcome) => outcome.status === "rejected");
  expect(refused.map(({ reason }) => reason.code)).toEqual(Array.from({ length: 5 }, () => "devices-full"));
  expect(await listDevices(postgres, agentId)).toHaveLength(devicesMax);
});

test("what its agent may see holds no address and no secret", async () => {
  const agentId = await newAgent();
  await put(agentId, { kind: "webhook", environment: null, address: "https://a.example/hidden" });
  const [device] = await listDevices(postgres, agentId);
  expect(Object.keys(device ?? {}).toSorted()).toEqual(
    ["createdAt", "deviceId", "environment", "kind", "refreshedAt", "urgency"].toSorted(),
  );
});

test("an agent forgets its own devices only, and that is told once", async () => {
  const [agentId, other] = [await newAgent(), await newAgent()];
  const { deviceId } = (await put(agentId)).device;
  expect(await removeDevice(postgres, fact, { agentId: other, deviceId }, 2)).toBe(false);
  expect(await removeDevice(postgres, fact, { agentId, deviceId }, 2)).toBe(true);
  expect(await removeDevice(postgres, fact, { agentId, deviceId }, 2)).toBe(false);
  expect(await facts(agentId)).toEqual([`device-registered ${deviceId}`, `device-removed ${deviceId}`]);
});

test("a device is taken away for what its provider says only if it is as it was then, and not fresher than that", async () => {
  const agentId = await newAgent();
  const { deviceId } = (await put(agentId, {}, 5_000)).device;
  const seen = await only(agentId);
  expect(await forgetDevice(postgres, fact, seen, 5_000, 9)).toBe(false);
  expect(await forgetDevice(postgres, fact, seen, 4_000, 9)).toBe(false);
  await put(agentId, { deviceId, address: "newer" }, 6_000);
  expect(await forgetDevice(postgres, fact, seen, null, 9)).toBe(false);
  await put(agentId, { deviceId }, 7_000);
  expect(await forgetDevice(postgres, fact, seen, null, 9)).toBe(false);
  expect(await forgetDevice(postgres, fact, await only(agentId), 7_001, 9)).toBe(true);
  expect(await findDevices(postgres, [agentId])).toEqual([]);
  expect((await facts(agentId)).at(-1)).toBe(`device-gone ${deviceId}`);
});

test("the environment that the provider knows the token in is kept, unless the agent has said something newer", async () => {
  const agentId = await newAgent();
  const { deviceId } = (await put(agentId)).device;
  const seen = await only(agentId);
  await moveDevice(postgres, seen, "sandbox");
  expect(await only(agentId)).toMatchObject({ environment: "sandbox", refreshedAt: 1_000 });
  await put(agentId, { deviceId, address: "newer" }, 2_000);
  await moveDevice(postgres, seen, "sandbox");
  expect(await only(agentId)).toMatchObject({ environment: "production" });
});

test("agents that are suspended have no devices to wake", async () => {
  const [active, suspended] = [await newAgent(), await newAgent()];
  for (const agentId of [active, suspended]) await put(agentId);
  await postgres.query({
    text: "UPDATE messaging_agents SET status = 'suspended' WHERE agent_id = $1",
    values: [suspended],
  });
  const found = await findDevices(postgres, [active, suspended, sampleAgentId()]);
  expect(found.map(({ agentId }) => agentId)).toEqual([active]);
});
