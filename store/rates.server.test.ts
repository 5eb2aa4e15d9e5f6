import { beforeEach, describe, expect, test } from "vitest";
import type { ServerProxy } from "../tests/redis-proxy.ts";
import { useRedisStage } from "../tests/redis-stage.ts";
import type { Limit } from "./limits.ts";
import { openRates, type RatesDoor } from "./rates.ts";
import { type RedisDoor, redisReady } from "./redis.ts";

const few: Limit = { name: "few", points: 10, seconds: 60 };
const many: Limit = { name: "many", points: 1_000, seconds: 60 };

let proxy: ServerProxy;
let redis: RedisDoor;
/** Questions to Redis. */
let asked: number;
const stage = useRedisStage("rates");
beforeEach(() => {
  ({ proxy, redis } = stage());
  asked = 0;
});

/** A process's own. */
function open(now?: () => number): RatesDoor {
  const watched: RedisDoor = {
    ...redis,
    ask: (work) => {
      asked++;
      return redis.ask(work);
    },
  };
  return openRates(watched, now);
}

async function allowedOf(rates: RatesDoor, limit: Limit, times: number, key = "a", points = 1): Promise<number> {
  const all = await Promise.all(Array.from({ length: times }, () => rates.take(limit, key, points)));
  return all.filter(({ allowed }) => allowed).length;
}

describe("a rate", () => {
  test("allows what it allows and no more, however many ask at once, and says how it stands", async () => {
    const rates = open();
    expect(await rates.take(few, "a", 4)).toMatchObject({ allowed: true, remaining: 6 });
    expect(await allowedOf(rates, few, 20)).toBe(6);
    const { allowed, remaining, resetMs } = await rates.take(few, "a");
    expect([allowed, remaining]).toEqual([false, 0]);
    expect(resetMs).toBeGreaterThan(55_000);
    expect(resetMs).toBeLessThanOrEqual(60_000);
    expect(await allowedOf(rates, few, 20, "b")).toBe(10);
  });

  test("a small one is counted exactly by all processes together", async () => {
    const [here, there] = [open(), open()];
    const counts = await Promise.all([allowedOf(here, few, 8), allowedOf(there, few, 8)]);
    expect(counts[0] + counts[1]).toBe(10);
  });

  test("a large one is passed by no more than what each process lets through on trust", async () => {
    const [here, there] = [open(), open()];
    let sum = 0;
    for (let n = 0; n < 40; n++) sum += (await allowedOf(here, many, 20)) + (await allowedOf(there, many, 20));
    expect(sum).toBeGreaterThanOrEqual(1_000 - 20);
    expect(sum).toBeLessThanOrEqual(1_000 + 2 * 20);
  });

  test("who stays far below a limit costs Redis nothing, who uses it up some fifty questions, who is over it none", async () => {
    const rates = open();
    expect(await allowedOf(rates, many, 20)).toBe(20);
    expect(asked).toBe(0);
    for (let n = 0; n < 1_000; n++) await rates.take(many, "a");
    expect(asked).toBeLessThanOrEqual(51);
    expect(asked).toBeGreaterThan(40);
    const before = asked;
    expect(await allowedOf(rates, many, 500)).toBe(0);
    expect(asked).toBe(before);
  });

  test("all of the points are taken or none, and what was given back may be taken again", async () => {
    const rates = open();
    const taken = await rates.take(few, "a", 8);
    expect(await allowedOf(rates, few, 1, "a", 5)).toBe(0);
    expect(rates.standing(few, "a")).toMatchObject({ allowed: true, remaining: 2 });
    expect(await allowedOf(rates, few, 1, "a", 3)).toBe(0);
    expect(rates.standing(few, "a", 3).allowed).toBe(false);
    expect(rates.standing(few, "a", 2).allowed).toBe(true);
    taken.giveBack();
    expect(await allowedOf(rates, few, 2, "a", 5)).toBe(2);
    expect(rates.standing(few, "a")).toMatchObject({ allowed: false, remaining: 0 });
    expect(rates.standing(few, "nobody")).toMatchObject({ allowed: true, remaining: 10 });
  });

  test("what is given back after its window has ended changes nothing of the next one", async () => {
    let nowMs = Date.now();
    const rates = open(() => nowMs);
    const trusted = await rates.take(many, "a", 20);
    nowMs += many.seconds * 1000;
    expect(await rates.take(many, "a", 20)).toMatchObject({ allowed: true, remaining: 980 });
    trusted.giveBack();
    expect(rates.standing(many, "a")).toMatchObject({ remaining: 980 });
  });

  test("what was refused gives nothing back", async () => {
    const rates = open();
    expect(await allowedOf(rates, few, 1, "a", 8)).toBe(1);
    (await rates.take(few, "a", 5)).giveBack();
    expect(rates.standing(few, "a")).toMatchObject({ remaining: 2 });
  });

  test("a window ends, however often it was asked in vain", async () => {
    const rates = open();
    const oneASecond: Limit = { name: "one", points: 1, seconds: 1 };
    expect((await rates.take(oneASecond, "a")).allowed).toBe(true);
    const until = Date.now() + 5_000;
    while (!(await rates.take(oneASecond, "a")).allowed) {
      expect(Date.now()).toBeLessThan(until);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  });

  test.each(["cut", "freeze"] as const)(
    "with Redis gone (%s) each process counts for itself: limits hold, nobody waits long, nobody else is refused",
    async (how) => {
      const rates = open();
      proxy[how]();
      const begun = performance.now();
      expect(await allowedOf(rates, few, 20)).toBe(10);
      expect(performance.now() - begun).toBeLessThan(1_500);
      expect(await allowedOf(rates, few, 20, "b")).toBe(10);
      expect(await allowedOf(rates, many, 1_200)).toBeGreaterThanOrEqual(1_000);
      expect(await allowedOf(rates, many, 100)).toBe(0);
    },
  );

  test("the count goes on where it was when Redis is back", async () => {
    const [here, there] = [open(), open()];
    expect(await allowedOf(here, few, 4)).toBe(4);
    proxy.cut();
    expect(await allowedOf(there, few, 2)).toBe(2);
    proxy.heal();
    expect(await redisReady(redis, 5_000)).toBe(true);
    expect(await allowedOf(here, few, 20)).toBe(6);
    expect(await allowedOf(open(), few, 20)).toBe(0);
  });
});
