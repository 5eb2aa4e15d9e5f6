import { expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { startProxy } from "../tests/redis-proxy.ts";
import { useStack } from "../tests/stack.ts";
import { inTransaction, openPostgres } from "./postgres.ts";

const question = { text: "SELECT 1" };

test("with a frozen server those who wait first time out, and from then on all are told at once, until it is back", async () => {
  const proxy = await startProxy(useStack().postgresUrl);
  const told: boolean[] = [];
  const postgres = openPostgres(proxy.url, { connectionsMax: 4, onAway: (away) => told.push(away) });
  await postgres.query(question);

  proxy.freeze();
  const first = await Promise.allSettled(Array.from({ length: 30 }, () => postgres.query(question)));
  expect(first.every(({ status }) => status === "rejected")).toBe(true);
  expect(told).toEqual([true]);

  const begun = performance.now();
  const asked = Array.from({ length: 50 }, () => postgres.query(question));
  const transactions = Array.from({ length: 50 }, () => inTransaction(postgres, async () => undefined));
  const answers = await Promise.allSettled([...asked, ...transactions]);
  const soon = answers.filter((answer) => answer.status === "rejected" && answer.reason instanceof Unavailable);
  // One of them may have been the probe.
  expect(soon.length).toBeGreaterThanOrEqual(99);
  // The probe waits for its timeout; all others together have not.
  if (told.length === 1) await expect(postgres.query(question)).rejects.toThrow(Unavailable);
  const next = performance.now();
  await expect(postgres.query(question)).rejects.toThrow(Unavailable);
  expect(performance.now() - next).toBeLessThan(1_000);
  expect(performance.now() - begun).toBeLessThan(30_000);

  proxy.heal();
  const until = performance.now() + 20_000;
  let isBack = false;
  while (!isBack && performance.now() < until) {
    isBack = await postgres.query(question).then(
      () => true,
      () => false,
    );
    if (!isBack) await new Promise((resolve) => setTimeout(resolve, 100));
  }
  expect(isBack).toBe(true);
  expect(told).toEqual([true, false]);
  await postgres.close();
  proxy.close();
});

test("what a server refuses does not count against it, and neither does a transaction that is given up", async () => {
  const told: boolean[] = [];
  const postgres = openPostgres(useStack().postgresUrl, { onAway: (away) => told.push(away) });
  for (let n = 0; n < 10; n++) {
    await expect(postgres.query({ text: "SELECT 1 / 0" })).rejects.toMatchObject({ name: "RecordFault" });
    await expect(postgres.query({ text: "SELECT nothing" })).rejects.toThrow(Unavailable);
    const given = inTransaction(postgres, () => Promise.reject(new Error("given up")));
    await expect(given).rejects.toThrow("given up");
  }
  expect((await postgres.query(question)).rowCount).toBe(1);
  expect(told).toEqual([]);
  await postgres.close();
});
