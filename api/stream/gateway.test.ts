import { once } from "node:events";
import { connect as connectTo } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { WebSocket } from "ws";
import { makeMessageId } from "../../protocol/message-id.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import type { ItemFrame } from "../../protocol/stream-frames.ts";
import { newIdentity, signed } from "../../tests/signing.ts";
import { pause, until } from "../../tests/stream-client.ts";
import { connect, envelope, fill, newWorld, startGateway, upTo } from "../../tests/stream-stage.ts";

test("an upgrade that is not signed is answered 401 with a problem, one of another path 404", async () => {
  const { world, alice } = newWorld();
  const place = await startGateway(world);
  for (const [url, headers, status, code] of [
    [place.url, {}, 401, "signature-missing"],
    [`${place.url}/other`, {}, 404, "not-found"],
    [place.url, (await signed(newIdentity(), { method: "GET", url: place.url })).headers, 401, "agent-unknown"],
    [place.url, (await signed(alice, { method: "GET", url: `${place.url}?more` })).headers, 401, "signature-invalid"],
  ] as const) {
    const socket = new WebSocket(url, { headers });
    const [, response] = await once(socket, "unexpected-response");
    const chunks: Buffer[] = [];
    for await (const chunk of response) chunks.push(chunk);
    expect(response.statusCode).toBe(status);
    expect(response.headers["content-type"]).toBe("application/problem+json");
    expect(JSON.parse(Buffer.concat(chunks).toString())).toMatchObject({ status, code });
  }
  expect(place.gateway.status().connections).toBe(0);
});

test("a client that was refused and closes nothing is cut off all the same", async () => {
  const { world } = newWorld();
  const { port } = new URL((await startGateway(world)).url);
  const socket = connectTo({ port: Number(port), host: "127.0.0.1", allowHalfOpen: true });
  onTestFinished(() => void socket.destroy());
  let heard = "";
  socket.on("data", (data) => {
    heard += data;
  });
  socket.write("GET /messaging/stream HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
  await until(() => heard.includes("signature-missing"));
  const timer = setInterval(() => socket.write("x"), 20);
  onTestFinished(() => clearInterval(timer));
  await new Promise((resolve) => socket.on("error", () => undefined).once("close", resolve));
});

test("a new stream gets everything that waits, hears that the queue is empty, and then what is stored", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world);
  fill(world, bob, alice, 200);
  const client = await connect(place, bob);
  await client.has("queue-empty");
  expect(client.seqs).toEqual(upTo(200));
  expect(client.frames.at(-1)).toEqual({ type: "queue-empty", lastSeq: 200 });
  fill(world, bob, alice, 3);
  await client.has("item", 203);
  expect(client.seqs).toEqual(upTo(203));
  expect(world.mailbox(bob.agentId).rows).toHaveLength(203);
});

test("whoever connects needs no more waking, from when its presence is known", async () => {
  const { world, bob } = newWorld();
  const place = await startGateway(world);
  const client = await connect(place, bob);
  await client.has("queue-empty");
  expect(world.came).toEqual([[bob.agentId, world.present.get(bob.agentId)?.connectionId]]);
  expect(world.came[0]?.[1]).toBeDefined();
});

test("whoever came while Redis was away needs no more waking once it is back, also when it has gone again", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { refreshMs: 20, awaySweepMs: 20 });
  world.redisAway = true;
  const client = await connect(place, bob);
  await client.has("queue-empty");
  await place.gateway.came(alice.agentId);
  client.socket.close();
  await until(() => place.gateway.status().sockets === 0);
  expect(world.came).toEqual([]);
  world.redisAway = false;
  await until(() => world.came.length === 2);
  expect(world.came.map(([agentId]) => agentId).toSorted()).toEqual([alice.agentId, bob.agentId].toSorted());
  await pause(100);
  expect([world.came.length, world.bugs]).toEqual([2, []]);
});

test("whose presence was lost for a while needs no more waking when it is known again", async () => {
  const { world, bob } = newWorld();
  const place = await startGateway(world, { refreshMs: 20 });
  const client = await connect(place, bob);
  await client.has("queue-empty");
  await until(() => world.came.length === 1);
  world.present.clear();
  await until(() => world.came.length === 2);
  expect(world.came[1]).toEqual([bob.agentId, world.present.get(bob.agentId)?.connectionId]);
  await pause(100);
  expect(world.came).toHaveLength(2);
});

test("an item is reported delivered when it was written, many in one record", async () => {
  const { world, alice, bob } = newWorld();
  fill(world, bob, alice, 250);
  const client = await connect(await startGateway(world), bob);
  await client.has("item", 250);
  await until(() => world.receiptItems.length === 250);
  expect(world.receiptItems.every(({ outcome, door }) => outcome === "delivered" && door === "stream")).toBe(true);
  expect(world.receiptRecordSizes.length).toBeLessThan(10);
});

test("what was stored and not handed over is found by the sweep", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { sweepMs: 20 });
  const client = await connect(place, bob);
  await client.has("queue-empty");
  world.deaf = true;
  fill(world, bob, alice, 2);
  await client.has("item", 2);
  world.deaf = false;
  fill(world, bob, alice, 1);
  await client.has("item", 3);
  expect(client.seqs).toEqual([1, 2, 3]);
});

test("without Redis streams open and are served by the faster sweep", async () => {
  const { world, alice, bob } = newWorld();
  world.redisAway = true;
  const place = await startGateway(world, { awaySweepMs: 20 });
  fill(world, bob, alice, 1);
  const client = await connect(place, bob);
  await client.has("item");
  fill(world, bob, alice, 2);
  await client.has("item", 3);
  client.send({ type: "ack-up-to", seq: 3 });
  await until(() => world.mailbox(bob.agentId).rows.length === 0);
  expect(client.seqs).toEqual([1, 2, 3]);
});

test("after a gap in the channel what was missed is found at once", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world);
  const client = await connect(place, bob);
  await client.has("queue-empty");
  world.deaf = true;
  fill(world, bob, alice, 2);
  world.deaf = false;
  world.listeners.get(place.gateway.id)?.onGap();
  await client.has("item", 2);
  expect(client.seqs).toEqual([1, 2]);
});

test("while PostgreSQL is away nothing is sent, and everything afterwards", async () => {
  const { world, alice, bob } = newWorld();
  world.postgresAway = true;
  const place = await startGateway(world, { sweepMs: 20 });
  fill(world, bob, alice, 3);
  const client = await connect(place, bob);
  await pause(60);
  expect(client.frames).toEqual([]);
  world.postgresAway = false;
  await client.has("queue-empty");
  expect(client.seqs).toEqual([1, 2, 3]);
});

test("a refresh sets a presence again that Redis forgot, or that a poll took meanwhile", async () => {
  const { world, bob } = newWorld();
  const place = await startGateway(world, { refreshMs: 20 });
  const client = await connect(place, bob);
  await client.has("queue-empty");
  const own = world.present.get(bob.agentId);
  world.present.clear();
  await until(() => world.present.get(bob.agentId)?.connectionId === own?.connectionId);
  world.present.set(bob.agentId, { gatewayId: "another", connectionId: "poll-1" });
  await until(() => world.present.get(bob.agentId)?.connectionId === own?.connectionId);
  expect(client.socket.readyState).toBe(WebSocket.OPEN);
});

test("a closed stream gives its presence up, and only its own", async () => {
  const { world, bob } = newWorld();
  const [first, second] = [await startGateway(world), await startGateway(world)];
  const one = await connect(first, bob);
  await one.has("queue-empty");
  one.socket.close();
  await until(() => !world.present.has(bob.agentId));
  const two = await connect(first, bob);
  await two.has("queue-empty");
  const three = await connect(second, bob);
  await two.closed;
  await pause(20);
  expect(world.present.get(bob.agentId)?.gatewayId).toBe(second.gateway.id);
  three.socket.close();
});

test.each([
  ["a text message", "hello"],
  ["an empty message", new Uint8Array(0)],
  ["an unknown frame", Uint8Array.of(9, 0, 0, 0, 0)],
  ["a frame cut short", Uint8Array.of(3, 0, 0, 0, 8, 1)],
  ["a good frame followed by a bad one", Uint8Array.of(3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1, 7)],
  ["101 envelopes", Buffer.from(`010000019900000001${"65"}${"00000000".repeat(101)}`, "hex")],
])("%s is answered with a problem and the close 4400, and nothing is appended", async (_name, message) => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world);
  fill(world, bob, alice, 1);
  const client = await connect(place, bob);
  await client.has("item");
  client.socket.send(message);
  expect(await client.closed).toBe(4400);
  expect(client.frames.at(-1)).toMatchObject({ type: "problem", problem: { code: "malformed", status: 400 } });
  await pause(10);
  expect(world.appended).toEqual([]);
  expect(world.mailbox(bob.agentId).rows).toHaveLength(1);
});

test("a message beyond 8 MiB is not taken", async () => {
  const { world, alice } = newWorld();
  const client = await connect(await startGateway(world), alice);
  client.socket.send(new Uint8Array(8 * 1024 * 1024 + 1));
  expect(await client.closed).toBe(1009);
});

test("what is sent is appended and answered by its batch", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world);
  const [sender, receiver] = [await connect(place, alice), await connect(place, bob)];
  await receiver.has("queue-empty");
  const messages = [envelope(alice, bob), envelope(alice, bob)];
  sender.send({ type: "send", batch: 7, envelopes: messages.map(({ bytes }) => bytes) });
  await sender.has("accepted");
  expect(sender.frames).toContainEqual({ type: "accepted", batch: 7 });
  await receiver.has("item", 2);
  expect(receiver.items.map(({ itemId }) => itemId)).toEqual(messages.map(({ messageId }) => messageId));
  expect(receiver.items.map(({ body }) => [...body])).toEqual(messages.map(({ bytes }) => [...bytes]));
});

test("an envelope with another agent's id is refused by name, and nothing of its batch is appended", async () => {
  const { world, alice, bob } = newWorld();
  const client = await connect(await startGateway(world), alice);
  const foreign = envelope(bob, alice);
  client.send({ type: "send", batch: 1, envelopes: [envelope(alice, bob).bytes, foreign.bytes] });
  await client.has("rejected");
  expect(client.frames.find(({ type }) => type === "rejected")).toMatchObject({
    batch: 1,
    problem: {
      code: "sender-mismatch",
      status: 403,
      errors: [{ pointer: "/envelopes/1/sender_id", message_id: foreign.messageId }],
    },
  });
  expect(world.appended).toEqual([]);
  client.send({ type: "send", batch: 2, envelopes: [envelope(alice, bob).bytes] });
  await client.has("accepted");
});

test("an envelope to who has blocked its sender is refused by name and rule, and nothing of its batch is appended", async () => {
  const { world, alice, bob } = newWorld();
  const client = await connect(await startGateway(world), alice);
  const refused = envelope(alice, bob);
  world.policies.listed.add(`${bob.agentId} block ${alice.agentId}`);
  client.send({ type: "send", batch: 1, envelopes: [envelope(alice, alice).bytes, refused.bytes] });
  await client.has("rejected");
  expect(client.frames.find(({ type }) => type === "rejected")).toMatchObject({
    batch: 1,
    problem: {
      ...{ code: "not-allowed", status: 403, rule: "blocked" },
      errors: [{ pointer: "/envelopes/1/recipient_id", message_id: refused.messageId, rule: "blocked" }],
    },
  });
  expect(world.appended).toEqual([]);
  world.policies.listed.clear();
  client.send({ type: "send", batch: 2, envelopes: [refused.bytes] });
  await client.has("accepted");
});

test("bytes that are no envelope, and a recipient nobody knows, are refused by their place", async () => {
  const { world, alice, bob } = newWorld();
  const client = await connect(await startGateway(world), alice);
  const unknown = envelope(alice, newIdentity());
  client.send({ type: "send", batch: 1, envelopes: [Uint8Array.of(1), envelope(alice, bob).bytes, unknown.bytes] });
  await client.has("rejected");
  expect(client.frames.find(({ type }) => type === "rejected")).toMatchObject({
    problem: {
      errors: [
        { pointer: "/envelopes/0", code: "malformed" },
        { pointer: "/envelopes/2/recipient_id", code: "recipient-unknown" },
      ],
    },
  });
  expect(world.appended).toEqual([]);
});

test("batches are appended in the order in which they came, whatever their checks take", async () => {
  const { world, alice, bob } = newWorld();
  const client = await connect(await startGateway(world), alice);
  await client.has("queue-empty");
  world.checkDelaysMs = [60, 0, 30, 0];
  const messages = upTo(4).map(() => envelope(alice, bob));
  messages.forEach(({ bytes }, batch) => {
    client.send({ type: "send", batch, envelopes: [bytes] });
  });
  await client.has("accepted", 4);
  expect(world.appended.map(({ itemId }) => itemId)).toEqual(messages.map(({ messageId }) => messageId));
});

test("a refused batch does not hold up those after it", async () => {
  const { world, alice, bob } = newWorld();
  const client = await connect(await startGateway(world), alice);
  client.send(
    { type: "send", batch: 1, envelopes: [envelope(bob, alice).bytes] },
    { type: "send", batch: 2, envelopes: [envelope(alice, bob).bytes] },
  );
  await client.has("accepted");
  await client.has("rejected");
  expect(world.appended).toHaveLength(1);
});

test("while Kafka is away a batch is rejected as one to repeat, and repeated it is taken", async () => {
  const { world, alice, bob } = newWorld();
  const client = await connect(await startGateway(world), alice);
  const { bytes } = envelope(alice, bob);
  world.kafkaAway = true;
  client.send({ type: "send", batch: 1, envelopes: [bytes] });
  await client.has("rejected");
  expect(client.frames.find(({ type }) => type === "rejected")).toMatchObject({
    problem: { status: 503, code: "unavailable", retryable: true },
  });
  world.kafkaAway = false;
  client.send({ type: "send", batch: 2, envelopes: [bytes] });
  await client.has("accepted");
});

test("a client with too many open batches is not read from until some are answered", async () => {
  const { world, alice, bob } = newWorld();
  const client = await connect(await startGateway(world), alice);
  await client.has("queue-empty");
  const { promise, resolve } = Promise.withResolvers<void>();
  world.kafkaAnswers = promise;
  const before = world.checks;
  for (let batch = 0; batch < 100; batch++) {
    client.send({ type: "send", batch, envelopes: [envelope(alice, bob, 20_000).bytes] });
  }
  await until(() => world.checks - before >= 16);
  await pause(50);
  // What had arrived with the last one that was read is looked at, too.
  expect(world.checks - before).toBeLessThan(24);
  resolve();
  await client.has("accepted", 100);
  expect(world.appended).toHaveLength(100);
});

test("an acknowledged item is gone, and its sender gets the receipts", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world);
  const [sender, receiver] = [await connect(place, alice), await connect(place, bob)];
  await sender.has("queue-empty");
  await receiver.has("queue-empty");
  const { messageId, bytes } = envelope(alice, bob);
  sender.send({ type: "send", batch: 1, envelopes: [bytes] });
  await receiver.has("item");
  receiver.send({ type: "ack", items: [{ senderId: alice.agentId, itemId: messageId }] });
  await sender.has("receipt", 2);
  const receipts = sender.frames.filter((frame) => frame.type === "receipt");
  expect(new Set(receipts.map(({ status }) => status))).toEqual(new Set(["delivered", "acknowledged"]));
  expect(receipts[0]).toMatchObject({ recipientId: bob.agentId, messageId });
  expect(world.mailbox(bob.agentId).rows).toEqual([]);
});

test("a refusal carries its code to the sender", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world);
  const [sender, receiver] = [await connect(place, alice), await connect(place, bob)];
  await sender.has("queue-empty");
  fill(world, bob, alice, 1);
  await receiver.has("item");
  const { itemId } = receiver.items[0] as ItemFrame;
  receiver.send({ type: "refuse", code: "auth-failed", senderId: alice.agentId, itemId });
  await until(() => sender.frames.some((frame) => frame.type === "receipt" && frame.status === "discarded"));
  expect(sender.frames.at(-1)).toMatchObject({ status: "discarded", code: "auth-failed", messageId: itemId });
});

test("a retry request is an item like the others", async () => {
  const { world, alice, bob } = newWorld();
  const client = await connect(await startGateway(world), bob);
  await client.has("queue-empty");
  const itemId = makeMessageId(Date.now(), nodeRandom);
  const body = Buffer.from("{}");
  world.store({ recipientId: bob.agentId, senderId: alice.agentId, itemId, kind: "retry", body });
  await client.has("item");
  expect(client.items[0]).toMatchObject({ kind: "retry", seq: 1, itemId });
  client.send({ type: "ack", items: [{ senderId: alice.agentId, itemId }] });
  await until(() => world.mailbox(bob.agentId).rows.length === 0);
});

test("a cumulative answer ends what was sent on this connection, and nothing that was not", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { sweepMs: 30 });
  fill(world, bob, alice, 3);
  const client = await connect(place, bob);
  await client.has("item", 3);
  world.postgresAway = true;
  world.deaf = true;
  fill(world, bob, alice, 2);
  client.send({ type: "ack-up-to", seq: 1_000_000 });
  await until(() => world.mailbox(bob.agentId).rows.length === 2);
  const next = await connect(place, bob);
  next.send({ type: "ack-up-to", seq: 5 });
  await pause(20);
  world.postgresAway = false;
  await next.has("queue-empty");
  expect(next.seqs).toEqual([4, 5]);
  expect(world.mailbox(bob.agentId).rows.map(({ seq }) => seq)).toEqual([4, 5]);
});

test("no more than 256 items are unanswered, and answers let the next ones through", async () => {
  const { world, alice, bob } = newWorld();
  fill(world, bob, alice, 600);
  const client = await connect(await startGateway(world), bob);
  await client.has("item", 256);
  await pause(30);
  expect(client.seqs).toEqual(upTo(256));
  client.send({ type: "ack-up-to", seq: 100 });
  await client.has("item", 356);
  await pause(30);
  expect(client.seqs).toEqual(upTo(356));
  expect(client.frames.some(({ type }) => type === "queue-empty")).toBe(false);
  client.send({ type: "ack-up-to", seq: 356 });
  await client.has("queue-empty");
  expect(client.seqs).toEqual(upTo(600));
});

test("no more than 4 MiB are unanswered", async () => {
  const { world, alice, bob } = newWorld();
  fill(world, bob, alice, 100, new Uint8Array(65_536));
  const client = await connect(await startGateway(world), bob);
  await client.has("item", 64);
  await pause(30);
  expect(client.seqs).toEqual(upTo(64));
  client.send({ type: "ack-up-to", seq: 64 });
  await client.has("queue-empty");
  expect(client.seqs).toEqual(upTo(100));
});

test("what is answered by another door frees the window at the sweep", async () => {
  const { world, alice, bob } = newWorld();
  fill(world, bob, alice, 300);
  const client = await connect(await startGateway(world, { sweepMs: 20 }), bob);
  await client.has("item", 256);
  world.mailbox(bob.agentId).rows.splice(0, 256);
  await client.has("item", 300);
  expect(client.seqs).toEqual(upTo(300));
});

test("a client that answers without reading is held back, and loses nothing when it reads again", async () => {
  const { world, alice, bob } = newWorld();
  const body = new Uint8Array(60_000);
  const bodies = 1_000;
  fill(world, bob, alice, bodies, body);
  const client = await connect(await startGateway(world), bob);
  client.socket.pause();
  let answered = 0;
  for (; answered < 200; answered++) {
    client.send({ type: "ack-up-to", seq: 1_000_000 });
    await pause(2);
  }
  // What the gateway holds, and what two sockets on one machine swallow.
  expect(world.bytesRead).toBeLessThan(30_000_000);
  client.socket.resume();
  const acks = setInterval(() => client.send({ type: "ack-up-to", seq: client.seqs.at(-1) ?? 0 }), 5);
  await client.has("queue-empty");
  clearInterval(acks);
  expect(client.seqs).toEqual(upTo(bodies));
});

test("a client that does not read, whose mail is answered by another door, is held back as well", async () => {
  const { world, alice, bob } = newWorld();
  fill(world, bob, alice, 1_000, new Uint8Array(60_000));
  const client = await connect(await startGateway(world, { sweepMs: 5 }), bob);
  client.socket.pause();
  const { rows } = world.mailbox(bob.agentId);
  const sent = () => world.lastSent.get(bob.agentId) ?? 0;
  for (let round = 0; round < 100; round++) {
    while ((rows[0]?.seq ?? Number.POSITIVE_INFINITY) <= sent()) rows.shift();
    await pause(5);
  }
  // What the gateway holds, and what two sockets on one machine swallow.
  expect(world.bytesRead).toBeLessThan(30_000_000);
  client.socket.resume();
  const answering = setInterval(() => {
    while ((rows[0]?.seq ?? Number.POSITIVE_INFINITY) <= (client.seqs.at(-1) ?? 0)) rows.shift();
  }, 5);
  await client.has("queue-empty");
  clearInterval(answering);
  expect(client.seqs).toEqual(upTo(1_000));
});

test("answers given while Kafka is away arrive when it is back", async () => {
  const { world, alice, bob } = newWorld();
  fill(world, bob, alice, 5);
  const client = await connect(await startGateway(world), bob);
  await client.has("item", 5);
  await until(() => world.receiptItems.length === 5);
  world.kafkaAway = true;
  client.send({ type: "ack-up-to", seq: 5 });
  await pause(50);
  expect(world.mailbox(bob.agentId).rows).toHaveLength(5);
  world.kafkaAway = false;
  await until(() => world.mailbox(bob.agentId).rows.length === 0);
});

test("a suspended agent's stream is closed with 4401", async () => {
  const { world, bob, alice } = newWorld();
  const place = await startGateway(world, { standingMs: 20 });
  const [client, other] = [await connect(place, bob), await connect(place, alice)];
  world.suspend(bob.agentId);
  expect(await client.closed).toBe(4401);
  expect(client.frames.at(-1)).toMatchObject({ type: "problem", problem: { code: "agent-suspended" } });
  expect(other.socket.readyState).toBe(WebSocket.OPEN);
});

test("an agent that was suspended after its signature was checked is sent nothing, and takes nobody's place", async () => {
  const { world, bob, alice } = newWorld();
  fill(world, bob, alice, 1);
  // As the API does, which remembers agents for some seconds.
  const remembered = new Map(world.agents);
  Object.assign(world, { findAgents: async () => remembered });
  world.suspend(bob.agentId);
  const client = await connect(await startGateway(world), bob);
  expect(await client.closed).toBe(4401);
  expect(client.frames.map(({ type }) => type)).toEqual(["problem"]);
  expect(world.present.size).toBe(0);
});

test("a client that gives no sign of life is cut off, one that answers pings is not", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { pingMs: 40 });
  const [dead, alive] = [await connect(place, bob, { autoPong: false }), await connect(place, alice)];
  expect(await dead.closed).toBe(1006);
  await pause(100);
  expect(alive.socket.readyState).toBe(WebSocket.OPEN);
  expect(place.gateway.status().connections).toBe(1);
});

test("a draining gateway says goodbye, closes after the grace with 1012, and takes nobody new", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { graceMs: 1_500 });
  const [stays, leaves] = [await connect(place, alice), await connect(place, bob)];
  await stays.has("queue-empty");
  const drained = place.gateway.drain();
  await leaves.has("goaway");
  leaves.socket.close();
  stays.send({ type: "send", batch: 1, envelopes: [envelope(alice, bob).bytes] });
  await stays.has("accepted");
  const late = new WebSocket(place.url, { headers: (await signed(alice, { method: "GET", url: place.url })).headers });
  const [, response] = await once(late, "unexpected-response");
  expect(response.statusCode).toBe(503);
  expect(response.headers["retry-after"]).toBeDefined();
  response.destroy();
  expect(await stays.closed).toBe(1012);
  await drained;
  expect(world.present.size).toBe(0);
});

test("whose mailbox has something to hand out again is asked to connect anew, and closed after the grace; nobody else is", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { graceMs: 50 });
  fill(world, bob, alice, 1);
  const [quiet, asked] = [await connect(place, alice), await connect(place, bob)];
  await quiet.has("queue-empty");
  await asked.has("queue-empty");
  world.listeners.get(place.gateway.id)?.onEntries([
    { type: "reconnect", agentId: bob.agentId },
    { type: "reconnect", agentId: "nobody" },
  ]);
  await asked.has("goaway");
  expect(asked.frames.at(-1)).toEqual({ type: "goaway", reason: "retry" });
  expect(await asked.closed).toBe(1012);
  const again = await connect(place, bob);
  await again.has("queue-empty");
  expect(again.seqs).toEqual([1]);
  expect(quiet.frames.some(({ type }) => type === "goaway")).toBe(false);
  expect(quiet.socket.readyState).toBe(WebSocket.OPEN);
});

test("a poll learns of a stream here or elsewhere, and only of a stream", async () => {
  const { world, bob } = newWorld();
  const [here, elsewhere] = [await startGateway(world), await startGateway(world)];
  expect(await here.gateway.hasStream(bob.agentId)).toBe(false);
  const waiting = here.gateway.waitForMail(bob.agentId, new AbortController().signal, 500);
  expect(await elsewhere.gateway.hasStream(bob.agentId)).toBe(false);
  const client = await connect(elsewhere, bob);
  await client.has("queue-empty");
  expect(await here.gateway.hasStream(bob.agentId)).toBe(true);
  expect(await elsewhere.gateway.hasStream(bob.agentId)).toBe(true);
  world.redisAway = true;
  expect(await here.gateway.hasStream(bob.agentId)).toBe(false);
  world.redisAway = false;
  await waiting;
  expect(world.present.get(bob.agentId)?.gatewayId).toBe(elsewhere.gateway.id);
});

test("a waiting poll hears at once of what is stored, and gives its presence up", async () => {
  const { world, alice, bob } = newWorld();
  const { gateway } = await startGateway(world);
  const started = Date.now();
  const waiting = gateway.waitForMail(bob.agentId, new AbortController().signal, 30_000);
  await until(() => world.present.has(bob.agentId));
  fill(world, bob, alice, 1);
  await waiting;
  expect(Date.now() - started).toBeLessThan(500);
  expect(world.present.size).toBe(0);
  const gone = new AbortController();
  const aborted = gateway.waitForMail(bob.agentId, gone.signal, 30_000);
  gone.abort();
  await aborted;
  expect(world.present.size).toBe(0);
});
