import { afterAll, beforeAll, expect, test } from "vitest";
import { deleteOldPrekeys } from "../jobs/prekeys.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { prekeyStockDigest } from "../protocol/prekey-stock.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import {
  openPrekeyStore,
  type PrekeyStore,
  sampleKem,
  sampleLastResort,
  sampleNow,
  sampleOneTime,
  sampleSigned,
} from "../tests/prekeys.ts";
import { ownStock } from "./prekey-stock.ts";

let store: PrekeyStore;
beforeAll(async () => {
  store = await openPrekeyStore();
});
afterAll(() => store.close());

const stockOf = (agentId: string, at = sampleNow) => ownStock(store.postgres, agentId, at);

test("an agent that keeps the same books computes the same digest, whatever was claimed, replaced and retired", async () => {
  const agentId = await store.agent();
  const nothing = { signed: null, lastResort: null, oneTime: [], kem: [] };
  expect(await stockOf(agentId)).toEqual({
    signedPrekey: null,
    lastResortKemPrekey: null,
    oneTimePrekeysRemaining: 0,
    kemPrekeysRemaining: 0,
    digest: prekeyStockDigest(nodePrimitives, nothing),
  });
  const [oneTime, kem] = [sampleOneTime(5), sampleKem(4)];
  await store.upload(agentId, { signedPrekey: sampleSigned(), oneTimePrekeys: oneTime, kemPrekeys: kem });
  const [signed, lastResort, more] = [sampleSigned(), sampleLastResort(), sampleOneTime(1)];
  await store.upload(agentId, { signedPrekey: signed, lastResortKemPrekey: lastResort, oneTimePrekeys: more });
  await store.claim(agentId);
  const [left, kemLeft] = [[...oneTime.slice(1), ...more], kem.slice(1)];
  expect(await stockOf(agentId)).toEqual({
    signedPrekey: { id: signed.id, createdAt: signed.createdAt },
    lastResortKemPrekey: { id: lastResort.id, createdAt: lastResort.createdAt },
    oneTimePrekeysRemaining: 5,
    kemPrekeysRemaining: 3,
    digest: prekeyStockDigest(nodePrimitives, { signed, lastResort, oneTime: left, kem: kemLeft }),
  });
  await store.upload(agentId, { oneTimePrekeys: more, replace: true });
  const retired = { signed, lastResort, oneTime: more, kem: [] };
  expect((await stockOf(agentId)).digest).toEqual(prekeyStockDigest(nodePrimitives, retired));
});

test("one-time prekeys that are too old to be handed out are not counted, nor in the digest", async () => {
  const agentId = await store.agent();
  const signed = sampleSigned();
  await store.upload(agentId, { signedPrekey: signed, oneTimePrekeys: sampleOneTime(2), kemPrekeys: sampleKem(2) });
  const oneTime = sampleOneTime(1);
  await store.upload(agentId, { oneTimePrekeys: oneTime }, sampleNow + DAY_MS);
  expect(await stockOf(agentId, sampleNow + 30 * DAY_MS)).toMatchObject({
    oneTimePrekeysRemaining: 1,
    kemPrekeysRemaining: 0,
    digest: prekeyStockDigest(nodePrimitives, { signed, lastResort: null, oneTime, kem: [] }),
  });
});

test("rows are deleted 62 days after a prekey was used, replaced or retired, and 92 after one was stored in vain", async () => {
  const agentId = await store.agent();
  const upload = () => ({
    signedPrekey: sampleSigned(),
    lastResortKemPrekey: sampleLastResort(),
    oneTimePrekeys: sampleOneTime(3),
    kemPrekeys: sampleKem(3),
  });
  await store.upload(agentId, upload());
  await store.claim(agentId, { now: sampleNow + DAY_MS });
  const [used, retired] = [1, 2];
  await store.upload(
    agentId,
    {
      signedPrekey: sampleSigned(),
      lastResortKemPrekey: sampleLastResort(),
      oneTimePrekeys: sampleOneTime(700),
      replace: true,
    },
    sampleNow + retired * DAY_MS,
  );
  const left = async (days: number) => {
    await deleteOldPrekeys(store.postgres, sampleNow + days * DAY_MS, AbortSignal.timeout(60_000));
    const { rows } = await store.postgres.query<{ status: string; count: number }>({
      text: "SELECT status, count(*) AS count FROM messaging_prekeys WHERE agent_id = $1 GROUP BY status",
      values: [agentId],
    });
    const of = (name: string) => rows.find(({ status }) => status === name)?.count ?? 0;
    return [of("USED"), of("DEPRECATED"), of("ACTIVE")];
  };
  expect(await left(62 + used)).toEqual([2, 6, 702]);
  expect(await left(62 + used + 0.01)).toEqual([0, 6, 702]);
  expect(await left(62 + retired)).toEqual([0, 6, 702]);
  expect(await left(62 + retired + 0.01)).toEqual([0, 0, 702]);
  expect(await left(92 + retired)).toEqual([0, 0, 702]);
  // The signed prekey and the one of last resort stay as long as nothing replaces them.
  expect(await left(92 + retired + 0.01)).toEqual([0, 0, 2]);
});
