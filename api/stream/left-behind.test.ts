/** Mail that an agent leaves behind when its connection goes, or that is handed over to where it was: a wake is asked for. */
import { expect, test } from "vitest";
import { newIdentity } from "../../tests/signing.ts";
import { until } from "../../tests/stream-client.ts";
import {
  connect,
  connectEvents,
  fill,
  fillEnvelopes,
  newWorld,
  type Place,
  startGateway,
} from "../../tests/stream-stage.ts";
import type { World } from "../../tests/stream-world.ts";
import type { MailboxItem } from "./delivery.ts";

/** Somebody goes and is announced: so is by then everybody who went before and was to be. */
async function everybodyIsLookedFor(world: World, place: Place): Promise<void> {
  const last = newIdentity();
  world.register(last);
  fill(world, last, newIdentity(), 1);
  const client = await connect(place, last);
  await client.has("item");
  client.socket.close();
  await until(() => world.announced.includes(last.agentId));
}

test("who goes without having answered is announced, however it goes; who has answered everything is not", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { goneMs: 20 });
  fillEnvelopes(world, bob, alice, 2);
  const closes = await connect(place, bob);
  await closes.has("item", 2);
  closes.socket.close(1000);
  await until(() => world.announced.length === 1);
  const breaks = await connect(place, bob);
  await breaks.has("item", 2);
  breaks.socket.terminate();
  await until(() => world.announced.length === 2);
  const events = await connectEvents(place, bob);
  await until(() => world.present.has(bob.agentId));
  events.cut();
  await until(() => world.announced.length === 3);
  expect(new Set(world.announced)).toEqual(new Set([bob.agentId]));

  const answers = await connect(place, bob);
  await answers.has("item", 2);
  answers.send({ type: "ack-up-to", seq: 2 });
  await until(() => world.mailbox(bob.agentId).rows.length === 0);
  answers.socket.close();
  await until(() => !world.present.has(bob.agentId));
  await everybodyIsLookedFor(world, place);
  expect(world.announced.filter((agentId) => agentId === bob.agentId)).toHaveLength(3);
});

test("who comes back, here or elsewhere, or only changes its connection, is not announced", async () => {
  const { world, alice, bob } = newWorld();
  const [here, there] = [await startGateway(world, { goneMs: 1_000 }), await startGateway(world)];
  fill(world, bob, alice, 1);
  const first = await connect(here, bob);
  await first.has("item");
  const newer = await connect(here, bob);
  await first.closed;
  await newer.has("item");
  newer.socket.close();
  await newer.closed;
  const back = await connect(here, bob);
  await back.has("item");
  const elsewhere = await connect(there, bob);
  expect(await back.closed).toBe(4409);
  await elsewhere.has("item");
  await everybodyIsLookedFor(world, here);
  expect(world.announced).not.toContain(bob.agentId);
});

test("what is handed over to where its agent is not any more is announced", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { goneMs: 20 });
  world.present.set(bob.agentId, { gatewayId: place.gateway.id, connectionId: "stream-of-before" });
  fill(world, bob, alice, 1);
  await everybodyIsLookedFor(world, place);
  // Push would believe the presence: nobody is asked before it has run out.
  expect(world.announced).not.toContain(bob.agentId);
  world.present.clear();
  await until(() => world.announced.includes(bob.agentId));
});

test("what wakes a poll that waits is not announced; what comes when the poll has ended is", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { goneMs: 20 });
  const waiting = place.gateway.waitForMail(bob.agentId, new AbortController().signal, 30_000);
  await until(() => world.present.has(bob.agentId));
  fill(world, bob, alice, 1);
  await waiting;
  await everybodyIsLookedFor(world, place);
  expect(world.announced).not.toContain(bob.agentId);
  // Routing has looked for bob while it still waited.
  const [row] = world.mailbox(bob.agentId).rows as [MailboxItem];
  world.listeners.get(place.gateway.id)?.onEntries([{ type: "item", agentId: bob.agentId, ...row }]);
  await until(() => world.announced.includes(bob.agentId));
});

test("a gateway that drains announces who has not come to another one, before its end", async () => {
  const { world, alice, bob } = newWorld();
  const [drains, stays] = [await startGateway(world, { graceMs: 300 }), await startGateway(world)];
  fill(world, alice, bob, 1);
  fill(world, bob, alice, 1);
  const [moves, ends] = [await connect(drains, alice), await connect(drains, bob)];
  await moves.has("item");
  await ends.has("item");
  const drained = drains.gateway.drain();
  await moves.has("goaway");
  moves.socket.close();
  await (await connect(stays, alice)).has("item");
  await drained;
  expect(world.announced).toEqual([bob.agentId]);
});
