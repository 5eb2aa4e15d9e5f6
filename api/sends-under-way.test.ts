import { expect, test } from "vitest";
import { ApiRefusal } from "./problem.ts";
import { SendsUnderWay, type UnderWay } from "./sends-under-way.ts";

/** A server with a queue: calls come at one rate and are finished at another, first come first served. */
function simulate({ arrivals, served, seconds }: { arrivals: number; served: number; seconds: number }) {
  let now = 1_000;
  let refused = 0;
  const sends = new SendsUnderWay(
    () => refused++,
    () => now,
  );
  const queue: { readonly at: number; readonly call: UnderWay }[] = [];
  const waits: number[] = [];
  const lastWaits: number[] = [];
  let due = 0;
  let work = 0;
  for (let tick = 0; tick < seconds * 1_000; tick++) {
    now += 1;
    for (due += arrivals / 1_000; due >= 1; due--) {
      try {
        queue.push({ at: now, call: sends.begin() });
      } catch (error) {
        if (!(error instanceof ApiRefusal)) throw error;
      }
    }
    for (work = queue.length === 0 ? 0 : work + served / 1_000; work >= 1; work--) {
      const first = queue.shift();
      if (first === undefined) break;
      first.call.end();
      waits.push(now - first.at);
      if (tick > (seconds * 1_000) / 2) lastWaits.push(now - first.at);
    }
  }
  return { sends, refused, longest: Math.max(...waits), later: Math.max(...lastWaits), finished: waits.length };
}

test("at half of what it can nobody is refused, and nobody waits", () => {
  const { refused, longest } = simulate({ arrivals: 500, served: 1_000, seconds: 10 });
  expect(refused).toBe(0);
  expect(longest).toBeLessThan(10);
});

test.each([2, 5, 20])(
  "at %s times what it can it does all that it can, and nobody who is taken waits for long",
  (factor) => {
    const served = 1_000;
    const { refused, longest, later, finished } = simulate({ arrivals: factor * served, served, seconds: 8 });
    expect(finished).toBeGreaterThan(0.97 * 8 * served);
    expect(refused).toBeGreaterThan((factor - 1) * 8 * served - 2_000);
    expect(later).toBeLessThanOrEqual(600);
    // What came in before the flood was known to be one: no more than a burst.
    expect(longest).toBeLessThanOrEqual(2_100);
  },
);

test("a burst out of silence is taken, up to two thousand", () => {
  let now = 0;
  const sends = new SendsUnderWay(undefined, () => now);
  const calls = Array.from({ length: 2_000 }, () => sends.begin());
  expect(() => sends.begin()).toThrow(ApiRefusal);
  now += 400;
  for (const call of calls) call.end();
  expect(sends.count).toBe(0);
});

test("few are never refused, however long they take", () => {
  let now = 0;
  const sends = new SendsUnderWay(undefined, () => now);
  for (let n = 0; n < 64; n++) {
    sends.begin();
    now += 10_000;
  }
  expect(sends.count).toBe(64);
});

test("when nothing gets on, further ones are refused after half a second, and taken when those before have ended", () => {
  let now = 0;
  const sends = new SendsUnderWay(undefined, () => now);
  const calls = Array.from({ length: 65 }, () => sends.begin());
  now += 499;
  calls.push(sends.begin());
  now += 1;
  expect(() => sends.begin()).toThrow(expect.objectContaining({ code: "overloaded", retryAfterMs: 1_000 }));
  for (const call of calls) call.end();
  now += 5_000;
  expect(() => sends.begin()).not.toThrow();
});

test("calls that wait for their clients are no work under way: slow ones do not make a flood, and are not refused later", async () => {
  let now = 0;
  const sends = new SendsUnderWay(undefined, () => now);
  const slow = Array.from({ length: 1_000 }, () => {
    const call = sends.begin();
    const body = Promise.withResolvers<string>();
    return { call, body, read: call.waitFor(body.promise) };
  });
  expect(sends.count).toBe(0);
  for (let n = 0; n < 100; n++) {
    now += 100;
    sends.begin().end();
  }
  for (const { body } of slow) body.resolve("body");
  expect(await Promise.all(slow.map(({ read }) => read))).toHaveLength(1_000);
  expect(sends.count).toBe(1_000);
  for (const { call } of slow) call.end();

  const gone = sends.begin();
  await expect(gone.waitFor(Promise.reject(new Error("the client has gone")))).rejects.toThrow();
  gone.end();
  expect(sends.count).toBe(0);
});
