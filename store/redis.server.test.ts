import { randomBytes } from "node:crypto";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { sampleAgentId, sampleItemId } from "../tests/messaging.ts";
import { type ServerProxy, startProxy } from "../tests/redis-proxy.ts";
import { uniqueName, useStack } from "../tests/stack.ts";
import { openDigests } from "./digests.ts";
import { type HandoverEntry, openHandover, type Subscription } from "./handover.ts";
import { type NonceVerdict, openNonces } from "./nonces.ts";
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
beforeEach(async () => {
  proxy = await startProxy(useStack().redisUrl);
  redis = openRedis(proxy.url, { prefix: `${uniqueName("redis")}:` });
  expect(await redisReady(redis, 5_000)).toBe(true);
  expect(await redisReady(direct, 5_000)).toBe(true);
});
afterEach(() => {
  redis.close();
  proxy.close();
});

async function eventually(law: () => boolean | Promise<boolean>): Promise<void> {
  const until = Date.now() + 5_000;
  while (!(await law())) {
    if (Date.now() > until) throw new Error("it did not happen within five seconds");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** What FLUSHALL would do, to this test's keys alone. */
async function forgetEverything(): Promise<void> {
  await direct.ask(async (client) => {
    const keys = await client.keys(`${redis.key("")}*`);
    if (keys.length > 0) await client.del(keys);
  });
}

describe("the door", () => {
  test("a server that is gone fails a command at once, and is used again when it is back", async () => {
    proxy.cut();
    await eventually(() => !redis.ready());
    const begun = Date.now();
    await expect(redis.ask((client) => client.ping())).rejects.toBeInstanceOf(Unavailable);
    expect(Date.now() - begun).toBeLessThan(50);
    proxy.heal();
    await eventually(() => redis.ready());
    expect(await redis.ask((client) => client.ping())).toBe("PONG");
  });

  test("a frozen server costs a quarter of a second once, and then nothing", async () => {
    proxy.freeze();
    const first = Date.now();
    await expect(redis.ask((client) => client.ping())).rejects.toBeInstanceOf(Unavailable);
    expect(Date.now() - first).toBeLessThan(450);
    await eventually(() => !redis.ready());
    const second = Date.now();
    await expect(redis.ask((client) => client.ping())).rejects.toBeInstanceOf(Unavailable);
    expect(Date.now() - second).toBeLessThan(50);
    proxy.heal();
    await eventually(() => redis.ready());
  });
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
    const lost = await presence.refresh([held, taken, forgotten].map((agentId) => ({ agentId, ...here })));
    expect(lost).toEqual([{ agentId: taken, ...here }]);
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
    await eventually(() => !redis.ready());
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
    await eventually(() => subscription?.listening() === true);
    expect(gaps).toBe(1);
    const body = randomBytes(1_000);
    const item = { type: "item", agentId: sampleAgentId(), seq: 7, kind: "retry", senderId: sampleAgentId() } as const;
    const entries: HandoverEntry[] = [{ ...item, itemId: sampleItemId(), body }, superseded("x"), superseded("y")];
    expect(await handover.publish("gateway-a", entries)).toBe(1);
    await eventually(() => got.length === 3);
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
    await eventually(() => subscription?.listening() === true);
    await outside.publish("gateway-a", [superseded("before")]);
    await eventually(() => got.length === 2);
    proxy.cut();
    await eventually(() => subscription?.listening() === false);
    expect(await outside.publish("gateway-a", [superseded("lost")])).toBe(0);
    proxy.heal();
    await eventually(() => subscription?.listening() === true);
    await outside.publish("gateway-a", [superseded("after")]);
    await eventually(() => got.length === 4);
    expect(got).toEqual(["gap", "before", "gap", "after"]);
  });

  test("a subscription whose server falls silent is given up and made again", async () => {
    let gaps = 0;
    subscription = openHandover(redis).subscribe("gateway-a", { onEntries: () => undefined, onGap: () => gaps++ });
    await eventually(() => subscription?.listening() === true);
    proxy.freeze();
    await eventually(() => subscription?.listening() === false);
    proxy.heal();
    await eventually(() => subscription?.listening() === true);
    expect(gaps).toBe(2);
  });

  test("a subscription begun while the server is away listens when it is back", async () => {
    proxy.cut();
    subscription = openHandover(redis).subscribe("gateway-a", { onEntries: () => undefined, onGap: () => undefined });
    expect(subscription.listening()).toBe(false);
    proxy.heal();
    await eventually(() => subscription?.listening() === true);
  });

  test("noise on the channel is taken for a gap", async () => {
    let gaps = 0;
    subscription = openHandover(redis).subscribe("gateway-a", { onEntries: () => undefined, onGap: () => gaps++ });
    await eventually(() => subscription?.listening() === true);
    await redis.ask((client) => client.publish(redis.key("gw:gateway-a"), "noise"));
    await eventually(() => gaps === 2);
  });
});

describe("nonces", () => {
  /** A clock that is set by hand, in seconds. */
  function openAt(startS: number, aheadSMax = 0) {
    const clock = { nowS: startS };
    const nonces = openNonces(redis, { aheadSMax, now: () => clock.nowS * 1000 });
    const sign = (nonce: string, createdS = clock.nowS): Promise<NonceVerdict> =>
      nonces.remember("key", nonce, createdS, createdS + 300);
    return { clock, nonces, sign };
  }

  test("a nonce is fresh once, for each key", async () => {
    const { clock, nonces, sign } = openAt(1_000);
    await nonces.begin();
    clock.nowS = 1_001;
    expect(await sign("a")).toBe("fresh");
    expect(await sign("a")).toBe("replayed");
    expect(await sign("b")).toBe("fresh");
    expect(await nonces.remember("other key", "a", 1_001, 1_301)).toBe("fresh");
  });

  test("of the same nonce at the same moment one is fresh", async () => {
    const { clock, nonces, sign } = openAt(1_000);
    await nonces.begin();
    clock.nowS = 1_001;
    const verdicts = await Promise.all(Array.from({ length: 20 }, () => sign("a")));
    expect(verdicts.filter((verdict) => verdict === "fresh")).toHaveLength(1);
  });

  test("a memory that was emptied refuses what was signed before, used or not", async () => {
    const { clock, nonces, sign } = openAt(1_000);
    await nonces.begin();
    clock.nowS = 1_001;
    expect(await sign("used")).toBe("fresh");
    clock.nowS = 1_010;
    await forgetEverything();
    expect(await sign("used", 1_001)).toBe("sign-again");
    expect(await sign("unused", 1_010)).toBe("sign-again");
    clock.nowS = 1_011;
    expect(await sign("new")).toBe("fresh");
    expect(await sign("used", 1_001)).toBe("sign-again");
  });

  test("a clock that may be ahead makes the wait longer: a signature from before may carry that time", async () => {
    const { clock, nonces, sign } = openAt(1_000, 5);
    await nonces.begin();
    expect(await sign("ahead", 1_005)).toBe("sign-again");
    clock.nowS = 1_006;
    expect(await sign("later")).toBe("fresh");
  });

  test("after a restart of the server an old snapshot of the memory is not believed", async () => {
    const { clock, nonces, sign } = openAt(1_000);
    await nonces.begin();
    clock.nowS = 1_001;
    expect(await sign("a")).toBe("fresh");
    await redis.ask((client) => client.set(redis.key("nonce-epoch"), `${"0".repeat(40)} 900`));
    clock.nowS = 1_010;
    expect(await sign("a", 1_001)).toBe("sign-again");
    clock.nowS = 1_011;
    expect(await sign("b")).toBe("fresh");
  });

  test("without Redis the process remembers for itself, from then on", async () => {
    const { clock, nonces, sign } = openAt(1_000);
    await nonces.begin();
    clock.nowS = 1_001;
    expect(await sign("before")).toBe("fresh");
    proxy.cut();
    await eventually(() => !redis.ready());
    clock.nowS = 1_010;
    expect(await sign("before", 1_001)).toBe("sign-again");
    expect(await sign("a")).toBe("sign-again");
    clock.nowS = 1_011;
    expect(await sign("a")).toBe("fresh");
    expect(await sign("a")).toBe("replayed");
  });

  test("what was used while Redis was away cannot be used again when it is back", async () => {
    const { clock, nonces, sign } = openAt(1_000);
    await nonces.begin();
    proxy.cut();
    await eventually(() => !redis.ready());
    expect(await sign("first")).toBe("sign-again");
    clock.nowS = 1_005;
    expect(await sign("alone")).toBe("fresh");
    proxy.heal();
    await eventually(() => redis.ready());
    expect(await sign("alone", 1_005)).toBe("sign-again");
    const other = openNonces(redis, { aheadSMax: 0, now: () => 1_006_000 });
    expect(await other.remember("key", "alone", 1_005, 1_305)).toBe("sign-again");
    clock.nowS = 1_006;
    expect(await sign("together")).toBe("fresh");
    expect(await other.remember("key", "together", 1_006, 1_306)).toBe("replayed");
  });

  test("a short absence that nobody used costs no new signature", async () => {
    const { clock, nonces, sign } = openAt(1_000);
    await nonces.begin();
    proxy.cut();
    await eventually(() => !redis.ready());
    clock.nowS = 1_005;
    expect(await sign("unlucky")).toBe("sign-again");
    proxy.heal();
    await eventually(() => redis.ready());
    expect(await sign("unlucky")).toBe("fresh");
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
    await eventually(() => !redis.ready());
    await digests.remember("sender", [{ messageId: sampleItemId(), digest: randomBytes(32) }]);
    expect(await digests.lookup("sender", [sampleItemId(), sampleItemId()])).toEqual([null, null]);
  });
});
