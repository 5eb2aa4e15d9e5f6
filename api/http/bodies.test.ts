import { randomUUID } from "node:crypto";
import { connect, type Socket } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type InMemoryService, inMemoryService, jsonOf, read, someEnvelope } from "../../tests/in-memory-service.ts";
import { call, newIdentity, type SigningOptions, sendSigned, signed } from "../../tests/signing.ts";
import { BodiesHeld } from "./bodies-held.ts";
import { BODY_BYTES_MAX } from "./body.ts";

let service: InMemoryService;
let bodies: BodiesHeld;
let sockets: Socket[];
beforeEach(async () => {
  sockets = [];
  bodies = new BodiesHeld({ bytesMax: 100_000, bytesOfOneMax: 60_000 });
  service = await inMemoryService({ bodies });
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await service.http.close();
});

function goodSend() {
  const { alice, bob, http } = service;
  const body = { envelopes: [jsonOf(someEnvelope(alice.agentId, bob.agentId))] };
  return { method: "POST", url: `${http.url}/messaging/send`, body };
}

/** A connection that has sent these headers with the request's, and no body yet. */
async function headsOnly(headers: Record<string, string>, options: SigningOptions = {}, as = service.alice) {
  const request = await signed(as, goodSend(), options);
  const { host, port } = new URL(request.url);
  const socket = connect(Number(port), "127.0.0.1");
  sockets.push(socket);
  let heard = "";
  socket.setEncoding("latin1").on("data", (data) => {
    heard += data;
  });
  socket.on("error", () => undefined);
  const own = { "content-length": String(request.body?.length ?? 0), ...headers };
  const lines = Object.entries({ host, ...request.headers, ...own }).map(([name, value]) => `${name}: ${value}`);
  socket.write(`POST /messaging/send HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`);
  const hears = async (what: RegExp) => {
    const until = Date.now() + 3_000;
    while (!what.test(heard)) {
      if (Date.now() > until) throw new Error(`what was heard is ${JSON.stringify(heard)}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return heard;
  };
  return { socket, body: request.body ?? Buffer.alloc(0), hears };
}

describe("a body is read only for who has signed it", () => {
  test("a bad signature over a large body is refused before a byte of the body has come", async () => {
    const { hears } = await headsOnly({ "content-length": String(BODY_BYTES_MAX) }, { keyid: newIdentity().agentId });
    await hears(/^HTTP\/1\.1 401 .*agent-unknown/s);
    expect(bodies.bytes).toBe(0);
  });

  test("who asks for leave to send its body gets it for a good signature", async () => {
    const { socket, body, hears } = await headsOnly({ expect: "100-continue" });
    await hears(/^HTTP\/1\.1 100 Continue\r\n\r\n$/);
    socket.write(body);
    await hears(/HTTP\/1\.1 202 /);
    expect(service.ports.appended).toHaveLength(1);
  });

  test("and not for a bad one: it is told so, and the connection ends", async () => {
    const { hears } = await headsOnly({ expect: "100-continue" }, {}, newIdentity());
    const heard = await hears(/agent-unknown/);
    expect(heard).toMatch(/^HTTP\/1\.1 401 .*connection: close/is);
  });

  test("a signature that was seen before is refused before a byte of the body has come, also after another body than was signed", async () => {
    const nonce = randomUUID();
    const request = await signed(service.alice, goodSend(), { nonce });
    const other = await sendSigned({ ...request, body: Buffer.from('{"envelopes":[]}') });
    expect((await read(other)).problem).toMatchObject({ code: "digest-mismatch" });
    const { hears } = await headsOnly({ "content-length": String(BODY_BYTES_MAX) }, { nonce });
    await hears(/^HTTP\/1\.1 401 .*signature-replayed/s);
    expect(bodies.bytes).toBe(0);
    expect(service.ports.appended).toHaveLength(0);
  });

  test("a signature that does not cover the digest of the body that is announced is refused before it comes", async () => {
    const components = ["@method", "@authority", "@path", "@query"];
    const { hears } = await headsOnly({ "content-length": "50000" }, { components });
    await hears(/^HTTP\/1\.1 401 .*content-digest/s);
  });
});

describe("all bodies that are held at a time have a bound", () => {
  test("what is beyond it is told to come again, and may when another is done", async () => {
    const slow = await headsOnly({ "content-length": "59000" });
    const carol = await headsOnly({ "content-length": "50000" }, {}, service.bob);
    slow.socket.write("x".repeat(58_000));
    const until = Date.now() + 3_000;
    while (bodies.bytes < 58_000 && Date.now() < until) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(bodies.bytes).toBe(58_000);
    carol.socket.write("x".repeat(50_000));
    const heard = await carol.hears(/overloaded/);
    expect(heard).toMatch(/^HTTP\/1\.1 503 .*retry-after: 2/is);
    slow.socket.destroy();
    while (bodies.bytes > 0 && Date.now() < until) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(bodies.bytes).toBe(0);
    expect((await call(service.alice, goodSend())).status).toBe(202);
    expect(bodies.bytes).toBe(0);
  });

  test("what was held for a request is free when its connection has gone, also where its answer never came to be sent", async () => {
    const { http, bob } = service;
    const { host, port } = new URL(http.url);
    const socket = connect(Number(port), "127.0.0.1");
    sockets.push(socket);
    const text = async (request: Parameters<typeof signed>[1]) => {
      const { method, url, headers, body } = await signed(bob, request);
      const own = body === undefined ? {} : { "content-length": String(body.length) };
      const lines = Object.entries({ host, ...headers, ...own }).map(([name, value]) => `${name}: ${value}`);
      const { pathname } = new URL(url);
      return Buffer.concat([
        Buffer.from(`${method} ${pathname} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`),
        body ?? Buffer.alloc(0),
      ]);
    };
    socket.write(await text({ method: "GET", url: `${http.url}/messaging/receive`, headers: { prefer: "wait=30" } }));
    socket.write(await text({ ...goodSend(), body: { envelopes: ["x".repeat(40_000)] } }));
    await expect.poll(() => bodies.bytes).toBeGreaterThan(40_000);
    socket.write("CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n");
    await expect.poll(() => bodies.bytes).toBe(0);
  });

  test("one agent cannot fill it, and what was released may be taken again", () => {
    const [first, second, other] = ["alice", "alice", "bob"].map((owner) => bodies.roomFor(owner)) as [
      ReturnType<BodiesHeld["roomFor"]>,
      ReturnType<BodiesHeld["roomFor"]>,
      ReturnType<BodiesHeld["roomFor"]>,
    ];
    expect([first.take(40_000), second.take(20_001), second.take(20_000), other.take(40_001)]).toEqual([
      ...[true, false, true, false],
    ]);
    expect([other.fits(40_000), bodies.bytes]).toEqual([true, 60_000]);
    first.release();
    first.release();
    expect(bodies.bytes).toBe(20_000);
    expect(second.take(40_000)).toBe(true);
    second.release();
    expect(bodies.bytes).toBe(0);
  });
});
