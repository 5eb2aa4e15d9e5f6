import { copyFileSync, existsSync, rmSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { forgetSessions } from "../protocol/peer.ts";
import type { Agent } from "../sdk/agent.ts";
import { Store } from "../sdk/store/store.ts";
import { openPostgres } from "../store/postgres.ts";
import { factsOfOwner } from "../store/session-facts.ts";
import { messageAcknowledged, messageDelivered, prekeyRotated, sessionInitialized } from "../streams/catalogue.ts";
import { consumerParts, eventually, type House, openHouse, takeTexts } from "./house.ts";

let house: House;
let url: string;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: consumerParts });
});

afterAll(() => house?.close());

async function acquainted(names: readonly [string, string]): Promise<[Agent, Agent]> {
  const [one, other] = [await house.agent(names[0], url), await house.agent(names[1], url)];
  await one.send(other.id, "hello");
  await takeTexts(other, 1);
  await other.send(one.id, "hello yourself");
  await takeTexts(one, 1);
  return [one, other];
}

const file = (name: string, end = "") => path.join(house.folder, `${name}.db${end}`);

test("an agent that lost its sessions gets what was sent to it all the same, and the public topics name each message once", async () => {
  const [alice, bob] = await acquainted(["alice", "bob"]);
  await bob.close();
  const store = Store.open({ path: file("bob") });
  await store.commit(() => store.peers.put(forgetSessions(store.peers.get(alice.id))));
  store.close();
  const bodies = Array.from({ length: 12 }, (_, n) => `into the void ${n}`);
  const sent = await alice.sendMany(bodies.map((body) => ({ to: bob.id, body })));
  const again = await house.agent("bob", url);
  expect((await takeTexts(again, bodies.length)).toSorted()).toEqual(bodies.toSorted());
  await Promise.all(sent.map((one) => (one.status === "fulfilled" ? one.value.acknowledged() : Promise.reject(one))));
  await again.send(alice.id, "all of it");
  expect(await takeTexts(alice, 1)).toEqual(["all of it"]);

  const begun = async () =>
    (await house.read(sessionInitialized)).filter(({ decoded }) => decoded.initiatorId === alice.id);
  await eventually("both sessions are told", async () => (await begun()).length >= 2);
  expect((await begun()).map(({ decoded }) => decoded.suite)).toEqual([2, 2]);
  const acknowledged = (await house.read(messageAcknowledged)).map(({ decoded }) => decoded.messageId);
  expect(new Set(acknowledged).size).toBe(acknowledged.length);
  // The first try of each was delivered, and refused; its successor was acknowledged.
  const delivered = new Set((await house.read(messageDelivered)).map(({ decoded }) => decoded.messageId));
  for (const one of sent) {
    if (one.status !== "fulfilled") continue;
    expect(acknowledged).not.toContain(one.value.messageId);
    expect(delivered).toContain(one.value.messageId);
  }
});

test("an agent whose store was copied back from a backup finds out from the service, and both ends go on", async () => {
  const [carol, dave] = await acquainted(["carol", "dave"]);
  await carol.close();
  copyFileSync(file("carol"), file("carol", ".backup"));
  const later = await house.agent("carol", url);
  const sent = await later.send(dave.id, "after the backup");
  expect(await takeTexts(dave, 1)).toEqual(["after the backup"]);
  const postgres = openPostgres(house.stack.urls.postgresUrl);
  await eventually("the service has seen the message", async () =>
    (await factsOfOwner(postgres, carol.id, null, 10)).some((facts) => facts.messageId === sent.messageId),
  );
  await postgres.close();
  await later.close();
  for (const end of ["", "-wal", "-shm"]) if (existsSync(file("carol", end))) rmSync(file("carol", end));
  copyFileSync(file("carol", ".backup"), file("carol"));
  const restored = await house.agent("carol", url);
  for await (const problem of restored.problems({ signal: AbortSignal.timeout(30_000) })) {
    if (problem.type !== "store-rolled-back") continue;
    expect(problem.messagesLost).toBe(1);
    break;
  }
  await restored.send(dave.id, "from the backup");
  expect(await takeTexts(dave, 1)).toEqual(["from the backup"]);
  await dave.send(restored.id, "heard you");
  expect(await takeTexts(restored, 1)).toEqual(["heard you"]);
});

test("prekeys that the service lost, or never had, are there again after the next look, and a rotation is told", async () => {
  const [, frank] = await acquainted(["erin", "frank"]);
  await frank.close();
  const store = Store.open({ path: file("frank") });
  await store.commit(() => {
    for (const { id } of store.prekeys.stock({ oneTime: 5, kem: 0 }).oneTime) store.prekeys.remove(id);
  });
  store.close();
  const again = await house.agent("frank", url);
  for await (const { type } of again.problems({ signal: AbortSignal.timeout(30_000) })) {
    if (type === "prekeys-replaced") break;
  }
  await eventually("the rotation is told", async () =>
    (await house.read(prekeyRotated)).some(({ decoded }) => decoded.agentId === again.id),
  );
  const gina = await house.agent("gina", url);
  await gina.send(again.id, "under new prekeys");
  expect(await takeTexts(again, 1)).toEqual(["under new prekeys"]);
});
