/**
 * The stream under the OWASP API Top 10 (docs/security-tests.md): its upgrade, and every frame that a client can send.
 *
 * The rows of frames are typed by the protocol: a kind of frame that is missing here does not compile.
 */
import { createHmac, randomUUID } from "node:crypto";
import { once } from "node:events";
import { describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import type { Identity } from "../../protocol/identity.ts";
import {
  type ClientFrame,
  encodeClientFrames,
  encodeServerFrames,
  STREAM_MESSAGE_BYTES_MAX,
} from "../../protocol/stream-frames.ts";
import { chainOf } from "../../tests/delegations.ts";
import { newIdentity, type SigningOptions, signed } from "../../tests/signing.ts";
import { pause, until } from "../../tests/stream-client.ts";
import { connect, envelope, fill, newWorld, type Place, startGateway } from "../../tests/stream-stage.ts";

interface Scene {
  readonly place: Place;
  readonly world: ReturnType<typeof newWorld>["world"];
  /** Attacks. */
  readonly bob: Identity;
  /** Has an item in its mailbox, by carol. */
  readonly alice: Identity;
  readonly carol: Identity;
}

async function opened(): Promise<Scene> {
  const { world, alice, bob } = newWorld();
  const carol = newIdentity();
  world.register(carol);
  const seen = new Set<string>();
  const remember = async (keyid: string, nonce: string) => {
    if (seen.has(`${keyid} ${nonce}`)) return "replayed" as const;
    seen.add(`${keyid} ${nonce}`);
    return "fresh" as const;
  };
  Object.assign(world, { nonces: { remember } });
  const place = await startGateway(world);
  fill(world, alice, carol, 1);
  return { place, world, alice, bob, carol };
}

/** What an upgrade with these headers is answered; it opens nothing. */
async function refused({ place }: Scene, headers: Record<string, string>, url = place.url) {
  const socket = new WebSocket(url, { headers });
  const [, response] = await once(socket, "unexpected-response");
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk);
  expect(place.gateway.status().connections).toBe(0);
  expect(response.headers["content-type"]).toBe("application/problem+json");
  return { status: response.statusCode, ...JSON.parse(Buffer.concat(chunks).toString()) };
}

async function signedBy(scene: Scene, as: Identity, options: SigningOptions = {}, more: Record<string, string> = {}) {
  return (await signed(as, { method: "GET", url: scene.place.url, headers: more }, options)).headers;
}

const nowSeconds = () => Math.floor(Date.now() / 1000);

describe("an upgrade is refused", () => {
  const components = ["@method", "@authority", "@path", "@query"];
  const hmac = (identity: Identity) => (data: Uint8Array) =>
    createHmac("sha256", identity.signing.publicKey).update(data).digest();
  const wrong: Record<string, [codes: readonly string[], (scene: Scene) => SigningOptions]> = {
    "under another algorithm": [["signature-invalid"], ({ bob }) => ({ alg: "hmac-sha256", sign: hmac(bob) })],
    "with an HMAC of the public key": [
      ["signature-invalid"],
      ({ bob }) => ({ parameters: ["created", "expires", "nonce", "keyid"], sign: hmac(bob) }),
    ],
    "in another agent's name": [["signature-invalid"], ({ alice }) => ({ keyid: alice.agentId })],
    "with a signature that has expired": [
      ["signature-expired"],
      () => ({ created: nowSeconds() - 120, expires: nowSeconds() - 60 }),
    ],
    "with a signature of the future": [["signature-invalid"], () => ({ created: nowSeconds() + 60 })],
    "with a signature that lives too long": [["signature-invalid"], () => ({ expires: nowSeconds() + 301 })],
    ...Object.fromEntries(
      components.map((left) => [
        `with ${left} left out of the signature`,
        [["signature-invalid"], () => ({ components: components.filter((name) => name !== left) })],
      ]),
    ),
  };
  test.each(Object.entries(wrong))("%s", async (_, [codes, options]) => {
    const scene = await opened();
    expect(codes).toContain((await refused(scene, await signedBy(scene, scene.bob, options(scene)))).code);
  });

  test("without a signature, with the operators' token, or by a key that nobody registered", async () => {
    const scene = await opened();
    expect((await refused(scene, {})).code).toBe("signature-missing");
    expect((await refused(scene, { authorization: "Bearer in-memory-token-of-the-operators" })).code).toBe(
      "signature-missing",
    );
    expect((await refused(scene, await signedBy(scene, newIdentity()))).code).toBe("agent-unknown");
  });

  test("for a suspended agent", async () => {
    const scene = await opened();
    scene.world.suspend(scene.bob.agentId);
    expect((await refused(scene, await signedBy(scene, scene.bob))).code).toBe("agent-suspended");
  });

  test("the second time with the same signature, which takes nothing of its agent's rate", async () => {
    const scene = await opened();
    const { rateLimits } = scene.world;
    scene.world.rateLimits = { ...rateLimits, calls: { ...rateLimits.calls, points: 2 } };
    const headers = await signedBy(scene, scene.bob);
    const socket = new WebSocket(scene.place.url, { headers });
    await once(socket, "open");
    socket.terminate();
    await until(() => scene.place.gateway.status().connections === 0);
    for (let n = 0; n < 3; n++) expect((await refused(scene, headers)).code).toBe("signature-replayed");
    const again = new WebSocket(scene.place.url, { headers: await signedBy(scene, scene.bob) });
    await once(again, "open");
    again.terminate();
  });

  test("at another path than the one that was signed, or that there is", async () => {
    const scene = await opened();
    const headers = await signedBy(scene, scene.bob);
    expect((await refused(scene, headers, `${scene.place.url}?agent_id=x`)).code).toBe("signature-invalid");
    for (const path of ["/", "/x", "/../events"]) {
      expect((await refused(scene, headers, scene.place.url + path)).code).toMatch(/not-found|signature-invalid/);
    }
  });

  test.each([
    ["that has expired", { iat: 900, exp: 1_000 }, "expired"],
    ["for another audience", { aud: "elsewhere.example" }, "wrong-audience"],
    ["whose leaf is another's", { sub: newIdentity().agentId }, "key-mismatch"],
    ["bound to another key", { cnf: { jkt: newIdentity().agentId } }, "key-mismatch"],
  ])("with a chain %s", async (_, changes, rule) => {
    const scene = await opened();
    const audience = new URL(scene.place.url).host;
    const chain = chainOf([scene.alice, scene.bob], audience, [changes]);
    const headers = await signedBy(scene, scene.bob, {}, { "sealpost-delegation": chain });
    expect(await refused(scene, headers)).toMatchObject({ code: "delegation-refused", rule });
  });

  test("with a chain that is widened, revoked, or not covered by the signature", async () => {
    const scene = await opened();
    const { alice, bob, carol, world } = scene;
    const audience = new URL(scene.place.url).host;
    const widened = chainOf([carol, alice, bob], audience, [{ scope: "claim" }, { scope: "send claim" }]);
    const presented = async (chain: string, options: SigningOptions = {}) =>
      refused(scene, await signedBy(scene, bob, options, { "sealpost-delegation": chain }));
    expect(await presented(widened)).toMatchObject({ rule: "widened" });
    const jti = randomUUID();
    const chain = chainOf([alice, bob], audience, [{ jti }]);
    expect(await presented(chain, { components })).toMatchObject({ code: "signature-invalid" });
    world.revoked.add(`${alice.agentId} ${jti}`);
    expect(await presented(chain)).toMatchObject({ rule: "revoked" });
  });
});

type Row = readonly [law: string, frame: (scene: Scene) => ClientFrame][];

const itemOf = ({ world, alice }: Scene) => {
  const [row] = world.mailbox(alice.agentId).rows;
  if (row === undefined) throw new Error("the victim has an item");
  return { senderId: row.senderId, itemId: row.itemId };
};

/** API1: what each frame could do to somebody else. */
const frames: Readonly<Record<ClientFrame["type"], Row>> = {
  send: [
    [
      "an envelope of another sender",
      ({ alice, carol }) => ({ type: "send", batch: 1, envelopes: [envelope(alice, carol).bytes] }),
    ],
    [
      "an envelope of another sender among the own",
      ({ alice, bob, carol }) => ({
        ...{ type: "send", batch: 1 },
        envelopes: [envelope(bob, alice).bytes, envelope(alice, carol).bytes],
      }),
    ],
  ],
  ack: [["an item of another's mailbox", (scene) => ({ type: "ack", items: [itemOf(scene)] })]],
  "ack-up-to": [["everything up to a place that was never sent", () => ({ type: "ack-up-to", seq: 1_000_000 })]],
  refuse: [["an item of another's mailbox", (scene) => ({ type: "refuse", ...itemOf(scene), code: "auth-failed" })]],
};

const rows = Object.entries(frames).flatMap(([type, row]) => row.map(([law, frame]) => [type, law, frame] as const));

test("every frame that a client can send has its row", () => {
  expect(rows.length).toBeGreaterThan(4);
  for (const row of Object.values(frames)) expect(row.length).toBeGreaterThan(0);
});

test.each(rows)("%s: %s changes nothing of another's", async (type, _, frame) => {
  const scene = await opened();
  const { world, alice, bob, place } = scene;
  const client = await connect(place, bob);
  await client.has("queue-empty");
  const before = structuredClone(world.mailbox(alice.agentId));
  client.send(frame(scene));
  if (type === "send") {
    await client.has("rejected");
    expect(client.frames.at(-1)).toMatchObject({ problem: { code: "sender-mismatch" } });
  } else await pause(50);
  expect(world.appended).toEqual([]);
  expect(world.mailbox(alice.agentId)).toEqual(before);
  // What was said is of the one who said it.
  expect(client.items).toEqual([]);
  expect(world.receiptItems.every(({ outcome }) => outcome !== "delivered")).toBe(true);
});

test("API2: what a suspended agent sends on its open stream is not sent on, and ends the stream", async () => {
  const scene = await opened();
  const { world, alice, bob, place } = scene;
  fill(world, bob, alice, 1);
  const client = await connect(place, bob);
  await client.has("item");
  world.suspend(bob.agentId);
  client.send({ type: "send", batch: 1, envelopes: [envelope(bob, alice).bytes] });
  expect(await client.closed).toBe(4401);
  expect(client.frames.at(-1)).toMatchObject({ type: "rejected", problem: { code: "agent-suspended" } });
  expect(world.appended).toEqual([]);
});

const good = (scene: Scene) => encodeClientFrames([{ type: "ack", items: [itemOf(scene)] }]);

test.each<[string, (scene: Scene) => Uint8Array | string]>([
  ["a frame that there is not", () => Uint8Array.of(0x7f, 0, 0, 0, 0)],
  ["a frame of the service's", () => encodeServerFrames([{ type: "queue-empty", lastSeq: 1 }])],
  ["half a frame", (scene) => good(scene).slice(0, -1)],
  ["a frame with something behind it", (scene) => Buffer.concat([good(scene), Uint8Array.of(0)])],
  ["a length that is not there", () => Uint8Array.of(2, 0xff, 0xff, 0xff, 0xff)],
  ["an acknowledgement of nothing", () => Uint8Array.of(2, 0, 0, 0, 2, 0, 0)],
  ["more frames than a message may have", (scene) => Buffer.concat(Array(1_001).fill(good(scene)))],
  ["text", () => '{"type":"ack"}'],
])("API3, API4: %s ends the stream, and changes nothing", async (_, made) => {
  const scene = await opened();
  const client = await connect(scene.place, scene.bob);
  await client.has("queue-empty");
  client.socket.send(made(scene));
  expect(await client.closed).toBe(4400);
  expect(client.frames.at(-1)).toMatchObject({ type: "problem", problem: { code: "malformed" } });
  expect(scene.world.receiptItems).toEqual([]);
  expect(scene.world.mailbox(scene.alice.agentId).rows).toHaveLength(1);
});

test("API4: a message larger than a stream takes is not read", async () => {
  const scene = await opened();
  const client = await connect(scene.place, scene.bob);
  await client.has("queue-empty");
  client.socket.send(new Uint8Array(STREAM_MESSAGE_BYTES_MAX + 1));
  expect(await client.closed).toBe(1009);
  expect(scene.world.appended).toEqual([]);
});

test("API1: a stream shows what waits for its agent, and nothing else, whatever chain it stands under", async () => {
  const scene = await opened();
  const { world, alice, bob, carol, place } = scene;
  fill(world, bob, carol, 1);
  const delegation = chainOf([alice, bob], new URL(place.url).host);
  const client = await connect(place, bob, { delegation });
  await client.has("queue-empty");
  expect(client.items.map(({ itemId }) => itemId)).toEqual(world.mailbox(bob.agentId).rows.map(({ itemId }) => itemId));
  fill(world, alice, carol, 1);
  await pause(30);
  expect(client.items).toHaveLength(1);
});
