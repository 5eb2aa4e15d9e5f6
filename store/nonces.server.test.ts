/**
 * The nonces' promises over a real Redis that restarts, forgets, is cut off from one process, or answers too late.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import type { ServerProxy } from "../tests/redis-proxy.ts";
import { useRedisStage } from "../tests/redis-stage.ts";
import { until } from "../tests/runner-stage.ts";
import { useStack } from "../tests/stack.ts";
import type { NonceVerdict } from "./local-nonces.ts";
import { openNonces } from "./nonces.ts";
import { openRedis, type RedisDoor, redisReady } from "./redis.ts";

/** The server itself, under this test's names, and a way to it that can be cut. */
let proxy: ServerProxy;
let direct: RedisDoor;
let redis: RedisDoor;
let server: RedisDoor;
beforeAll(() => {
  server = openRedis(useStack().redisUrl);
});
afterAll(() => server.close());
const stage = useRedisStage("nonces");
beforeEach(async () => {
  ({ proxy, redis } = stage());
  direct = { ...server, key: redis.key };
  expect(await redisReady(server, 5_000)).toBe(true);
});

/** What FLUSHALL would do, to this test's keys alone. */
async function forgetEverything(): Promise<void> {
  await direct.ask(async (client) => {
    const keys = await client.keys(`${redis.key("")}*`);
    if (keys.length > 0) await client.del(keys);
  });
}

describe("nonces", () => {
  /** A clock that is set by hand, in seconds. */
  function openAt(startS: number, aheadSMax = 0, door = redis) {
    const clock = { nowS: startS };
    const nonces = openNonces(door, { aheadSMax, now: () => clock.nowS * 1000 });
    const sign = (nonce: string, createdS = clock.nowS): Promise<NonceVerdict> =>
      nonces.remember("key", nonce, createdS, createdS + 300);
    return { clock, nonces, sign };
  }

  /** Another process, which reaches the server whatever happens to ours. */
  const openElsewhere = (nowS: number) => openAt(nowS, 0, direct);

  /** A door behind which an answer gets lost whenever `mishap` says so: before the server has done what was asked, or after. */
  function losing(mishap: () => "before" | "after" | null): RedisDoor {
    return {
      ...direct,
      ask: async (work) => {
        const when = mishap();
        if (when === "before") throw new Unavailable("redis");
        const result = await direct.ask(work);
        if (when === "after") throw new Unavailable("redis");
        return result;
      },
    };
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

  test("a process whose clock is an hour ahead begins a memory that is a minute ahead at most", async () => {
    const realS = Math.floor(Date.now() / 1000);
    await openAt(realS + 3_600).nonces.begin();
    const right = openElsewhere(realS);
    expect(await right.sign("a")).toBe("sign-again");
    // Longer than the servers' clocks may differ, and than this test may have taken.
    right.clock.nowS = realS + 90;
    expect(await right.sign("b")).toBe("fresh");
    expect(await right.sign("b")).toBe("replayed");
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
    await until(() => !redis.ready());
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
    await until(() => !redis.ready());
    expect(await sign("first")).toBe("sign-again");
    clock.nowS = 1_005;
    expect(await sign("alone")).toBe("fresh");
    proxy.heal();
    await until(() => redis.ready());
    expect(await sign("alone", 1_005)).toBe("replayed");
    const other = openElsewhere(1_006);
    expect(await other.sign("alone", 1_005)).toBe("replayed");
    expect(await sign("together")).toBe("fresh");
    expect(await other.sign("together", 1_005)).toBe("replayed");
  });

  test("what was used alone is known elsewhere, also when nobody asks here any more", async () => {
    const { clock, nonces, sign } = openAt(1_000);
    await nonces.begin();
    proxy.cut();
    await until(() => !redis.ready());
    await sign("first");
    clock.nowS = 1_005;
    const alone = Array.from({ length: 2_500 }, (_, n) => `alone-${n}`);
    for (const nonce of alone) expect(await sign(nonce)).toBe("fresh");
    proxy.heal();
    const written = async () => (await direct.ask((client) => client.keys(redis.key("nonce:key:alone-*")))).length;
    await until(async () => (await written()) === alone.length);
    const other = openElsewhere(1_006);
    for (const nonce of ["alone-0", "alone-999", "alone-1000", "alone-2499"]) {
      expect(await other.sign(nonce, 1_005)).toBe("replayed");
    }
    // And nobody there had to sign again for it.
    expect(await other.sign("made-before", 1_001)).toBe("fresh");
  });

  test("a process that is cut off asks nobody else to sign again, neither then nor when it comes back", async () => {
    const here = openAt(1_000);
    const there = openElsewhere(1_000);
    await here.nonces.begin();
    proxy.cut();
    await until(() => !redis.ready());
    await here.sign("first");
    here.clock.nowS = there.clock.nowS = 1_005;
    expect(await here.sign("here")).toBe("fresh");
    expect(await there.sign("there", 1_001)).toBe("fresh");
    proxy.heal();
    await until(() => redis.ready());
    expect(await there.sign("there-too", 1_002)).toBe("fresh");
    expect(await here.sign("there", 1_001)).toBe("replayed");
    expect(await here.sign("there-too", 1_002)).toBe("replayed");
    expect(await there.sign("here")).toBe("replayed");
    expect(await here.sign("back", 1_003)).toBe("fresh");
  });

  test.each(["before", "after"] as const)(
    "an answer that is lost %s the nonce was written costs this one request a new signature, and nobody else anything",
    async (when) => {
      let mishap: typeof when | null = null;
      const here = openAt(
        1_000,
        0,
        losing(() => mishap),
      );
      const there = openElsewhere(1_000);
      await here.nonces.begin();
      here.clock.nowS = there.clock.nowS = 1_010;
      mishap = when;
      for (let n = 0; n < 50; n++) expect(await here.sign(`lost-${n}`)).toBe("sign-again");
      mishap = null;
      expect(await there.sign("elsewhere", 1_001)).toBe("fresh");
      expect(await here.sign("the next", 1_002)).toBe("fresh");
      // It was never taken: it may be, once, unless it was written.
      const again = [await here.sign("lost-0"), await there.sign("lost-0"), await here.sign("lost-0")];
      expect(again).toEqual([when === "before" ? "fresh" : "replayed", "replayed", "replayed"]);
    },
  );

  test("a server that freezes makes the process judge alone, and no signature is taken twice by it", async () => {
    const { clock, nonces, sign } = openAt(1_000);
    await nonces.begin();
    clock.nowS = 1_001;
    expect(await sign("before")).toBe("fresh");
    proxy.freeze();
    expect(await sign("in flight")).toBe("sign-again");
    await until(() => !redis.ready());
    expect(await sign("before")).toBe("sign-again");
    clock.nowS = 1_010;
    expect(await sign("alone")).toBe("fresh");
    proxy.heal();
    await until(() => redis.ready());
    expect(await sign("alone")).toBe("replayed");
    expect(await sign("before", 1_001)).toBe("replayed");
  });

  test("a server that was emptied while the process was alone forgets nothing that it took", async () => {
    const { clock, nonces, sign } = openAt(1_000);
    await nonces.begin();
    clock.nowS = 1_001;
    expect(await sign("before")).toBe("fresh");
    proxy.cut();
    await until(() => !redis.ready());
    await sign("first");
    clock.nowS = 1_005;
    expect(await sign("alone")).toBe("fresh");
    await forgetEverything();
    proxy.heal();
    await until(() => redis.ready());
    const other = openElsewhere(1_006);
    for (const asked of [sign, other.sign]) {
      expect(await asked("before", 1_001)).toBe("sign-again");
      expect(await asked("alone", 1_005)).not.toBe("fresh");
    }
  });

  test("a short absence that nobody used costs no new signature", async () => {
    const { clock, nonces, sign } = openAt(1_000);
    await nonces.begin();
    proxy.cut();
    await until(() => !redis.ready());
    clock.nowS = 1_005;
    expect(await sign("unlucky")).toBe("sign-again");
    proxy.heal();
    await until(() => redis.ready());
    expect(await sign("unlucky")).toBe("fresh");
  });
});
