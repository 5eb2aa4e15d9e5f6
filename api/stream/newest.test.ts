import { expect, test } from "vitest";
import { WebSocket } from "ws";
import { pause, until } from "../../tests/stream-client.ts";
import { connect, fill, newWorld, startGateway } from "../../tests/stream-stage.ts";

test("a newer stream closes the older one of the same process with 4409 and gets what the older one did not answer", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world);
  fill(world, bob, alice, 2);
  const older = await connect(place, bob);
  await older.has("item", 2);
  const newer = await connect(place, bob);
  expect(await older.closed).toBe(4409);
  await newer.has("queue-empty");
  expect(newer.seqs).toEqual([1, 2]);
  fill(world, bob, alice, 1);
  await newer.has("item", 3);
  expect(place.gateway.status().connections).toBe(1);
});

test("a superseded stream that does not close is no longer the agent's: its process neither refreshes it nor refuses polls", async () => {
  const { world, bob } = newWorld();
  const [first, second] = [await startGateway(world, { refreshMs: 20 }), await startGateway(world)];
  const older = await connect(first, bob);
  await older.has("queue-empty");
  older.socket.pause();
  const newer = await connect(second, bob);
  await newer.has("queue-empty");
  newer.socket.close();
  await until(() => world.present.size === 0);
  await pause(60);
  expect(first.gateway.status()).toMatchObject({ connections: 0, sockets: 1 });
  expect(world.present.size).toBe(0);
  expect(await first.gateway.hasStream(bob.agentId)).toBe(false);
});

test("a client that opens stream after stream and reads none leaves no more than one behind", async () => {
  const { world, bob } = newWorld();
  const place = await startGateway(world);
  for (let opened = 1; opened <= 5; opened++) (await connect(place, bob)).socket.pause();
  await until(() => place.gateway.status().sockets <= 2);
  expect(place.gateway.status().connections).toBe(1);
});

test("a newer stream at another process closes the older with 4409", async () => {
  const { world, alice, bob } = newWorld();
  const [first, second] = [await startGateway(world), await startGateway(world)];
  const older = await connect(first, bob);
  await older.has("queue-empty");
  const newer = await connect(second, bob);
  expect(await older.closed).toBe(4409);
  fill(world, bob, alice, 1);
  await newer.has("item");
  expect(newer.socket.readyState).toBe(WebSocket.OPEN);
});

test("when nobody tells the older process, it finds the newer stream at its next refresh", async () => {
  const { world, bob } = newWorld();
  const [first, second] = [await startGateway(world, { refreshMs: 40 }), await startGateway(world)];
  const older = await connect(first, bob);
  await older.has("queue-empty");
  world.deaf = true;
  const newer = await connect(second, bob);
  expect(await older.closed).toBe(4409);
  expect(newer.socket.readyState).toBe(WebSocket.OPEN);
});

test("a newer stream whose claim Redis did not take keeps its agent, and the older one elsewhere is closed", async () => {
  const { world, bob } = newWorld();
  const [first, second] = [await startGateway(world), await startGateway(world, { refreshMs: 20, awaySweepMs: 20 })];
  const older = await connect(first, bob);
  await older.has("queue-empty");
  world.redisAway = true;
  const newer = await connect(second, bob);
  await newer.has("queue-empty");
  await pause(60);
  world.redisAway = false;
  expect(await older.closed).toBe(4409);
  await until(() => world.present.get(bob.agentId)?.gatewayId === second.gateway.id);
  await pause(60);
  expect(newer.socket.readyState).toBe(WebSocket.OPEN);
  expect(second.gateway.status().connections).toBe(1);
  expect(world.came.at(-1)).toEqual([bob.agentId, world.present.get(bob.agentId)?.connectionId]);
});

test("a newer stream is not ended by an older one elsewhere while the database is asked about its agent", async () => {
  const { world, bob } = newWorld();
  const [first, second] = [await startGateway(world), await startGateway(world, { refreshMs: 20 })];
  const older = await connect(first, bob);
  await older.has("queue-empty");
  const asked = Promise.withResolvers<void>();
  const answers = Promise.withResolvers<void>();
  const { findInactive } = world;
  Object.assign(world, {
    findInactive: async (agentIds: readonly string[]) => {
      asked.resolve();
      await answers.promise;
      return findInactive(agentIds);
    },
  });
  const newer = await connect(second, bob);
  await asked.promise;
  await pause(100);
  expect(newer.socket.readyState).toBe(WebSocket.OPEN);
  answers.resolve();
  expect(await older.closed).toBe(4409);
  await newer.has("queue-empty");
  expect(world.present.get(bob.agentId)?.gatewayId).toBe(second.gateway.id);
});

test("a stream whose claim Redis did not take gives way to a newer one that came elsewhere meanwhile", async () => {
  const { world, bob } = newWorld();
  const [first, second] = [await startGateway(world, { refreshMs: 300 }), await startGateway(world)];
  world.redisAway = true;
  const older = await connect(first, bob);
  await older.has("queue-empty");
  await pause(5);
  world.redisAway = false;
  const newer = await connect(second, bob);
  await newer.has("queue-empty");
  expect(await older.closed).toBe(4409);
  await pause(100);
  expect(newer.socket.readyState).toBe(WebSocket.OPEN);
  expect(world.present.get(bob.agentId)?.gatewayId).toBe(second.gateway.id);
});
