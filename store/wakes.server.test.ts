import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { sampleAgentId } from "../tests/messaging.ts";
import { uniqueName, useStack } from "../tests/stack.ts";
import type { Device, DeviceKind } from "./devices.ts";
import { openRedis, type RedisDoor, redisReady } from "./redis.ts";
import { budgets, claimMs, openWakes, type WakesDoor, wakeMs } from "./wakes.ts";

let redis: RedisDoor;
let wakes: WakesDoor;
beforeAll(async () => {
  redis = openRedis(useStack().redisUrl, { prefix: uniqueName("wakes") });
  await redisReady(redis, 5_000);
  wakes = openWakes(redis);
});
afterAll(() => redis.close());

function device(kind: DeviceKind, changes: Partial<Device> = {}): Device {
  const base = { agentId: sampleAgentId(), deviceId: randomUUID(), kind, address: randomUUID() } as const;
  return { ...base, environment: null, urgency: "background", secret: null, createdAt: 1, refreshedAt: 1, ...changes };
}

const claimOne = async (one: Device, wakeId: string) => (await wakes.claim([{ wakeId, device: one }]))[0];

test("one wake of a device is outstanding until its agent comes; then the next one begins", async () => {
  const one = device("fcm");
  expect(await claimOne(one, "first")).toBe("begun");
  expect(await claimOne(one, "second")).toBe("outstanding");
  await wakes.end([one.agentId]);
  expect(await claimOne(one, "second")).toBe("begun");
  expect(await claimOne(device("fcm", { agentId: one.agentId }), "second")).toBe("begun");
});

test("a wake that is begun again is told apart from one that was sent, and from another one", async () => {
  const one = device("fcm");
  const wake = { wakeId: "first", device: one };
  expect(await claimOne(one, "first")).toBe("begun");
  expect(await claimOne(one, "first")).toBe("again");
  await wakes.sent([wake]);
  expect(await claimOne(one, "first")).toBe("done");
  expect(await claimOne(one, "second")).toBe("outstanding");
});

test("what is said late of a wake changes nothing of the one after it", async () => {
  const one = device("fcm");
  await claimOne(one, "first");
  await wakes.end([one.agentId]);
  await claimOne(one, "second");
  await wakes.sent([{ wakeId: "first", device: one }]);
  await wakes.release([{ wakeId: "first", device: one }]);
  expect(await claimOne(one, "second")).toBe("again");
});

test("a wake that will not be sent leaves room for another", async () => {
  const one = device("fcm");
  await claimOne(one, "first");
  await wakes.release([{ wakeId: "first", device: one }]);
  expect(await claimOne(one, "second")).toBe("begun");
});

/** As if so much time had passed. */
async function passes(one: Device, ms: number): Promise<void> {
  const key = redis.key(`wake:${one.agentId}`);
  const [over, ...rest] = String(await redis.ask((client) => client.hget(key, one.deviceId))).split(" ");
  await redis.ask((client) => client.hset(key, one.deviceId, [Number(over) - ms, ...rest].join(" ")));
}

test("a wake that is claimed and was not sent is another's after three minutes; one that was sent, after an hour", async () => {
  const one = device("fcm");
  await claimOne(one, "first");
  await passes(one, claimMs - 10_000);
  expect(await claimOne(one, "second")).toBe("outstanding");
  expect(await claimOne(one, "first")).toBe("again");
  await passes(one, claimMs - 10_000);
  expect(await claimOne(one, "second")).toBe("outstanding");
  await passes(one, 10_000);
  expect(await claimOne(one, "second")).toBe("begun");
  expect(await claimOne(one, "first")).toBe("outstanding");
  await wakes.sent([{ wakeId: "second", device: one }]);
  await passes(one, wakeMs - 10_000);
  expect(await claimOne(one, "third")).toBe("outstanding");
  await passes(one, 10_000);
  expect(await claimOne(one, "third")).toBe("begun");
});

test("a wake whose device rests is nobody else's until its attempt after that, and costs once, when it is made", async () => {
  const restMs = 20 * 60 * 1000;
  const [one, other] = [device("apns"), device("apns")];
  // One learns of it by its own call, the other finds it.
  for (const each of [one, other]) {
    if (each === one) await claimOne(each, "first");
    await wakes.rest([{ wakeId: each === one ? "first" : "none", device: each, ms: restMs }]);
    if (each === other) expect(await claimOne(each, "first")).toEqual({ restsMs: expect.any(Number) });
    await passes(each, restMs * 1.25 + claimMs - 10_000);
    expect(await claimOne(each, "second")).toBe("outstanding");
    await wakes.rest([{ wakeId: "none", device: each, ms: 1 }]);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await claimOne(each, "first")).toBe(each === one ? "again" : "begun");
    for (let n = 1; n <= budgets.apns.burst; n++) {
      await wakes.end([each.agentId]);
      expect(await claimOne(each, `later-${n}`)).toBe(n === budgets.apns.burst ? "spent" : "begun");
    }
  }
});

test("a wake that rested and finds the budget spent is not outstanding", async () => {
  const one = device("apns");
  await wakes.rest([{ wakeId: "none", device: one, ms: 60_000 }]);
  await claimOne(one, "first");
  await wakes.rest([{ wakeId: "none", device: one, ms: 1 }]);
  const sharing = device("apns", { address: one.address });
  await new Promise((resolve) => setTimeout(resolve, 20));
  for (let n = 0; n < budgets.apns.burst; n++) {
    await wakes.end([sharing.agentId]);
    expect(await claimOne(sharing, `other-${n}`)).toBe("begun");
  }
  expect(await claimOne(one, "first")).toBe("spent");
  expect(await claimOne(one, "second")).toBe("spent");
});

test("an outstanding wake is over after an hour", async () => {
  const one = device("fcm");
  const key = redis.key(`wake:${one.agentId}`);
  await claimOne(one, "first");
  const ttl = await redis.ask((client) => client.pttl(key));
  expect(ttl).toBeGreaterThan(wakeMs - 60_000);
  expect(ttl).toBeLessThanOrEqual(wakeMs);
  await redis.ask((client) => client.hset(key, one.deviceId, `${Date.now() - 1} first sent`));
  expect(await claimOne(one, "second")).toBe("begun");
});

test("a device whose provider wants it left alone is woken by nobody before, also when its agent has come and gone", async () => {
  const address = randomUUID();
  const [one, shared, apart] = [device("fcm", { address }), device("fcm", { address }), device("fcm")];
  await claimOne(one, "first");
  await wakes.rest([{ wakeId: "first", device: one, ms: 60_000.5 }]);
  const resting = { restsMs: expect.any(Number) };
  expect(await claimOne(one, "first")).toEqual(resting);
  await wakes.end([one.agentId]);
  expect(await claimOne(one, "second")).toEqual(resting);
  expect(await claimOne(shared, "third")).toEqual(resting);
  expect(await claimOne(apart, "third")).toBe("begun");
  await wakes.rest([{ wakeId: "none", device: one, ms: 1 }]);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(await claimOne(one, "second")).toBe("begun");
});

test.each(["apns", "fcm", "webhook"] as const)(
  "the budget of %s holds, whoever wakes, and fills again",
  async (kind) => {
    const { burst, refillMs } = budgets[kind];
    const address = randomUUID();
    const answers: unknown[] = [];
    // Two agents that share the address.
    const both = [device(kind, { address }), device(kind, { address })];
    for (let n = 0; n < burst + 2; n++) {
      const one = both[n % 2] as Device;
      await wakes.end([one.agentId]);
      answers.push(await claimOne(one, `wake-${n}`));
    }
    expect(answers).toEqual([...Array.from({ length: burst }, () => "begun"), "spent", "spent"]);
    const keys = await redis.ask((client) => client.keys(`${redis.key("push-budget:")}*`));
    expect(keys.join()).not.toContain(address);
    for (const key of keys) await redis.ask((client) => client.hset(key, "at", Date.now() - refillMs));
    const [one] = both as [Device, Device];
    await wakes.end([one.agentId]);
    expect(await claimOne(one, "later")).toBe("begun");
    await wakes.end([one.agentId]);
    expect(await claimOne(one, "too soon")).toBe("spent");
  },
);

test("a wake that is begun again costs nothing", async () => {
  const one = device("apns");
  for (let n = 0; n < budgets.apns.burst + 3; n++)
    expect(await claimOne(one, "first")).toBe(n === 0 ? "begun" : "again");
  await wakes.end([one.agentId]);
  expect(await claimOne(one, "second")).toBe("begun");
});

test("without its memory a device is woken once more; without Redis nobody knows", async () => {
  const one = device("fcm");
  await claimOne(one, "first");
  await redis.ask((client) => client.del(redis.key(`wake:${one.agentId}`)));
  expect(await claimOne(one, "first")).toBe("begun");
  const away = openRedis("redis://127.0.0.1:1");
  const lost = openWakes(away);
  await expect(lost.claim([{ wakeId: "w", device: one }])).rejects.toMatchObject({ door: "redis" });
  await expect(lost.end([one.agentId])).rejects.toMatchObject({ door: "redis" });
  away.close();
});
