import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { sampleAgentId } from "../tests/messaging.ts";
import {
  openPrekeyStore,
  type PrekeyStore,
  sampleClaim,
  sampleKem,
  sampleLastResort,
  sampleNow,
  sampleOneTime,
  sampleSigned,
} from "../tests/prekeys.ts";
import { inTransaction, openPostgres, type Postgres } from "./postgres.ts";
import { forgetClaims, mostClaimed, prekeysLow, takeBundle } from "./prekey-claims.ts";
import { openTurns } from "./turns.ts";

const hourMs = 60 * 60 * 1000;
const dayMs = 24 * hourMs;

let store: PrekeyStore;
beforeAll(async () => {
  store = await openPrekeyStore();
});
afterAll(() => store.close());

async function agentWith(oneTime: number, kem = 0): Promise<string> {
  const agentId = await store.agent();
  await store.upload(agentId, {
    signedPrekey: sampleSigned(),
    oneTimePrekeys: sampleOneTime(oneTime),
    kemPrekeys: sampleKem(kem),
  });
  return agentId;
}

async function lows(agentId: string): Promise<readonly object[]> {
  return (await store.told(agentId)).filter(({ topic }) => topic === "prekey.low.v1").map(({ value }) => value);
}

describe("claiming", () => {
  test("one-time prekeys of both kinds go out first in, first out; then come the signed prekey and the one of last resort", async () => {
    const agentId = await store.agent();
    const [early, late] = [sampleOneTime(3), sampleOneTime(2)];
    const [earlyKem, lateKem] = [sampleKem(2), sampleKem(1)];
    const [signedPrekey, lastResortKemPrekey] = [sampleSigned(), sampleLastResort()];
    await store.upload(agentId, { signedPrekey, lastResortKemPrekey, oneTimePrekeys: early, kemPrekeys: earlyKem });
    await store.upload(agentId, { oneTimePrekeys: late, kemPrekeys: lateKem });
    const kems = [...earlyKem, ...lateKem];
    for (const [index, oneTimePrekey] of [...early, ...late].entries()) {
      expect(await store.claim(agentId)).toEqual({
        bundle: {
          agentId,
          identityKey: expect.any(Uint8Array),
          signedPrekey,
          oneTimePrekey,
          kemPrekey: kems[index] ?? lastResortKemPrekey,
        },
        oneTimePrekeysRemaining: 4 - index,
        kemPrekeysRemaining: Math.max(0, 2 - index),
        repeated: false,
      });
    }
    expect(await store.claim(agentId)).toMatchObject({
      bundle: { signedPrekey, oneTimePrekey: null, kemPrekey: lastResortKemPrekey },
      oneTimePrekeysRemaining: 0,
    });
  });

  test("64 claimers in four processes drain 500 keys in their order: none twice, none lost, then the last resort", async () => {
    const agentId = await store.agent();
    const [oneTimePrekeys, kemPrekeys] = [sampleOneTime(500), sampleKem(480)];
    const lastResortKemPrekey = sampleLastResort();
    await store.upload(agentId, { signedPrekey: sampleSigned(), lastResortKemPrekey, oneTimePrekeys, kemPrekeys });
    // Every claimer of a process has turns of its own, too: they meet at the lock in PostgreSQL, and not before.
    const processes = [1, 2, 3, 4].map(() => openPostgres(store.url, { connectionsMax: 8 }));
    const handedOut: string[] = [];
    let lastResorts = 0;
    const drain = async (postgres: Postgres) => {
      for (;;) {
        const deps = { ...store.deps, turns: openTurns() };
        const taken = await takeBundle(postgres, deps, sampleClaim(agentId), { oneTime: true });
        if (taken === null) throw new Error("no bundle");
        if (taken.bundle.oneTimePrekey === null) {
          expect(taken.bundle.kemPrekey?.id).toBe(lastResortKemPrekey.id);
          lastResorts += 1;
          return;
        }
        handedOut.push(taken.bundle.oneTimePrekey.id);
      }
    };
    await Promise.all(Array.from({ length: 64 }, (_, n) => drain(processes[n % 4] as Postgres)));
    await Promise.all(processes.map((postgres) => postgres.close()));
    expect(lastResorts).toBe(64);
    expect(handedOut.toSorted()).toEqual(oneTimePrekeys.map(({ id }) => id).toSorted());
    const claimed = (await store.told(agentId)).flatMap(({ topic, value }) =>
      topic === "prekey.claimed.v1" ? [value as Record<string, unknown>] : [],
    );
    expect(claimed).toHaveLength(564);
    const kemIds = kemPrekeys.map(({ id }) => id);
    claimed.forEach((fact, n) => {
      expect(fact).toMatchObject({
        oneTimePrekeyId: oneTimePrekeys[n]?.id ?? null,
        kemPrekeyId: kemIds[n] ?? lastResortKemPrekey.id,
        lastResort: n >= 480,
        oneTimePrekeysRemaining: Math.max(0, 499 - n),
        kemPrekeysRemaining: Math.max(0, 479 - n),
      });
    });
    expect(await lows(agentId)).toHaveLength(2);
  });

  test("the same request again gets the same bundle and takes nothing, also at the same moment, and is told once", async () => {
    const agentId = await agentWith(5, 5);
    const request = { claimerId: sampleAgentId(), requestId: "key:one" };
    const taken = await Promise.all(Array.from({ length: 16 }, () => store.claim(agentId, request)));
    expect(taken.filter((bundle) => bundle?.repeated === false)).toHaveLength(1);
    await store.upload(agentId, { signedPrekey: sampleSigned(), lastResortKemPrekey: sampleLastResort() });
    const later = await store.find(sampleClaim(agentId, request));
    for (const one of taken) expect(one?.bundle).toEqual(later?.bundle);
    expect(later).toMatchObject({ oneTimePrekeysRemaining: 4, kemPrekeysRemaining: 4 });
    expect((await store.told(agentId)).filter(({ topic }) => topic === "prekey.claimed.v1")).toHaveLength(1);
    const other = await store.claim(agentId, { ...request, claimerId: sampleAgentId() });
    expect(other?.bundle.oneTimePrekey?.id).not.toBe(later?.bundle.oneTimePrekey?.id);
  });

  test("one request id may claim from two targets, and two agents claim from each other without waiting for ever", async () => {
    const [a, b] = [await agentWith(20), await agentWith(20)];
    const request = { claimerId: sampleAgentId(), requestId: "key:two" };
    const both = await Promise.all([a, b].map((agentId) => store.claim(agentId, request)));
    expect(both.map((taken) => taken?.bundle.agentId)).toEqual([a, b]);
    const crossing = await Promise.all(
      Array.from({ length: 16 }, (_, n) => (n % 2 === 0 ? [a, b] : [b, a])).map(([claimerId = "", targetId = ""]) =>
        store.claim(targetId, { claimerId }),
      ),
    );
    expect(new Set(crossing.map((taken) => taken?.bundle.oneTimePrekey?.id)).size).toBe(16);
  });

  test("without a signed prekey there is no bundle, and no one-time key is spent", async () => {
    const agentId = await store.agent();
    await store.upload(agentId, { oneTimePrekeys: sampleOneTime(1) });
    expect(await store.claim(agentId)).toBeNull();
    expect(await store.claim(sampleAgentId())).toBeNull();
    await store.upload(agentId, { signedPrekey: sampleSigned() });
    expect(await store.claim(agentId)).toMatchObject({ oneTimePrekeysRemaining: 0 });
  });

  test("over the budget the bundle comes without one-time prekeys, and none is spent", async () => {
    const agentId = await agentWith(5, 5);
    const lastResortKemPrekey = sampleLastResort();
    await store.upload(agentId, { lastResortKemPrekey });
    expect(await store.claim(agentId, { oneTime: false })).toMatchObject({
      bundle: { oneTimePrekey: null, kemPrekey: lastResortKemPrekey },
      oneTimePrekeysRemaining: 5,
      kemPrekeysRemaining: 5,
    });
    expect((await store.told(agentId)).at(-2)?.value).toMatchObject({ oneTimePrekeyId: null, lastResort: true });
  });

  test("a one-time prekey that was here for 30 days is not handed out, whatever its owner's clock said", async () => {
    const agentId = await store.agent();
    const old = { oneTimePrekeys: sampleOneTime(1), kemPrekeys: sampleKem(1) };
    await store.upload(agentId, { signedPrekey: sampleSigned(), ...old }, sampleNow - 30 * dayMs);
    const kemPrekeys = sampleKem(1).map((prekey) => ({ ...prekey, createdAt: sampleNow - 40 * dayMs }));
    await store.upload(agentId, { kemPrekeys });
    expect(await store.claim(agentId)).toMatchObject({
      bundle: { oneTimePrekey: null, kemPrekey: kemPrekeys[0] },
      oneTimePrekeysRemaining: 0,
      kemPrekeysRemaining: 0,
    });
  });

  test("a forgotten claim is a new request", async () => {
    const agentId = await agentWith(2);
    const request = { claimerId: sampleAgentId(), requestId: "key:forgotten" };
    const first = await store.claim(agentId, { ...request, now: sampleNow - dayMs });
    expect(await forgetClaims(store.postgres, sampleNow - dayMs)).toBe(0);
    expect(await forgetClaims(store.postgres, sampleNow - dayMs + 1)).toBe(1);
    expect((await store.claim(agentId, request))?.bundle.oneTimePrekey?.id).not.toBe(first?.bundle.oneTimePrekey?.id);
  });

  test("the most claimed agents come first", async () => {
    const [often, once] = [await agentWith(0), await agentWith(0)];
    const at = sampleNow + 40 * dayMs;
    for (const agentId of [once, often, often]) await store.claim(agentId, { now: at });
    expect(await mostClaimed(store.postgres, at - 1, 10)).toEqual([often, once]);
    expect(await mostClaimed(store.postgres, at - 1, 1)).toEqual([often]);
  });
});

describe("running low", () => {
  test("is told once per dip; an upload that brings enough ends the dip, one that does not, does not", async () => {
    const agentId = await agentWith(prekeysLow + 1);
    for (const expected of [0, 1, 1, 1]) {
      await store.claim(agentId);
      expect(await lows(agentId)).toHaveLength(expected);
    }
    await store.upload(agentId, { oneTimePrekeys: sampleOneTime(2) });
    await store.claim(agentId);
    expect(await lows(agentId)).toHaveLength(1);
    await store.upload(agentId, { oneTimePrekeys: sampleOneTime(2) });
    await store.claim(agentId);
    expect(await lows(agentId)).toHaveLength(2);
  });

  test("of both kinds at once is told once, of one after the other twice, of a kind never published not at all", async () => {
    const both = await agentWith(prekeysLow, prekeysLow);
    await store.claim(both);
    await store.claim(both);
    expect(await lows(both)).toMatchObject([{ oneTimePrekeysRemaining: 9, kemPrekeysRemaining: 9 }]);
    const apart = await agentWith(prekeysLow, prekeysLow + 1);
    await store.claim(apart);
    await store.claim(apart);
    expect(await lows(apart)).toMatchObject([{ kemPrekeysRemaining: 10 }, { kemPrekeysRemaining: 9 }]);
    const without = await agentWith(0);
    await store.claim(without);
    expect(await lows(without)).toEqual([]);
  });

  test("says when nothing will be left, from how fast the last fifty went", async () => {
    const agentId = await agentWith(70);
    const claims = Array.from({ length: 61 }, (_, n) => (n < 20 ? n * dayMs : 20 * dayMs + n * hourMs) - 28 * dayMs);
    for (const at of claims) await store.claim(agentId, { now: sampleNow + at });
    const [low] = await lows(agentId);
    // The last fifty: from the 12th day on, 49 steps, nine keys left.
    const lastMs = (claims[60] ?? 0) - (claims[11] ?? 0);
    expect(low).toMatchObject({ oneTimePrekeysRemaining: 9, timeToEmptyMs: Math.round((9 * lastMs) / 49) });
  });

  test("without a rate says nothing of it", async () => {
    const agentId = await agentWith(prekeysLow);
    await store.claim(agentId);
    expect(await lows(agentId)).toMatchObject([{ timeToEmptyMs: null }]);
  });
});

describe("when something fails", () => {
  test("a claim whose facts cannot be made takes nothing", async () => {
    const agentId = await agentWith(1);
    const facts = {
      ...store.deps.facts,
      claimed: () => {
        throw new Error("no codec");
      },
    };
    const claim = sampleClaim(agentId);
    const failing = takeBundle(store.postgres, { ...store.deps, facts }, claim, { oneTime: true });
    await expect(failing).rejects.toThrow("no codec");
    expect(await store.find(claim)).toBeNull();
    expect(await lows(agentId)).toEqual([]);
    expect(await store.claim(agentId, claim)).toMatchObject({ oneTimePrekeysRemaining: 0, repeated: false });
    expect(await lows(agentId)).toHaveLength(1);
  });

  test("a claim whose connection dies while it waits takes nothing, and the same request gets its key afterwards", async () => {
    const agentId = await agentWith(1);
    const claim = sampleClaim(agentId);
    const other = openPostgres(store.url, { connectionsMax: 1, applicationName: "victim" });
    const waiting = await inTransaction(store.postgres, async (client) => {
      await client.query({ text: "SELECT FROM messaging_agents WHERE agent_id = $1 FOR UPDATE", values: [agentId] });
      const settled = Promise.allSettled([takeBundle(other, store.deps, claim, { oneTime: true })]);
      await terminated("victim");
      return settled;
    });
    const [outcome] = waiting;
    expect(outcome.status === "rejected" && outcome.reason).toBeInstanceOf(Unavailable);
    await other.close();
    expect(await store.find(claim)).toBeNull();
    expect(await store.claim(agentId, claim)).toMatchObject({ oneTimePrekeysRemaining: 0, repeated: false });
  });

  test("a claim whose transaction could not be begun takes nothing, whatever travelled with the BEGIN", async () => {
    const agentId = await agentWith(1);
    const claim = sampleClaim(agentId);
    const other = openPostgres(store.url, { connectionsMax: 1 });
    const client = await other.pool.connect();
    const query = client.query.bind(client) as (query: { text: string }) => Promise<unknown>;
    Object.assign(client, {
      query: (sent: { text: string }) => query(sent.text?.startsWith("BEGIN") ? { text: "SELECT refused" } : sent),
    });
    client.release();
    const failing = takeBundle(other, store.deps, claim, { oneTime: true });
    await expect(failing).rejects.toThrow(Unavailable);
    await other.close();
    expect(await store.find(claim)).toBeNull();
    expect(await store.claim(agentId, claim)).toMatchObject({ oneTimePrekeysRemaining: 0, repeated: false });
  });

  /** Ends the connection of this name as soon as it waits for a lock. */
  async function terminated(applicationName: string): Promise<void> {
    for (const until = Date.now() + 5_000; Date.now() < until; ) {
      const { rowCount } = await store.postgres.query({
        text: `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE application_name = $1 AND wait_event_type = 'Lock'`,
        values: [applicationName],
      });
      if (rowCount === 1) return;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    throw new Error("nobody waited");
  }
});
