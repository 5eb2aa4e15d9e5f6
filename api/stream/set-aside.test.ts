import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test } from "vitest";
import { makeMessageId } from "../../protocol/message-id.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import { newIdentity } from "../../tests/signing.ts";
import { type Client, openClient, pause, until } from "../../tests/stream-client.ts";
import { World } from "../../tests/stream-world.ts";
import { Gateway } from "./gateway.ts";
import { serveStreams } from "./upgrade.ts";

const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

/** A gateway, a recipient with so many items in its mailbox, and how to leave it. */
async function given(count: number) {
  const world = new World();
  const [sender, me] = [newIdentity(), newIdentity()];
  world.register(me);
  const itemIds = Array.from({ length: count }, () => makeMessageId(Date.now(), nodeRandom));
  const place = { senderId: sender.agentId, recipientId: me.agentId, kind: "message" as const };
  for (const itemId of itemIds) world.store({ ...place, itemId, body: new Uint8Array(10) });
  const gateway = new Gateway(world, { graceMs: 0, pingMs: 60_000 });
  const server = createServer((_request, response) => response.end());
  serveStreams(server, gateway, { ...world, publicAuthority: undefined });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  ends.push(async () => {
    await gateway.drain();
    server.close();
    expect(world.bugs).toEqual([]);
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/messaging/stream`;
  const aside = () => world.receiptItems.filter(({ outcome }) => outcome === "aside").map(({ itemId }) => itemId);
  /** Connects, gets what waits, and ends the connection so. */
  const visit = async (end: (client: Client) => void) => {
    const client = await openClient(url, me);
    await client.has("queue-empty");
    end(client);
    await client.closed;
    await until(() => gateway.status().connections === 0);
    // What is reported of a close takes no clock: it is there after some turns.
    await pause(10);
    return client.items.map(({ itemId }) => itemId);
  };
  return { world, gateway, itemIds, aside, visit };
}

const crash = ({ socket }: Client) => socket.terminate();

test("the first item of five connections that broke without its answer is set aside, and the others go on", async () => {
  const { itemIds, aside, visit, world } = await given(3);
  const [first, ...others] = itemIds;
  for (let n = 1; n <= 5; n++) {
    expect(aside()).toEqual([]);
    expect(await visit(crash)).toEqual(itemIds);
  }
  expect(aside()).toEqual([first]);
  expect(world.receiptItems.find(({ outcome }) => outcome === "aside")).toMatchObject({ door: "stream", code: null });
  expect(await visit(crash)).toEqual(others);
  expect(aside()).toEqual([first]);
});

test("an item that was answered is innocent, and so are those behind an item that was not", async () => {
  const { itemIds, aside, visit } = await given(9);
  // Each connection answers its first item, and breaks over the one behind it.
  for (let n = 0; n < 6; n++) {
    await visit((client) => {
      const [item] = client.items;
      if (item !== undefined) client.send({ type: "ack", items: [item] });
      setTimeout(() => client.socket.terminate(), 50);
    });
  }
  expect(aside()).toEqual([]);
  expect(await visit(crash)).toEqual(itemIds.slice(6));
});

test("a client that says goodbye, and a stream that the service ends, count for nothing", async () => {
  const { gateway, aside, visit, itemIds } = await given(1);
  for (let n = 0; n < 6; n++) await visit(({ socket }) => socket.close(1000));
  for (let n = 0; n < 6; n++) await visit(({ socket }) => socket.close());
  for (let n = 0; n < 4; n++) await visit(crash);
  expect(aside()).toEqual([]);
  const last = await visit(() => void gateway.drain());
  expect(last).toEqual(itemIds);
  expect(aside()).toEqual([]);
});

test("while Redis is away nothing is counted; while Kafka is, the next connection tries again", async () => {
  const { world, aside, visit, itemIds } = await given(1);
  for (let n = 0; n < 4; n++) await visit(crash);
  world.redisAway = true;
  await visit(crash);
  world.redisAway = false;
  world.kafkaAway = true;
  await visit(crash);
  expect(aside()).toEqual([]);
  world.kafkaAway = false;
  await visit(crash);
  expect(aside()).toEqual(itemIds);
});
