import { expect, test } from "vitest";
import { decodeEnvelope, envelopeToJson } from "../../protocol/envelope.ts";
import { makeMessageId } from "../../protocol/message-id.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import { pause, until } from "../../tests/stream-client.ts";
import {
  connect,
  connectEvents,
  envelope,
  fillEnvelopes,
  newWorld,
  startGateway,
  upTo,
} from "../../tests/stream-stage.ts";

test("events bring everything that waits, then queue_empty, then what is stored; ids are a poll's cursors", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world);
  fillEnvelopes(world, bob, alice, 200);
  const client = await connectEvents(place, bob);
  await client.has("queue_empty");
  expect(client.events.at(-1)).toEqual({ name: "queue_empty", id: "200", data: { last_seq: 200 } });
  fillEnvelopes(world, bob, alice, 3);
  await client.has("item", 203);
  expect(client.seqs).toEqual(upTo(203));
  expect(client.named("item").map(({ id }) => Number(id))).toEqual(upTo(203));
  const [row] = world.mailbox(bob.agentId).rows;
  expect(client.named("item")[0]?.data).toEqual({
    seq: 1,
    kind: "message",
    sender_id: alice.agentId,
    item_id: row?.itemId,
    envelope: envelopeToJson(decodeEnvelope(row?.body ?? new Uint8Array())),
  });
});

test("what was written is reported delivered, many in one record", async () => {
  const { world, alice, bob } = newWorld();
  fillEnvelopes(world, bob, alice, 100);
  await connectEvents(await startGateway(world), bob);
  await until(() => world.receiptItems.length === 100);
  expect(world.receiptItems.every(({ outcome, door }) => outcome === "delivered" && door === "stream")).toBe(true);
  expect(world.receiptRecordSizes.length).toBeLessThan(10);
});

test("Last-Event-ID skips nothing: a new connection starts with everything that is not answered", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world);
  fillEnvelopes(world, bob, alice, 3);
  const first = await connectEvents(place, bob);
  await first.has("queue_empty");
  first.cut();
  const second = await connectEvents(place, bob, { "last-event-id": "2" });
  await second.has("queue_empty");
  expect(second.seqs).toEqual([1, 2, 3]);
});

test("the newest connection wins, whichever door it and the older one came through", async () => {
  const { world, bob } = newWorld();
  const [here, there] = [await startGateway(world), await startGateway(world)];
  for (const place of [here, there]) {
    const socket = await connect(here, bob);
    await socket.has("queue-empty");
    const events = await connectEvents(place, bob);
    expect(await socket.closed).toBe(4409);
    await events.has("queue_empty");
    const newer = await connect(here, bob);
    expect(await events.closed).toBe(4409);
    await newer.has("queue-empty");
    const newest = await connectEvents(place, bob);
    expect(await newer.closed).toBe(4409);
    await newest.has("queue_empty");
    expect(await here.gateway.hasStream(bob.agentId)).toBe(true);
    newest.cut();
    await until(() => world.present.size === 0);
  }
});

test("no more than 256 items are unanswered; answers over HTTP let the next ones through, here at once", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world);
  fillEnvelopes(world, bob, alice, 600);
  const client = await connectEvents(place, bob);
  await client.has("item", 256);
  await pause(30);
  expect(client.seqs).toEqual(upTo(256));
  const answer = (count: number) => {
    const items = client.named("item").slice(0, count);
    place.gateway.answered(
      bob.agentId,
      items.map(({ data }) => ({ senderId: data.sender_id, itemId: data.item_id })),
    );
  };
  answer(100);
  await client.has("item", 356);
  await pause(30);
  expect(client.seqs).toEqual(upTo(356));
  answer(356);
  await client.has("queue_empty");
  expect(client.seqs).toEqual(upTo(600));
});

test("what was answered at another process frees the window at the sweep", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { sweepMs: 20 });
  fillEnvelopes(world, bob, alice, 300);
  const client = await connectEvents(place, bob);
  await client.has("item", 256);
  world.mailbox(bob.agentId).rows.splice(0, 256);
  await client.has("item", 300);
  expect(client.seqs).toEqual(upTo(300));
});

test("a sender hears by events what became of its message, and of what it should see to", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world);
  const [sender, receiver] = [await connectEvents(place, alice), await connect(place, bob)];
  await sender.has("queue_empty");
  await receiver.has("queue-empty");
  const { messageId, bytes } = envelope(alice, bob);
  world.store({
    recipientId: bob.agentId,
    senderId: alice.agentId,
    itemId: messageId,
    kind: "message",
    body: bytes,
  });
  await receiver.has("item");
  receiver.send({ type: "refuse", code: "auth-failed", senderId: alice.agentId, itemId: messageId });
  await sender.has("receipt", 2);
  const [delivered, discarded] = sender.named("receipt").map(({ data }) => data);
  const about = { message_id: messageId, recipient_id: bob.agentId, at: expect.stringMatching(/^\d{4}-.*Z$/) };
  expect(delivered).toEqual({ ...about, status: "delivered", code: null });
  expect(discarded).toEqual({ ...about, status: "discarded", code: "auth-failed" });
  world.listeners.get(place.gateway.id)?.onEntries([{ type: "notice", agentId: alice.agentId, kind: "prekeys-low" }]);
  await sender.has("notice");
  expect(sender.events.at(-1)).toEqual({ name: "notice", id: null, data: { kind: "prekeys-low" } });
});

test("a retry request is an item like the others", async () => {
  const { world, alice, bob } = newWorld();
  const client = await connectEvents(await startGateway(world), bob);
  await client.has("queue_empty");
  const itemId = makeMessageId(Date.now(), nodeRandom);
  const body = Buffer.from('{"kind":"retry"}');
  world.store({ recipientId: bob.agentId, senderId: alice.agentId, itemId, kind: "retry", body });
  await client.has("item");
  expect(client.named("item")[0]?.data).toMatchObject({ kind: "retry", item_id: itemId, retry: { kind: "retry" } });
});

test("a drain says goaway first, and closes with 1012 after the grace; nobody new is taken", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { graceMs: 60 });
  const [stays, leaves] = [await connectEvents(place, alice), await connectEvents(place, bob)];
  await stays.has("queue_empty");
  const drained = place.gateway.drain();
  await leaves.has("goaway");
  leaves.cut();
  await expect(connectEvents(place, bob)).rejects.toThrow("503");
  expect(await stays.closed).toBe(1012);
  await drained;
  expect(stays.events.slice(-2).map(({ name }) => name)).toEqual(["goaway", "close"]);
  expect(world.present.size).toBe(0);
});

test("a suspended agent is told why, and closed with 4401", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { standingMs: 20 });
  const [client, other] = [await connectEvents(place, bob), await connectEvents(place, alice)];
  await client.has("queue_empty");
  world.suspend(bob.agentId);
  expect(await client.closed).toBe(4401);
  expect(client.named("problem")[0]?.data).toMatchObject({ code: "agent-suspended" });
  expect(other.named("close")).toEqual([]);
});

test("while nothing happens comments come, and who takes them stays", async () => {
  const { world, bob } = newWorld();
  const place = await startGateway(world, { pingMs: 20 });
  const client = await connectEvents(place, bob);
  await until(() => client.comments >= 5);
  expect(place.gateway.status().connections).toBe(1);
  expect(client.events.map(({ name }) => name)).toEqual(["queue_empty"]);
});

test("a client that does not read is held back by bytes, others are not, and it loses nothing when it reads again", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { sweepMs: 5 });
  fillEnvelopes(world, bob, alice, 700, 60_000);
  const client = await connectEvents(place, bob);
  client.response.pause();
  const other = await connectEvents(place, alice);
  const { rows } = world.mailbox(bob.agentId);
  const sent = () => world.lastSent.get(bob.agentId) ?? 0;
  for (let round = 1; round <= 100; round++) {
    while ((rows[0]?.seq ?? Number.POSITIVE_INFINITY) <= sent()) rows.shift();
    fillEnvelopes(world, alice, bob, 1);
    await other.has("item", round);
  }
  // What the gateway holds, and what two sockets on one machine swallow.
  expect(world.bytesRead).toBeLessThan(30_000_000);
  client.response.resume();
  const answering = setInterval(() => {
    while ((rows[0]?.seq ?? Number.POSITIVE_INFINITY) <= (client.seqs.at(-1) ?? 0)) rows.shift();
  }, 5);
  await client.has("queue_empty");
  clearInterval(answering);
  expect(client.seqs).toEqual(upTo(700));
});

test("a client that took nothing between two beats is cut off", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { pingMs: 100, sweepMs: 5 });
  fillEnvelopes(world, bob, alice, 1_000, 60_000);
  const client = await connectEvents(place, bob);
  client.response.pause();
  const { rows } = world.mailbox(bob.agentId);
  const answering = setInterval(() => {
    while ((rows[0]?.seq ?? Number.POSITIVE_INFINITY) <= (world.lastSent.get(bob.agentId) ?? 0)) rows.shift();
  }, 5);
  await until(() => place.gateway.status().sockets === 0);
  clearInterval(answering);
  expect(rows.length).toBeGreaterThan(0);
});
