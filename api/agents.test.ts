import { expect, test } from "vitest";
import { addAgent } from "../tests/in-memory-service.ts";
import { newIdentity } from "../tests/signing.ts";
import { cachedAgents } from "./agents.ts";
import { inMemoryPorts } from "./in-memory-ports.ts";

function given() {
  const ports = inMemoryPorts();
  const asked: string[][] = [];
  let now = 1_000_000;
  const find = cachedAgents(
    (ids) => {
      asked.push([...ids]);
      return ports.findAgents(ids);
    },
    () => now,
  );
  return { ports, asked, find, later: (ms: number) => (now += ms) };
}

test("an agent is asked for once in five seconds", async () => {
  const { ports, asked, find, later } = given();
  const alice = newIdentity();
  addAgent(ports, alice);
  await find([alice.agentId]);
  addAgent(ports, alice, "suspended");
  later(4_999);
  expect((await find([alice.agentId, alice.agentId])).get(alice.agentId)?.status).toBe("active");
  later(1);
  expect((await find([alice.agentId])).get(alice.agentId)?.status).toBe("suspended");
  expect(asked).toEqual([[alice.agentId], [alice.agentId]]);
});

test("an agent that was not there is found as soon as it is", async () => {
  const { ports, find } = given();
  const [alice, bob] = [newIdentity(), newIdentity()];
  addAgent(ports, bob);
  expect([...(await find([alice.agentId, bob.agentId])).keys()]).toEqual([bob.agentId]);
  addAgent(ports, alice);
  expect((await find([alice.agentId, bob.agentId])).size).toBe(2);
});

test("only what is not known is asked for", async () => {
  const { ports, asked, find } = given();
  const [alice, bob] = [newIdentity(), newIdentity()];
  for (const agent of [alice, bob]) addAgent(ports, agent);
  await find([alice.agentId]);
  await find([alice.agentId, bob.agentId]);
  expect(asked).toEqual([[alice.agentId], [bob.agentId]]);
});
