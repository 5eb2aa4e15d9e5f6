import { once } from "node:events";
import { connect as connectTo } from "node:net";
import { expect, test } from "vitest";
import { inMemoryService, jsonOf, someEnvelope } from "../tests/in-memory-service.ts";
import { signed } from "../tests/signing.ts";
import { connect, envelope, newWorld, startGateway } from "../tests/stream-stage.ts";
import { SendsUnderWay } from "./sends-under-way.ts";

/** So many calls are under way that nothing more is taken, until they end. */
function flooded() {
  let shed = 0;
  let now = 0;
  const sends = new SendsUnderWay(
    () => shed++,
    () => now,
  );
  const calls = Array.from({ length: 65 }, () => sends.begin());
  now += 499;
  calls.push(sends.begin());
  now += 1;
  return {
    sends,
    shed: () => shed,
    over: () => {
      for (const call of calls) call.end();
    },
  };
}

test("in a flood a call that sends is answered 503 with when to come back, before its signature is looked at, and others are served", async () => {
  const flood = flooded();
  const { http, alice, bob, get, post, ports } = await inMemoryService({ sends: flood.sends });
  const body = { envelopes: [jsonOf(someEnvelope(alice.agentId, bob.agentId))] };
  const refused = await post(alice, "/messaging/send", body);
  expect(refused.problem).toMatchObject({ status: 503, code: "overloaded", retryable: true, retry_after: 1 });
  expect(refused.headers.get("retry-after")).toBe("1");
  const unsigned = await fetch(`${http.url}/messaging/send`, { method: "POST", body: JSON.stringify(body) });
  expect(unsigned.status).toBe(503);
  expect([flood.shed(), ports.appended]).toEqual([2, []]);
  expect((await get(bob, "/messaging/receive")).status).toBe(200);

  flood.over();
  expect((await post(alice, "/messaging/send", body)).status).toBe(202);
  expect(flood.sends.count).toBe(0);
  expect((await post(alice, "/messaging/send", { envelopes: "none" })).status).toBe(400);
  expect(flood.sends.count).toBe(0);
  await http.close();
});

test("in a flood a batch on a stream is refused by frame, answers are taken, and the stream goes on", async () => {
  const flood = flooded();
  const { world, alice, bob } = newWorld();
  world.sends = flood.sends;
  const client = await connect(await startGateway(world), alice);
  const batch = (number: number) => ({
    type: "send" as const,
    batch: number,
    envelopes: [envelope(alice, bob).bytes],
  });
  client.send(batch(1));
  await client.has("rejected");
  expect(client.frames.find(({ type }) => type === "rejected")).toMatchObject({
    batch: 1,
    problem: { code: "overloaded", status: 503, retryable: true, retry_after: 1 },
  });
  flood.over();
  client.send(batch(2));
  await client.has("accepted");
  expect(world.appended).toHaveLength(1);
  expect(flood.sends.count).toBe(0);
});

test("bodies that do not come are no flood: whoever sends one is served", async () => {
  let now = 0;
  const sends = new SendsUnderWay(undefined, () => now);
  const { http, alice, bob, post } = await inMemoryService({ sends });
  const { host, port } = new URL(http.url);
  const body = () => ({ envelopes: [jsonOf(someEnvelope(alice.agentId, bob.agentId))] });
  async function slowUpload() {
    const { headers } = await signed(alice, { method: "POST", url: `${http.url}/messaging/send`, body: body() });
    const own = { host, "content-length": "100", expect: "100-continue" };
    const lines = Object.entries({ ...headers, ...own }).map(([name, value]) => `${name}: ${value}\r\n`);
    const socket = connectTo(Number(port), "127.0.0.1");
    socket.write(`POST /messaging/send HTTP/1.1\r\n${lines.join("")}\r\n`);
    const [heard] = await once(socket.setEncoding("latin1"), "data");
    expect(heard).toContain("100 Continue");
    return socket;
  }
  const slow = await Promise.all(Array.from({ length: 80 }, slowUpload));
  for (let n = 0; n < 3; n++) {
    expect((await post(alice, "/messaging/send", body())).status).toBe(202);
    now += 400;
  }
  for (const socket of slow) socket.destroy();
  await http.close();
});
