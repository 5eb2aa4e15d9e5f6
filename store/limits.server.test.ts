import { beforeEach, describe, expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import type { ServerProxy } from "../tests/redis-proxy.ts";
import { useRedisStage } from "../tests/redis-stage.ts";
import { type Limit, openLimits } from "./limits.ts";
import { openRedis, type RedisDoor, redisReady } from "./redis.ts";

const threeAnHour: Limit = { name: "three", points: 3, seconds: 3_600 };

let proxy: ServerProxy;
let redis: RedisDoor;
let prefix: string;
const stage = useRedisStage("limits");
beforeEach(() => {
  ({ proxy, redis, prefix } = stage());
});

async function allowedOf(times: number, limits = openLimits(redis)): Promise<number> {
  const all = await Promise.all(Array.from({ length: times }, () => limits.consume(threeAnHour, "a")));
  return all.filter(({ allowed }) => allowed).length;
}

describe("a limit", () => {
  test("allows what it allows and no more, however many ask at once, and says when to come again", async () => {
    const limits = openLimits(redis);
    expect(await allowedOf(20, limits)).toBe(3);
    const { allowed, retryAfterMs } = await limits.consume(threeAnHour, "a");
    expect(allowed).toBe(false);
    expect(retryAfterMs).toBeGreaterThan(3_590_000);
    expect(retryAfterMs).toBeLessThanOrEqual(3_600_000);
  });

  test("counts together what several processes saw, and each key and each name by itself", async () => {
    const other = openRedis(proxy.url, { prefix });
    expect(await redisReady(other, 5_000)).toBe(true);
    expect(await allowedOf(2)).toBe(2);
    expect(await allowedOf(2, openLimits(other))).toBe(1);
    other.close();
    const limits = openLimits(redis);
    expect((await limits.consume(threeAnHour, "b")).allowed).toBe(true);
    expect((await limits.consume({ ...threeAnHour, name: "others" }, "a")).allowed).toBe(true);
  });

  test("what was given back may happen once more", async () => {
    const limits = openLimits(redis);
    expect(await allowedOf(3, limits)).toBe(3);
    await limits.giveBack(threeAnHour, "a");
    expect(await allowedOf(2, limits)).toBe(1);
  });

  test("what was forgotten is counted from the beginning, and nothing else is", async () => {
    const limits = openLimits(redis);
    expect(await allowedOf(5, limits)).toBe(3);
    await limits.consume(threeAnHour, "b");
    await limits.forget(threeAnHour, "a");
    await limits.forget(threeAnHour, "nobody");
    expect(await allowedOf(5, limits)).toBe(3);
    await limits.consume(threeAnHour, "b");
    await limits.consume(threeAnHour, "b");
    expect((await limits.consume(threeAnHour, "b")).allowed).toBe(false);
  });

  test("a window ends, however often it was asked in vain", async () => {
    const limits = openLimits(redis);
    const oneASecond: Limit = { name: "one", points: 1, seconds: 1 };
    expect((await limits.consume(oneASecond, "a")).allowed).toBe(true);
    const until = Date.now() + 5_000;
    while (!(await limits.consume(oneASecond, "a")).allowed) {
      expect(Date.now()).toBeLessThan(until);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  });

  test("nothing is allowed or refused while Redis is away", async () => {
    proxy.cut();
    const limits = openLimits(redis);
    await expect(limits.consume(threeAnHour, "a")).rejects.toBeInstanceOf(Unavailable);
    await limits.giveBack(threeAnHour, "a");
    await limits.forget(threeAnHour, "a");
  });
});
