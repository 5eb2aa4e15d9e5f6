import { expect, test } from "vitest";
import { World } from "../../tests/stream-world.ts";
import { Departures } from "./departures.ts";

/** Departures of the gateway "here"; whoever is asked about has mail. */
function open(goneMax?: number) {
  const world = new World();
  const here = new Set<string>();
  const asked: (readonly string[])[] = [];
  const departures = new Departures(
    {
      gatewayId: "here",
      presence: world.presence,
      isHere: (agentId) => here.has(agentId),
      announceWaiting: async (agentIds) => {
        asked.push(agentIds);
        await world.announceWaiting(agentIds);
      },
    },
    goneMax,
  );
  for (const agentId of ["alice", "bob", "carol"]) {
    world.store({ recipientId: agentId, senderId: "s", itemId: "i", kind: "message", body: new Uint8Array(1) });
  }
  return { world, here, asked, departures };
}

test("who went is announced by the second look, once", async () => {
  const { world, departures } = open();
  departures.went("alice");
  await departures.look();
  expect(world.announced).toEqual([]);
  departures.went("bob");
  await departures.look();
  expect(world.announced).toEqual(["alice"]);
  await departures.look();
  await departures.look();
  expect(world.announced).toEqual(["alice", "bob"]);
});

test("who is here again, or at another gateway, is not announced, also not when it goes from there", async () => {
  const { world, here, asked, departures } = open();
  for (const agentId of ["alice", "bob", "carol"]) departures.went(agentId);
  here.add("alice");
  world.present.set("bob", { gatewayId: "elsewhere", connectionId: "stream-1" });
  await departures.look();
  await departures.look();
  expect(asked).toEqual([["carol"]]);
  here.clear();
  world.present.clear();
  await departures.look();
  await departures.look();
  expect(asked).toEqual([["carol"]]);
});

test("many who go together are one question", async () => {
  const { asked, departures } = open();
  for (const agentId of ["alice", "bob", "carol"]) departures.went(agentId);
  await departures.look();
  await departures.look();
  expect(asked).toEqual([["alice", "bob", "carol"]]);
});

test("beyond a thousand they are several, and everybody is in one of them", async () => {
  const { asked, departures } = open();
  const all = Array.from({ length: 2_500 }, (_, n) => `agent-${n}`);
  for (const agentId of all) departures.went(agentId);
  await departures.look();
  await departures.look();
  expect(asked.map(({ length }) => length)).toEqual([1_000, 1_000, 500]);
  expect(asked.flat()).toEqual(all);
});

test.each(["redisAway", "kafkaAway", "postgresAway"] as const)(
  "with %s they are kept, and announced when it is back",
  async (away) => {
    const { world, departures } = open();
    departures.went("alice");
    world[away] = true;
    for (let looks = 0; looks < 5; looks++) await departures.look();
    expect(world.announced).toEqual([]);
    world[away] = false;
    await departures.look();
    await departures.look();
    expect(world.announced).toEqual(["alice"]);
  },
);

test("who is still named as here without being here is announced when that has run out", async () => {
  const { world, asked, departures } = open();
  departures.went("alice");
  world.present.set("alice", { gatewayId: "here", connectionId: "stream-1" });
  for (let looks = 0; looks < 5; looks++) await departures.look();
  expect(asked).toEqual([]);
  world.present.clear();
  await departures.look();
  await departures.look();
  expect(world.announced).toEqual(["alice"]);
});

test("the memory is bounded: beyond, agents are left to their next message", async () => {
  const { world, departures } = open(2);
  world.redisAway = true;
  for (const agentId of ["alice", "bob", "carol"]) departures.went(agentId);
  await departures.look();
  departures.went("carol");
  world.redisAway = false;
  for (let looks = 0; looks < 3; looks++) await departures.look();
  expect(world.announced).toEqual(["alice", "bob"]);
  departures.went("carol");
  await departures.look();
  await departures.look();
  expect(world.announced).toEqual(["alice", "bob", "carol"]);
});

test("while a look is under way there is no other", async () => {
  const { world, departures } = open();
  departures.went("alice");
  await departures.look();
  departures.went("bob");
  const first = departures.look();
  await Promise.all([departures.look(), departures.look()]);
  await first;
  expect(world.announced).toEqual(["alice"]);
  await departures.look();
  expect(world.announced).toEqual(["alice", "bob"]);
});

test("at last everybody is looked for at once", async () => {
  const { world, departures } = open();
  departures.went("alice");
  await departures.look();
  departures.went("bob");
  world.present.set("carol", { gatewayId: "elsewhere", connectionId: "stream-1" });
  departures.went("carol");
  await departures.lookAtLast();
  expect(world.announced).toEqual(["alice", "bob"]);
  await departures.look();
  await departures.look();
  expect(world.announced).toEqual(["alice", "bob"]);
});

test("a look that fails over a bug does not stop those after it", async () => {
  const { world, departures } = open();
  departures.went("alice");
  await departures.look();
  const lookup = world.presence.lookup;
  world.presence.lookup = () => Promise.reject(new Error("a bug"));
  await expect(departures.look()).rejects.toThrow("a bug");
  world.presence.lookup = lookup;
  departures.went("bob");
  await departures.look();
  await departures.look();
  expect(world.announced).toEqual(["bob"]);
});
