import { expect, test } from "vitest";
import { Unavailable } from "../../protocol/refusal.ts";
import { Arrivals } from "./arrivals.ts";

test("while Redis is away each that comes is tried once, and all are told when it is back", async () => {
  let isAway = true;
  const asked: (readonly string[])[] = [];
  const arrivals = new Arrivals(async (agentIds) => {
    asked.push(agentIds);
    if (isAway) throw new Unavailable("redis");
  });
  const names = Array.from({ length: 100 }, (_, n) => `agent ${n}`);
  for (const name of names) await arrivals.add([name]);
  expect(asked).toEqual(names.map((name) => [name]));
  isAway = false;
  await arrivals.add(["agent 3"]);
  await arrivals.tellAgain();
  expect(asked.slice(100)).toEqual([["agent 3"], names.filter((name) => name !== "agent 3")]);
  await arrivals.tellAgain();
  expect(asked).toHaveLength(102);
});
