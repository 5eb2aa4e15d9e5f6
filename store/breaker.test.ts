import { expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { type Breaker, openBreaker } from "./breaker.ts";

const PAUSE_MS = 60;

function opened(questionsMax = 100) {
  const told: boolean[] = [];
  const breaker = openBreaker(
    {
      door: "postgres",
      questionsMax,
      isAway: (error) => error instanceof Unavailable,
      onAway: (away) => told.push(away),
    },
    PAUSE_MS,
  );
  return { breaker, told };
}

const fails = () => Promise.reject(new Unavailable("postgres"));

async function failUntilOpen(breaker: Breaker): Promise<void> {
  for (let n = 0; n < 5; n++) await breaker.ask(fails).catch(() => undefined);
}

test("a server that does not answer five questions is not asked a sixth, and who asks is told so at once", async () => {
  const { breaker, told } = opened();
  await failUntilOpen(breaker);
  let asked = 0;
  const sixth = breaker.ask(async () => {
    asked += 1;
  });
  await expect(sixth).rejects.toMatchObject({ name: "Unavailable", door: "postgres" });
  expect([asked, told]).toEqual([0, [true]]);
});

test("after a pause one question is let through, and only when it is answered are all", async () => {
  const { breaker, told } = opened();
  await failUntilOpen(breaker);
  await new Promise((resolve) => setTimeout(resolve, 2 * PAUSE_MS));
  const probe = Promise.withResolvers<string>();
  const first = breaker.ask(() => probe.promise);
  await expect(breaker.ask(async () => "too early")).rejects.toThrow(Unavailable);
  probe.resolve("here");
  expect(await first).toBe("here");
  expect(await Promise.all([1, 2, 3].map((n) => breaker.ask(async () => n)))).toEqual([1, 2, 3]);
  expect(told).toEqual([true, false]);
});

test("a probe that fails keeps it shut", async () => {
  const { breaker, told } = opened();
  await failUntilOpen(breaker);
  await new Promise((resolve) => setTimeout(resolve, 2 * PAUSE_MS));
  await breaker.ask(fails).catch(() => undefined);
  await expect(breaker.ask(async () => "still away")).rejects.toThrow(Unavailable);
  expect(told).toEqual([true]);
});

test("what a server refuses shows that it is there", async () => {
  const { breaker, told } = opened();
  for (let n = 0; n < 20; n++) {
    await expect(breaker.ask(() => Promise.reject(new Error("a constraint")))).rejects.toThrow("a constraint");
  }
  expect(await breaker.ask(async () => "here")).toBe("here");
  expect(told).toEqual([]);
});

test("beyond so many questions at a time one is told to come back, and that says nothing about the server", async () => {
  const { breaker, told } = opened(10);
  const end = Promise.withResolvers<void>();
  const held = Array.from({ length: 10 }, () => breaker.ask(() => end.promise));
  for (let n = 0; n < 20; n++) {
    await expect(breaker.ask(async () => undefined)).rejects.toMatchObject({ name: "Unavailable", door: "service" });
  }
  end.resolve();
  await Promise.all(held);
  expect(await breaker.ask(async () => "room")).toBe("room");
  expect(told).toEqual([]);
});
