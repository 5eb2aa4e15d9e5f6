import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { type Changes, chainOf } from "../../tests/delegations.ts";
import { newIdentity } from "../../tests/signing.ts";
import type { Client } from "../../tests/stream-client.ts";
import { connect, envelope, newWorld, startGateway } from "../../tests/stream-stage.ts";

async function delegated(changes: Changes = {}) {
  const { world, alice, bob } = newWorld();
  const carol = newIdentity();
  world.register(carol);
  const clock = { aheadMs: 0 };
  Object.assign(world, { now: () => Date.now() + clock.aheadMs });
  const place = await startGateway(world);
  const jti = randomUUID();
  const delegation = chainOf([carol, alice], new URL(place.url).host, [{ jti, ...changes }]);
  let batch = 0;
  const send = (client: Client) =>
    client.send({ type: "send", batch: ++batch, envelopes: [envelope(alice, bob).bytes] });
  return { world, alice, place, clock, delegation, link: { issuerId: carol.agentId, tokenId: jti }, send };
}

test("what is sent on a stream stands under the chain that was presented at its connect", async () => {
  const { world, alice, place, delegation, link, send } = await delegated();
  const client = await connect(place, alice, { delegation });
  send(client);
  await client.has("accepted");
  expect(world.appended.map((item) => item.delegation)).toEqual([[link]]);
  const plain = await connect(place, alice);
  send(plain);
  await plain.has("accepted");
  expect(world.appended.map((item) => item.delegation)).toEqual([[link], []]);
});

test("a chain that was taken back ends the stream with the next batch, of which nothing is sent", async () => {
  const { world, alice, place, delegation, link, send } = await delegated();
  const client = await connect(place, alice, { delegation });
  send(client);
  await client.has("accepted");
  world.revoked.add(`${link.issuerId} ${link.tokenId}`);
  send(client);
  expect(await client.closed).toBe(4401);
  expect(client.frames.at(-1)).toMatchObject({
    ...{ type: "rejected", batch: 2, problem: { code: "delegation-refused", rule: "revoked" } },
  });
  expect(world.appended).toHaveLength(1);
});

test("so does one that has expired meanwhile", async () => {
  const now = Math.floor(Date.now() / 1000);
  const { world, alice, place, clock, delegation, send } = await delegated({ exp: now + 60 });
  const client = await connect(place, alice, { delegation });
  send(client);
  await client.has("accepted");
  clock.aheadMs = 61_000;
  send(client);
  expect(await client.closed).toBe(4401);
  expect(client.frames.at(-1)).toMatchObject({ problem: { code: "delegation-refused", rule: "expired" } });
  expect(world.appended).toHaveLength(1);
});

test("a chain that does not hold opens no stream", async () => {
  const { alice, place } = await delegated();
  await expect(connect(place, alice, { delegation: "nonsense" })).rejects.toThrow("403");
});
