import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { makeMessageId } from "../../protocol/message-id.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import { openHandover } from "../../store/handover.ts";
import { openPresence } from "../../store/presence.ts";
import { openRedis, type RedisDoor, redisReady } from "../../store/redis.ts";
import { newIdentity } from "../../tests/signing.ts";
import { uniqueName, useStack } from "../../tests/stack.ts";
import { type Client, openClient, until } from "../../tests/stream-client.ts";
import { World } from "../../tests/stream-world.ts";
import { Gateway } from "./gateway.ts";
import { serveStreams } from "./upgrade.ts";

const ends: (() => unknown)[] = [];
let redis: RedisDoor;
/** Cuts the subscription of the gateway that was started last. */
let cut: () => void;
let world: World;
const [alice, bob] = [newIdentity(), newIdentity()];

beforeEach(async () => {
  redis = openRedis(useStack().redisUrl, { prefix: uniqueName("stream") });
  ends.push(() => redis.close());
  await redisReady(redis, 5_000);
  world = new World({ presence: openPresence(redis), handover: openHandover(watched(redis)) });
  world.register(alice);
  world.register(bob);
});

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
  expect(world.bugs).toEqual([]);
});

/** The door, with a hand on the connections made for subscribing. */
function watched(door: RedisDoor): RedisDoor {
  return {
    ...door,
    connect: () => {
      const client = door.connect();
      cut = () => client.stream.destroy();
      return client;
    },
  };
}

/** With a sweep too slow to help: what arrives was handed over, or found because of a gap. */
async function startGateway(): Promise<{ gateway: Gateway; url: string }> {
  const gateway = new Gateway(world, { graceMs: 0, sweepMs: 60_000, awaySweepMs: 60_000 });
  const server = createServer();
  serveStreams(server, gateway, { ...world, publicAuthority: undefined });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  ends.push(async () => {
    await gateway.drain();
    server.close();
  });
  await until(() => gateway.status().listening);
  return { gateway, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/messaging/stream` };
}

async function connect(url: string): Promise<Client> {
  const client = await openClient(url, bob);
  ends.push(() => client.socket.terminate());
  await client.has("queue-empty");
  return client;
}

function fill(count: number): void {
  for (let i = 0; i < count; i++) {
    const itemId = makeMessageId(Date.now(), nodeRandom);
    const body = new Uint8Array(1_000).fill(i);
    world.store({ recipientId: bob.agentId, senderId: alice.agentId, itemId, kind: "message", body });
  }
}

test("items are handed over through Redis in order", async () => {
  const { url } = await startGateway();
  const client = await connect(url);
  const readsBefore = world.bytesRead;
  fill(100);
  await client.has("item", 100);
  expect(client.items.map(({ seq, body }) => [seq, body[0]])).toEqual(
    Array.from({ length: 100 }, (_, index) => [index + 1, index]),
  );
  expect(world.bytesRead).toBe(readsBefore);
});

test("a newer stream at another gateway closes the older through Redis with 4409", async () => {
  const [first, second] = [await startGateway(), await startGateway()];
  const older = await connect(first.url);
  const newer = await connect(second.url);
  expect(await older.closed).toBe(4409);
  fill(1);
  await newer.has("item");
  expect(await first.gateway.hasStream(bob.agentId)).toBe(true);
});

test("after Redis forgot who is where and cut the subscription, the stream goes on and misses nothing", async () => {
  const { gateway, url } = await startGateway();
  const client = await connect(url);
  await redis.ask((admin) => admin.del(redis.key(`presence:${bob.agentId}`)));
  cut();
  fill(3);
  await until(() => !gateway.status().listening);
  await client.has("item", 3);
  await vi.waitFor(async () => expect((await world.presence.lookup([bob.agentId])).size).toBe(1));
  const readsBefore = world.bytesRead;
  fill(2);
  await client.has("item", 5);
  expect(client.seqs).toEqual([1, 2, 3, 4, 5]);
  expect(world.bytesRead).toBe(readsBefore);
});
