import { randomBytes, randomUUID } from "node:crypto";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { warmBundles } from "../jobs/prekeys.ts";
import { bundleToJson } from "../protocol/prekeys.ts";
import { sampleAgentId } from "../tests/messaging.ts";
import {
  openPrekeyStore,
  type PrekeyStore,
  sampleKem,
  sampleLastResort,
  sampleNow,
  sampleOneTime,
  sampleSigned,
} from "../tests/prekeys.ts";
import { type ServerProxy, startProxy } from "../tests/redis-proxy.ts";
import { useStack } from "../tests/stack.ts";
import type { Queryable } from "./postgres.ts";
import { openBundles } from "./prekey-bundles.ts";
import { openRedis, redisReady } from "./redis.ts";

let store: PrekeyStore;
beforeAll(async () => {
  store = await openPrekeyStore();
});
afterAll(() => store.close());

let agentId: string;
const first = { signedPrekey: sampleSigned(), lastResortKemPrekey: sampleLastResort() };
beforeEach(async () => {
  agentId = await store.agent();
  await store.upload(agentId, { ...first, oneTimePrekeys: sampleOneTime(2), kemPrekeys: sampleKem(2) });
});

const remembered = (id = agentId) => store.redis.ask((client) => client.get(store.redis.key(`prekey_bundle:${id}`)));

async function found(bundles = store.deps.bundles): Promise<string | undefined> {
  return (await bundles.find(agentId))?.signedPrekey.id;
}

/** A PostgreSQL that must not be asked. */
const unasked: Queryable = {
  query: () => {
    throw new Error("it was asked");
  },
};

test("a bundle's common part is remembered for five minutes, and holds no one-time prekey", async () => {
  await store.deps.bundles.forget(agentId);
  expect(await remembered()).toBeNull();
  const fromPostgres = await store.deps.bundles.find(agentId);
  const fromRedis = await openBundles(store.redis, unasked).find(agentId);
  if (fromPostgres === null || fromRedis === null) throw new Error("no bundle");
  expect(bundleToJson(fromRedis)).toEqual(bundleToJson(fromPostgres));
  expect(fromRedis).toMatchObject({
    oneTimePrekey: null,
    kemPrekey: { id: first.lastResortKemPrekey.id, lastResort: true },
  });
  const lifeMs = await store.redis.ask((client) => client.pttl(store.redis.key(`prekey_bundle:${agentId}`)));
  expect(lifeMs).toBeGreaterThan(290_000);
  expect(lifeMs).toBeLessThanOrEqual(300_000);
});

test("who has no signed prekey has no bundle, and nothing is remembered of that", async () => {
  const nobody = sampleAgentId();
  expect(await store.deps.bundles.find(nobody)).toBeNull();
  expect(await remembered(nobody)).toBeNull();
});

test("an upload that changes it is seen at once, one that does not leaves it", async () => {
  const before = await remembered();
  await store.upload(agentId, { oneTimePrekeys: sampleOneTime(1) });
  expect(await remembered()).toBe(before);
  const signedPrekey = sampleSigned();
  await store.upload(agentId, { signedPrekey });
  expect(await found(openBundles(store.redis, unasked))).toBe(signedPrekey.id);
  const lastResortKemPrekey = sampleLastResort();
  await store.upload(agentId, { lastResortKemPrekey });
  expect((await openBundles(store.redis, unasked).find(agentId))?.kemPrekey?.id).toBe(lastResortKemPrekey.id);
});

test("whoever read before a change and writes after it does not bring the old bundle back", async () => {
  const { promise: changed, resolve } = Promise.withResolvers<void>();
  const slow: Queryable = {
    query: async (query) => {
      const answer = await store.postgres.query(query);
      await changed;
      return answer as never;
    },
  };
  await store.deps.bundles.forget(agentId);
  const reading = openBundles(store.redis, slow).refresh([agentId]);
  await new Promise((done) => setTimeout(done, 50));
  const signedPrekey = sampleSigned();
  await store.upload(agentId, { signedPrekey });
  resolve();
  await reading;
  expect(await found(openBundles(store.redis, unasked))).toBe(signedPrekey.id);
});

test("while Redis is away PostgreSQL answers, and an upload is stored all the same", async () => {
  const proxy: ServerProxy = await startProxy(useStack().redisUrl);
  const redis = openRedis(proxy.url);
  expect(await redisReady(redis, 5_000)).toBe(true);
  proxy.cut();
  const bundles = openBundles(redis, store.postgres);
  expect(await found(bundles)).toBe(first.signedPrekey.id);
  await bundles.forget(agentId);
  await bundles.refresh([agentId]);
  redis.close();
  proxy.close();
});

test("what is no bundle is read anew", async () => {
  for (const text of ["", "7 {}", "7 {", "7 null", "x"]) {
    await store.redis.ask((client) => client.set(store.redis.key(`prekey_bundle:${agentId}`), text));
    expect(await found()).toBe(first.signedPrekey.id);
  }
});

test("a claim with a bundle that is a little old hands out what it holds, and the repeat is answered alike", async () => {
  const old = await remembered();
  await store.upload(agentId, { signedPrekey: sampleSigned(), lastResortKemPrekey: sampleLastResort() });
  await store.redis.ask((client) => client.set(store.redis.key(`prekey_bundle:${agentId}`), old ?? ""));
  const claim = { claimerId: sampleAgentId(), requestId: "key:old", targetId: agentId, now: sampleNow };
  const taken = await store.claim(agentId, { ...claim, oneTime: false });
  expect(taken?.bundle).toMatchObject({
    signedPrekey: { id: first.signedPrekey.id },
    kemPrekey: { id: first.lastResortKemPrekey.id, lastResort: true },
  });
  expect((await store.find(claim))?.bundle).toEqual(taken?.bundle);
});

test("an agent that has published its first KEM prekey is not stripped of it by an old bundle", async () => {
  const target = await store.agent();
  await store.upload(target, { signedPrekey: first.signedPrekey });
  const old = await remembered(target);
  const lastResortKemPrekey = sampleLastResort();
  await store.upload(target, { lastResortKemPrekey });
  await store.redis.ask((client) => client.set(store.redis.key(`prekey_bundle:${target}`), old ?? ""));
  expect((await store.claim(target))?.bundle.kemPrekey).toEqual(lastResortKemPrekey);
});

test("a prekey that only Redis knows, after a restore of the database, is not handed out", async () => {
  const bundle = await store.deps.bundles.find(agentId);
  if (bundle === null) throw new Error("no bundle");
  const { signedPrekey, kemPrekey } = bundle;
  for (const lost of [
    { ...bundle, signedPrekey: { ...signedPrekey, id: randomUUID() } },
    { ...bundle, kemPrekey: kemPrekey && { ...kemPrekey, id: randomUUID() } },
  ]) {
    const text = `${Number.MAX_SAFE_INTEGER} ${JSON.stringify(bundleToJson(lost))}`;
    await store.redis.ask((client) => client.set(store.redis.key(`prekey_bundle:${agentId}`), text));
    const taken = await store.claim(agentId, { oneTime: false });
    expect(taken?.bundle).toMatchObject({ signedPrekey: { id: signedPrekey.id }, kemPrekey: { id: kemPrekey?.id } });
  }
});

test("the bundles of the most claimed agents are there before anybody asks", async () => {
  const quiet = await store.agent();
  await store.upload(quiet, { signedPrekey: { ...first.signedPrekey, publicKey: randomBytes(32) } });
  await store.claim(agentId);
  for (const id of [agentId, quiet]) await store.deps.bundles.forget(id);
  await warmBundles(store.deps.bundles)(store.postgres, sampleNow + 1);
  expect(await found(openBundles(store.redis, unasked))).toBe(first.signedPrekey.id);
  expect(await remembered(quiet)).toBeNull();
});
