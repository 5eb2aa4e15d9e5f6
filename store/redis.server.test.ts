import { randomBytes } from "node:crypto";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { sampleAgentId, sampleItemId } from "../tests/messaging.ts";
import type { ServerProxy } from "../tests/redis-proxy.ts";
import { useRedisStage } from "../tests/redis-stage.ts";
import { until } from "../tests/runner-stage.ts";
import { useStack } from "../tests/stack.ts";
import { openDigests } from "./digests.ts";
import { type HandoverEntry, openHandover, type Subscription } from "./handover.ts";
import { openPresence, presenceMs } from "./presence.ts";
import { openRedis, type RedisDoor, redisReady } from "./redis.ts";

/** The server itself, and a way to it that can be cut. */
let proxy: ServerProxy;
let direct: RedisDoor;
let redis: RedisDoor;
beforeAll(() => {
  direct = openRedis(useStack().redisUrl);
});
afterAll(() => direct.close());
const stage = useRedisStage("redis");
beforeEach(async () => {
  ({ proxy, redis } = stage());
  expect(await redisReady(direct, 5_000)).toBe(true);
});

describe("the door", () => {
  test("a server that is gone fails a command at once, and is used again when it is back", async () => {
    proxy.cut();
    await until(() => !redis.ready());
    const begun = Date.now();
    await expect(redis.ask((client) => client.ping())).rejects.toBeInstanceOf(Unavailable);
    expect(Date.now() - begun).toBeLessThan(50);
    proxy.heal();
    await until(() => redis.ready());
    expect(await redis.ask((client) => client.ping())).toBe("PONG");
  });

  test("a frozen server costs a quarter of a second once, and then nothing", async () => {
    proxy.freeze();
    const first = Date.now();
    await expect(redis.ask((client) => client.ping())).rejects.toBeInstanceOf(Unavailable);
    expect(Date.now() - first).toBeLessThan(450);
    await until(() => !redis.ready());
    const second = Date.now();
    await expect(redis.ask((client) => client.ping())).rejects.toBeInstanceOf(Unavailable);
    expect(Date.now() - second).toBeLessThan(50);
    proxy.heal();
    await until(() => redis.ready());
  });
});

test("an answer that came while the process did something else is an answer, however late the process looks", async () => {
  // Behind an immediate's turn timers come before what has arrived.
  await new Promise<void>((resolve) => setImmediate(resolve));
  const asked = direct.ask((client) => client.ping());
  await new Promise<void>((resolve) => process.nextTick(resolve));
  const until = performance.now() + 600;
  while (performance.now() < until);
  expect(await asked).toBe("PONG");
});

test("what takes too long by itself is no reason to give up a server that answers others", async () => {
  const connectionId = () => redis.ask((client) => client.client("ID"));
  const late = redis.ask(() => new Promise(() => undefined));
  await new Promise((resolve) => setTimeout(resolve, 50));
  const id = await connectionId();
  await expect(late).rejects.toBeInstanceOf(Unavailable);
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(await connectionId()).toBe(id);
});

describe("presence", () => {
  const [here, there] = [
    { gatewayId: "gateway-a", connectionId: "1" },
    { gatewayId: "gateway-b", connectionId: "2" },
  ];

  test("a claim takes the place and says who held it", async () => {
    const presence = openPresence(redis);
    const agentId = sampleAgentId();
    expect(await presence.claim(agentId, here)).toBeNull();
    expect(await presence.claim(agentId, there)).toEqual(here);
    expect(await presence.lookup([agentId, sampleAgentId()])).toEqual(new Map([[agentId, there]]));
  });

  test("a polite claim takes only a free place", async () => {
    const presence = openPresence(redis);
    const agentId = sampleAgentId();
    expect(await presence.claimFree(agentId, here)).toBeNull();
    expect(await presence.claimFree(agentId, there)).toEqual(here);
    expect(await presence.lookup([agentId])).toEqual(new Map([[agentId, here]]));
  });

  test("exactly the one that is named is replaced", async () => {
    const presence = openPresence(redis);
    const agentId = sampleAgentId();
    expect(await presence.replace(agentId, there, here)).toBe(false);
    expect(await presence.replace(agentId, null, here)).toBe(true);
    expect(await presence.replace(agentId, null, there)).toBe(false);
    expect(await presence.replace(agentId, there, there)).toBe(false);
    expect(await presence.lookup([agentId])).toEqual(new Map([[agentId, here]]));
    expect(await presence.replace(agentId, here, there)).toBe(true);
    expect(await presence.lookup([agentId])).toEqual(new Map([[agentId, there]]));
  });

  test("only the holder's release ends it", async () => {
    const presence = openPresence(redis);
    const agentId = sampleAgentId();
    await presence.claim(agentId, here);
    await presence.claim(agentId, there);
    await presence.release([{ agentId, ...here }]);
    expect(await presence.lookup([agentId])).toEqual(new Map([[agentId, there]]));
    await presence.release([{ agentId, ...there }]);
    expect(await presence.lookup([agentId])).toEqual(new Map());
  });

  test("a refresh prolongs what is held, names what another holds, and takes back what was forgotten", async () => {
    const presence = openPresence(redis);
    const [held, taken, forgotten] = [1, 2, 3].map(sampleAgentId) as [string, string, string];
    await presence.claim(held, here);
    await presence.claim(taken, there);
    await redis.ask((client) => client.pexpire(redis.key(`presence:${held}`), 100));
    const refreshed = await presence.refresh([held, taken, forgotten].map((agentId) => ({ agentId, ...here })));
    expect(refreshed).toEqual({
      lost: [{ agentId: taken, ...here }],
      regained: [{ agentId: forgotten, ...here }],
    });
    expect(await presence.lookup([held, taken, forgotten])).toEqual(
      new Map([
        [held, here],
        [taken, there],
        [forgotten, here],
      ]),
    );
    const left = await redis.ask((client) => client.pttl(redis.key(`presence:${held}`)));
    expect(left).toBeGreaterThan(presenceMs - 1_000);
  });

  test("without Redis it says so", async () => {
    const presence = openPresence(redis);
    proxy.cut();
    await until(() => !redis.ready());
    await expect(presence.lookup([sampleAgentId()])).rejects.toBeInstanceOf(Unavailable);
    await expect(presence.claim(sampleAgentId(), here)).rejects.toBeInstanceOf(Unavailable);
    await expect(presence.refresh([{ agentId: sampleAgentId(), ...here }])).rejects.toBeInstanceOf(Unavailable);
  });
});

describe("handover", () => {
  let subscription: Subscription | undefined;
  afterEach(() => subscription?.close());

  function superseded(connectionId: string): HandoverEntry {
    return { type: "superseded", agentId: sampleAgentId(), connectionId };
  }

  test("entries reach the gateway they are for, in order, and are counted", async () => {
    const handover = openHandover(redis);
    const got: HandoverEntry[] = [];
    let gaps = 0;
    subscription = handover.subscribe("gateway-a", {
      onEntries: (entries) => got.push(...entries),
      onGap: () => gaps++,
    });
    await until(() => subscription?.listening() === true);
    expect(gaps).toBe(1);
    const body = randomBytes(1_000);
    const item = { type: "item", agentId: sampleAgentId(), seq: 7, kind: "retry", senderId: sampleAgentId() } as const;
    const entries: HandoverEntry[] = [{ ...item, itemId: sampleItemId(), body }, superseded("x"), superseded("y")];
    expect(await handover.publish("gateway-a", entries)).toBe(1);
    await until(() => got.length === 3);
    expect(got).toEqual(entries);
    expect(await handover.publish("gateway-b", entries)).toBe(0);
    expect(gaps).toBe(1);
  });

  test("a subscription that was cut off tells of the gap when it listens again", async () => {
    const handover = openHandover(redis);
    const outside = openHandover({ ...direct, key: redis.key });
    const got: string[] = [];
    subscription = handover.subscribe("gateway-a", {
      onEntries: (entries) =>
        got.push(...entries.map((entry) => (entry.type === "superseded" ? entry.connectionId : ""))),
      onGap: () => got.push("gap"),
    });
    await until(() => subscription?.listening() === true);
    await outside.publish("gateway-a", [superseded("before")]);
    await until(() => got.length === 2);
    proxy.cut();
    await until(() => subscription?.listening() === false);
    expect(await outside.publish("gateway-a", [superseded("lost")])).toBe(0);
    proxy.heal();
    await until(() => subscription?.listening() === true);
    await outside.publish("gateway-a", [superseded("after")]);
    await until(() => got.length === 4);
    expect(got).toEqual(["gap", "before", "gap", "after"]);
  });

  test("a subscription whose server falls silent is given up and made again", async () => {
    let gaps = 0;
    subscription = openHandover(redis).subscribe("gateway-a", { onEntries: () => undefined, onGap: () => gaps++ });
    await until(() => subscription?.listening() === true);
    proxy.freeze();
    await until(() => subscription?.listening() === false);
    proxy.heal();
    await until(() => subscription?.listening() === true);
    expect(gaps).toBe(2);
  });

  test("a subscription begun while the server is away listens when it is back", async () => {
    proxy.cut();
    subscription = openHandover(redis).subscribe("gateway-a", { onEntries: () => undefined, onGap: () => undefined });
    expect(subscription.listening()).toBe(false);
    proxy.heal();
    await until(() => subscription?.listening() === true);
  });

  test("noise on the channel is taken for a gap", async () => {
    let gaps = 0;
    subscription = openHandover(redis).subscribe("gateway-a", { onEntries: () => undefined, onGap: () => gaps++ });
    await until(() => subscription?.listening() === true);
    await redis.ask((client) => client.publish(redis.key("gw:gateway-a"), "noise"));
    await until(() => gaps === 2);
  });
});

describe("digests", () => {
  test("what was remembered is found, of this sender alone", async () => {
    const digests = openDigests(redis);
    const [senderId, known, unknown] = [sampleAgentId(), sampleItemId(), sampleItemId()];
    const digest = randomBytes(32);
    await digests.remember(senderId, [{ messageId: known, digest }]);
    expect(await digests.lookup(senderId, [unknown, known])).toEqual([null, digest]);
    expect(await digests.lookup(sampleAgentId(), [known])).toEqual([null]);
    expect(await digests.lookup(senderId, [])).toEqual([]);
  });

  test("without Redis nothing is known and nobody is disturbed", async () => {
    const digests = openDigests(redis);
    proxy.cut();
    await until(() => !redis.ready());
    await digests.remember("sender", [{ messageId: sampleItemId(), digest: randomBytes(32) }]);
    expect(await digests.lookup("sender", [sampleItemId(), sampleItemId()])).toEqual([null, null]);
  });
});
