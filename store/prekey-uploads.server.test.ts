import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
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
import { oneTimePrekeysMax, uploadPrekeys } from "./prekey-uploads.ts";

let store: PrekeyStore;
beforeAll(async () => {
  store = await openPrekeyStore();
});
afterAll(() => store.close());

async function statuses(agentId: string): Promise<readonly string[]> {
  const { rows } = await store.postgres.query<{ key_type: string; status: string }>({
    text: "SELECT key_type, status FROM messaging_prekeys WHERE agent_id = $1 ORDER BY place",
    values: [agentId],
  });
  return rows.map(({ key_type, status }) => `${key_type} ${status}`);
}

const fullUpload = () => ({
  signedPrekey: sampleSigned(),
  lastResortKemPrekey: sampleLastResort(),
  oneTimePrekeys: sampleOneTime(3),
  kemPrekeys: sampleKem(2),
});

describe("uploading", () => {
  test("what is new is told once; the same upload again is answered alike, adds nothing and tells nobody", async () => {
    const agentId = await store.agent();
    const upload = fullUpload();
    const remaining = { oneTimePrekeysRemaining: 3, kemPrekeysRemaining: 2 };
    expect(await store.upload(agentId, upload)).toEqual(remaining);
    expect(await store.upload(agentId, upload, sampleNow + 1_000)).toEqual(remaining);
    expect(await store.told(agentId)).toMatchObject([
      {
        topic: "prekey.published.v1",
        value: {
          agentId,
          custody: "agent",
          signedPrekeyId: upload.signedPrekey.id,
          lastResortKemPrekeyId: upload.lastResortKemPrekey.id,
          oneTimePrekeys: 3,
          kemPrekeys: 2,
          ...remaining,
          publishedAt: sampleNow,
        },
      },
    ]);
  });

  test("of an upload that repeats a part, the new part is stored and told", async () => {
    const agentId = await store.agent();
    const [first, second] = [sampleOneTime(2), sampleOneTime(2)];
    await store.upload(agentId, { oneTimePrekeys: first });
    const both = { oneTimePrekeys: [...first, ...second] };
    expect(await store.upload(agentId, both)).toEqual({ oneTimePrekeysRemaining: 4, kemPrekeysRemaining: 0 });
    expect((await store.told(agentId)).at(-1)?.value).toMatchObject({ signedPrekeyId: null, oneTimePrekeys: 2 });
  });

  test("other bytes under a known id are refused, and nothing of that upload is stored or told", async () => {
    const agentId = await store.agent();
    const upload = fullUpload();
    await store.upload(agentId, upload);
    const { signedPrekey, lastResortKemPrekey } = upload;
    const [oneTime, kem] = [upload.oneTimePrekeys[0], upload.kemPrekeys[0]];
    if (oneTime === undefined || kem === undefined) throw new Error("no prekey");
    for (const conflicting of [
      { oneTimePrekeys: [...sampleOneTime(1), { ...oneTime, publicKey: randomBytes(32) }] },
      { signedPrekey: { ...signedPrekey, signature: randomBytes(64) }, oneTimePrekeys: sampleOneTime(1) },
      { signedPrekey: { ...signedPrekey, createdAt: sampleNow } },
      { oneTimePrekeys: [{ id: signedPrekey.id, publicKey: signedPrekey.publicKey }] },
      { kemPrekeys: [...sampleKem(1), { ...kem, createdAt: sampleNow }] },
      { kemPrekeys: [lastResortKemPrekey] },
      { lastResortKemPrekey: { ...lastResortKemPrekey, publicKey: randomBytes(1_184) } },
      { oneTimePrekeys: sampleOneTime(1).flatMap((key) => [key, { ...key, publicKey: randomBytes(32) }]) },
    ]) {
      await expect(store.upload(agentId, conflicting)).rejects.toMatchObject({ code: "prekey-conflict" });
    }
    expect(await store.upload(agentId, {})).toEqual({ oneTimePrekeysRemaining: 3, kemPrekeysRemaining: 2 });
    expect(await store.told(agentId)).toHaveLength(1);
  });

  test("two agents may use the same prekey id", async () => {
    const oneTimePrekeys = sampleOneTime(1);
    for (const agentId of [await store.agent(), await store.agent()]) {
      expect(await store.upload(agentId, { oneTimePrekeys })).toMatchObject({ oneTimePrekeysRemaining: 1 });
    }
  });

  test("a new signed prekey takes the place of the older one, and is told; the older one again does not come back", async () => {
    const agentId = await store.agent();
    const [first, second] = [sampleSigned(), sampleSigned()];
    const [early, late] = [sampleLastResort(), sampleLastResort()];
    for (const [signedPrekey, lastResortKemPrekey] of [
      [first, early],
      [second, late],
      [first, early],
    ] as const) {
      await store.upload(agentId, { signedPrekey, lastResortKemPrekey });
    }
    expect((await store.claim(agentId))?.bundle).toMatchObject({ signedPrekey: second, kemPrekey: late });
    expect(await statuses(agentId)).toEqual([
      "signed DEPRECATED",
      "kem-last-resort DEPRECATED",
      "signed ACTIVE",
      "kem-last-resort ACTIVE",
    ]);
    const told = await store.told(agentId);
    expect(told.map(({ topic }) => topic)).toEqual([
      "prekey.published.v1",
      "prekey.published.v1",
      "prekey.rotated.v1",
      "prekey.claimed.v1",
    ]);
    expect(told[2]?.value).toMatchObject({
      signedPrekeyId: second.id,
      previousSignedPrekeyId: first.id,
      lastResortKemPrekeyId: late.id,
    });
  });

  test("signed prekeys uploaded at the same moment leave one active", async () => {
    const agentId = await store.agent();
    await Promise.all([1, 2, 3, 4].map(() => store.upload(agentId, { signedPrekey: sampleSigned() })));
    expect((await statuses(agentId)).toSorted()).toEqual(["signed ACTIVE", ...Array(3).fill("signed DEPRECATED")]);
    expect((await store.told(agentId)).filter(({ topic }) => topic === "prekey.rotated.v1")).toHaveLength(3);
  });

  test("a replacing upload retires every waiting one-time prekey it does not hold, and nothing else", async () => {
    const agentId = await store.agent();
    const upload = fullUpload();
    await store.upload(agentId, upload);
    const kept = upload.oneTimePrekeys.slice(2);
    const kemPrekeys = sampleKem(1);
    for (const replace of [true, true]) {
      expect(await store.upload(agentId, { oneTimePrekeys: kept, kemPrekeys, replace })).toEqual({
        oneTimePrekeysRemaining: 1,
        kemPrekeysRemaining: 1,
      });
    }
    const bundle = (await store.claim(agentId))?.bundle;
    expect(bundle).toMatchObject({
      signedPrekey: upload.signedPrekey,
      oneTimePrekey: kept[0],
      kemPrekey: kemPrekeys[0],
    });
    expect(await store.upload(agentId, upload)).toEqual({ oneTimePrekeysRemaining: 0, kemPrekeysRemaining: 0 });
  });

  test("sealed private halves are kept, and are no part of what must be the same", async () => {
    const agentId = await store.agent();
    const [prekey] = sampleOneTime(1);
    if (prekey === undefined) throw new Error("no prekey");
    const upload = { oneTimePrekeys: [{ ...prekey, privateKeyEncrypted: randomBytes(60) }] };
    await store.upload(agentId, upload);
    await store.upload(agentId, { oneTimePrekeys: [prekey] });
    const { rows } = await store.postgres.query<{ private_key_encrypted: Buffer }>({
      text: "SELECT private_key_encrypted FROM messaging_prekeys WHERE agent_id = $1",
      values: [agentId],
    });
    expect(rows[0]?.private_key_encrypted).toEqual(upload.oneTimePrekeys[0]?.privateKeyEncrypted);
  });

  test("an agent that is not registered cannot upload, and none can pile up more than its share", async () => {
    await expect(store.upload(sampleAgentId(), {})).rejects.toMatchObject({ code: "agent-unknown" });
    const agentId = await store.agent();
    await store.upload(agentId, { oneTimePrekeys: sampleOneTime(oneTimePrekeysMax) });
    await expect(store.upload(agentId, { oneTimePrekeys: sampleOneTime(1) })).rejects.toMatchObject({
      code: "too-many",
      field: "/one_time_prekeys",
    });
    expect(await store.upload(agentId, { kemPrekeys: sampleKem(1) })).toMatchObject({ kemPrekeysRemaining: 1 });
  });

  test("an upload whose facts cannot be made stores nothing", async () => {
    const agentId = await store.agent();
    const facts = {
      ...store.deps.facts,
      published: () => {
        throw new Error("no codec");
      },
    };
    const failing = uploadPrekeys(store.postgres, { ...store.deps, facts }, agentId, fullUpload(), sampleNow);
    await expect(failing).rejects.toThrow("no codec");
    expect(await statuses(agentId)).toEqual([]);
    expect(await store.told(agentId)).toEqual([]);
  });
});
