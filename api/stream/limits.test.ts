import { once } from "node:events";
import { expect, test } from "vitest";
import { WebSocket } from "ws";
import { newIdentity, signed } from "../../tests/signing.ts";
import { connect, envelope, newWorld, startGateway } from "../../tests/stream-stage.ts";
import { generousRates } from "../in-memory-rates.ts";

const limitOf = (name: keyof typeof generousRates, points: number) => ({
  ...generousRates,
  [name]: { ...generousRates[name], points },
});

/** How an upgrade is refused. */
async function refused(url: string, as = newIdentity(), extra: Record<string, string> = {}) {
  const { headers } = await signed(as, { method: "GET", url, headers: extra });
  const socket = new WebSocket(url, { headers });
  const [, response] = await once(socket, "unexpected-response");
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk);
  const retryAfter = response.headers["retry-after"];
  return { status: response.statusCode, retryAfter, ...JSON.parse(Buffer.concat(chunks).toString()) };
}

test("a batch over its sender's limit is refused by frame, with when to send it again, and the stream goes on", async () => {
  const { world, alice, bob } = newWorld();
  world.rateLimits = limitOf("messages", 2);
  const client = await connect(await startGateway(world), alice);
  const bytes = () => envelope(alice, bob).bytes;
  client.send({ type: "send", batch: 1, envelopes: [bytes(), bytes(), bytes()] });
  await client.has("rejected");
  expect(client.frames.find(({ type }) => type === "rejected")).toMatchObject({
    batch: 1,
    problem: { code: "rate-limited", status: 429, retryable: true, policy: "messages", retry_after: 60 },
  });
  expect(world.appended).toEqual([]);
  client.send({ type: "send", batch: 2, envelopes: [bytes(), bytes()] });
  await client.has("accepted");
  expect(world.appended).toHaveLength(2);
});

test("messages over the limit of one recipient are named, as over HTTP", async () => {
  const { world, alice, bob } = newWorld();
  world.rateLimits = limitOf("pair", 1);
  const client = await connect(await startGateway(world), alice);
  const toBob = [envelope(alice, bob), envelope(alice, bob)];
  const envelopes = [envelope(alice, alice), ...toBob].map(({ bytes }) => bytes);
  client.send({ type: "send", batch: 1, envelopes });
  await client.has("rejected");
  expect(client.frames.find(({ type }) => type === "rejected")).toMatchObject({
    problem: {
      ...{ code: "rate-limited", policy: "pair", retry_after: 60 },
      errors: toBob.map(({ messageId }, n) => ({
        ...{ pointer: `/envelopes/${n + 1}/recipient_id`, code: "rate-limited" },
        ...{ message_id: messageId, recipient_id: bob.agentId },
      })),
    },
  });
});

test("connecting is a call, and a bad signature counts against its address", async () => {
  const { world, alice } = newWorld();
  world.rateLimits = { ...limitOf("calls", 1), unproven: { ...generousRates.unproven, points: 2 } };
  const place = await startGateway(world);
  await connect(place, alice);
  const again = await refused(place.url, alice);
  expect(again).toMatchObject({ status: 429, retryAfter: "60", code: "rate-limited", policy: "calls" });
  for (const [status, code] of [
    [401, "agent-unknown"],
    [401, "agent-unknown"],
    [429, "rate-limited"],
  ] as const) {
    expect(await refused(place.url)).toMatchObject({ status, code });
  }
});

test("connecting with a chain that does not hold is a call as well", async () => {
  const { world, alice } = newWorld();
  world.rateLimits = limitOf("calls", 1);
  const { url } = await startGateway(world);
  const chain = { "sealpost-delegation": "nonsense" };
  expect(await refused(url, alice, chain)).toMatchObject({ status: 403, code: "delegation-refused" });
  expect(await refused(url, alice, chain)).toMatchObject({ status: 429, policy: "calls" });
});

test("refused batches are limited like calls: beyond that one is refused without a question, and the stream goes on", async () => {
  const { world, alice, bob } = newWorld();
  world.rateLimits = limitOf("calls", 3);
  world.policies.listed.add(`${bob.agentId} block ${alice.agentId}`);
  let asked = 0;
  const { authorize } = world;
  Object.assign(world, {
    authorize: (asks: Parameters<typeof authorize>[0]) => authorize(asks).finally(() => asked++),
  });
  const client = await connect(await startGateway(world), alice);
  const send = async (batch: number) => {
    client.send({ type: "send", batch, envelopes: [envelope(alice, bob).bytes] });
    await expect.poll(() => client.frames.filter(({ type }) => type === "rejected").length).toBe(batch);
    return client.frames.at(-1);
  };
  for (let n = 1; n <= 3; n++) expect(await send(n)).toMatchObject({ problem: { code: "not-allowed" } });
  for (let n = 4; n <= 6; n++) {
    expect(await send(n)).toMatchObject({ problem: { code: "rate-limited", policy: "calls", retry_after: 60 } });
  }
  expect(asked).toBe(3);
  expect(client.socket.readyState).toBe(client.socket.OPEN);
});

test("a batch that is taken is no call", async () => {
  const { world, alice, bob } = newWorld();
  world.rateLimits = limitOf("calls", 1);
  const client = await connect(await startGateway(world), alice);
  for (let batch = 1; batch <= 3; batch++)
    client.send({ type: "send", batch, envelopes: [envelope(alice, bob).bytes] });
  await expect.poll(() => client.frames.filter(({ type }) => type === "accepted").length).toBe(3);
});
