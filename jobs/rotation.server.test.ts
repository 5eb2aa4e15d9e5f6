import { randomUUID } from "node:crypto";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import type { Identity } from "../protocol/identity.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { isPrekeySignatureValid } from "../protocol/prekeys.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { Unavailable } from "../protocol/refusal.ts";
import type { Custody, PrekeyRotationFailed } from "../schemas/values.ts";
import { type HandoverEntry, openHandover } from "../store/handover.ts";
import type { Postgres } from "../store/postgres.ts";
import { openPresence, type PresenceDoor } from "../store/presence.ts";
import { openRedis, type RedisDoor, redisReady } from "../store/redis.ts";
import { openSampleDatabase } from "../tests/messaging.ts";
import { newIdentity } from "../tests/signing.ts";
import { uniqueName, useStack } from "../tests/stack.ts";
import { insertAgents, insertPrekeys } from "../tests/stocked-agents.ts";
import {
  type RotationDeps,
  type RotationFailure,
  rotateDuePrekeys,
  rotateNow,
  type SealedPrekeys,
  type ServerKeys,
} from "./rotation.ts";

const now = Date.UTC(2026, 5, 1);
const { signal } = new AbortController();

let redis: RedisDoor;
let presence: PresenceDoor;
let postgres: Postgres;
/** Server custody as it will be: keys by agent, or the reason why there are none. */
let keys: Map<string, Identity | Error>;
let stored: [agentId: string, prekeys: SealedPrekeys][];
let failures: [code: RotationFailure, error: unknown][];
let rotated: number;
let deps: RotationDeps;

beforeAll(async () => {
  redis = openRedis(useStack().redisUrl, { prefix: uniqueName("rotation") });
  await redisReady(redis, 5_000);
  presence = openPresence(redis);
});
afterAll(() => redis.close());

beforeEach(async () => {
  postgres = await openSampleDatabase();
  keys = new Map();
  stored = [];
  failures = [];
  rotated = 0;
  const serverKeys: ServerKeys = {
    open: async (agentId) => {
      const identity = keys.get(agentId);
      if (identity instanceof Error) throw identity;
      return identity === undefined ? null : { identity, seal: (_id, privateKey) => privateKey.toReversed() };
    },
  };
  deps = {
    postgres,
    keys: serverKeys,
    storePrekeys: storeInMemory,
    presence,
    handover: openHandover(redis),
    factOf: (value) => ({
      id: value.eventId,
      topic: "prekey.rotation-failed.v1",
      key: value.agentId,
      value: Buffer.from(JSON.stringify(value)),
      headers: {},
    }),
    onRotated: () => rotated++,
    onFailed: (code, error) => failures.push([code, error]),
  };
});
afterEach(() => postgres.close());

/** As far as the job can see: what is new is in force, and takes the place of what is not handed out beside it. */
async function storeInMemory(agentId: string, prekeys: SealedPrekeys, at: number): Promise<void> {
  stored.push([agentId, prekeys]);
  const { signedPrekey, lastResortKemPrekey, oneTimePrekeys, kemPrekeys } = prekeys;
  if (signedPrekey !== undefined) {
    await postgres.query({
      text: `UPDATE messaging_prekeys SET status = 'DEPRECATED'
             WHERE agent_id = $1 AND key_type IN ('signed', 'kem-last-resort') AND status = 'ACTIVE'`,
      values: [agentId],
    });
    await insertPrekeys(postgres, "signed", at, [{ agentId, id: signedPrekey.id }]);
  }
  if (lastResortKemPrekey !== undefined) {
    await insertPrekeys(postgres, "kem-last-resort", at, [{ agentId, id: lastResortKemPrekey.id }]);
  }
  const oneTime = oneTimePrekeys.map(({ id }) => ({ agentId, id }));
  await insertPrekeys(postgres, "one-time", at, oneTime);
  const kem = kemPrekeys.map(({ id }) => ({ agentId, id }));
  await insertPrekeys(postgres, "kem", at, kem);
}

/** With everything else in stock. */
async function addAgent(custody: Custody, signedAgeMs: number, oneTime = 20): Promise<Identity> {
  const identity = newIdentity();
  const { agentId, signing } = identity;
  const fresh = (count: number) => Array.from({ length: count }, () => ({ agentId, id: randomUUID() }));
  await insertAgents(postgres, [{ agentId, identityKey: signing.publicKey }], custody, now);
  await insertPrekeys(postgres, "signed", now - signedAgeMs, fresh(1));
  await insertPrekeys(postgres, "kem-last-resort", now - signedAgeMs, fresh(1));
  await insertPrekeys(postgres, "one-time", now - 1, fresh(oneTime));
  await insertPrekeys(postgres, "kem", now - 1, fresh(20));
  return identity;
}

async function facts(): Promise<PrekeyRotationFailed[]> {
  const { rows } = await postgres.query<{ value: Buffer }>({
    text: "SELECT value FROM facts ORDER BY key, counter",
  });
  return rows.map(({ value }) => JSON.parse(value.toString()));
}

async function signedPrekeyOf(agentId: string): Promise<string | undefined> {
  const { rows } = await postgres.query<{ prekey_id: string }>({
    text: "SELECT prekey_id FROM messaging_prekeys WHERE agent_id = $1 AND key_type = 'signed' AND status = 'ACTIVE'",
    values: [agentId],
  });
  return rows[0]?.prekey_id;
}

test("of three agents of server custody the one without keys fails alone: the others rotate, it keeps its signed prekey, and an operator rotates it later", async () => {
  const [first, second, third] = [
    await addAgent("server", 9 * DAY_MS),
    await addAgent("server", 8 * DAY_MS),
    await addAgent("server", 7 * DAY_MS),
  ];
  keys.set(first.agentId, first).set(third.agentId, third);
  const before = await signedPrekeyOf(second.agentId);

  await rotateDuePrekeys(deps, now, signal);
  expect(stored.map(([agentId]) => agentId)).toEqual([first.agentId, third.agentId]);
  expect(rotated).toBe(2);
  expect(await signedPrekeyOf(second.agentId)).toBe(before);
  const [told, ...others] = await facts();
  expect(others).toEqual([]);
  expect(told).toEqual({
    eventId: expect.any(String),
    agentId: second.agentId,
    custody: "server",
    code: "keys-unavailable",
    alert: `Prekey rotation failed for ${second.agentId}`,
    signedPrekeyId: before,
    signedPrekeyCreatedAt: now - 8 * DAY_MS,
    failedAt: now,
  });

  expect(await rotateNow(deps, second.agentId, now + 1)).toEqual({ outcome: "failed", code: "keys-unavailable" });
  keys.set(second.agentId, second);
  const answer = await rotateNow(deps, second.agentId, now + 2);
  expect(answer).toEqual({ outcome: "rotated", signedPrekeyId: await signedPrekeyOf(second.agentId) });
  expect(await signedPrekeyOf(second.agentId)).not.toBe(before);
  expect(await facts()).toHaveLength(1);
});

test("what is stored is a full set, signed by the agent, with sealed private halves", async () => {
  const agent = await addAgent("server", 7 * DAY_MS);
  keys.set(agent.agentId, agent);
  await rotateDuePrekeys(deps, now, signal);
  const [, prekeys] = stored[0] ?? [];
  if (prekeys?.signedPrekey === undefined || prekeys.lastResortKemPrekey === undefined) throw new Error("nothing");
  expect([prekeys.oneTimePrekeys.length, prekeys.kemPrekeys.length]).toEqual([100, 100]);
  const { publicKey } = agent.signing;
  expect(isPrekeySignatureValid(nodePrimitives, publicKey, "signed-prekey", prekeys.signedPrekey)).toBe(true);
  expect(isPrekeySignatureValid(nodePrimitives, publicKey, "kem-prekey", prekeys.lastResortKemPrekey)).toBe(true);
  for (const { publicKey: own, privateKeyEncrypted } of [prekeys.signedPrekey, ...prekeys.oneTimePrekeys]) {
    expect(nodePrimitives.x25519PublicKey(privateKeyEncrypted.toReversed())).toEqual(own);
  }
});

test("a failure is told once a day, and again when something was rotated in between", async () => {
  const agent = await addAgent("server", 8 * DAY_MS);
  const at = async (ms: number) => {
    await rotateDuePrekeys(deps, now + ms, signal);
    return (await facts()).length;
  };
  expect(await at(0)).toBe(1);
  expect(await at(600_000)).toBe(1);
  expect(await at(DAY_MS)).toBe(2);
  keys.set(agent.agentId, agent);
  expect(await at(DAY_MS + 600_000)).toBe(2);
  keys.delete(agent.agentId);
  await rotateNow(deps, agent.agentId, now + DAY_MS + 1_200_000);
  expect(await facts()).toHaveLength(3);
  expect(failures).toHaveLength(4);
});

test("keys that cannot be reached and bugs have codes of their own, and the next agent has its turn all the same", async () => {
  const [away, broken, well] = [
    await addAgent("server", 9 * DAY_MS),
    await addAgent("server", 8 * DAY_MS),
    await addAgent("server", 7 * DAY_MS),
  ];
  const bug = new Error("a bug");
  keys.set(away.agentId, new Unavailable("service")).set(broken.agentId, bug).set(well.agentId, well);
  await rotateDuePrekeys(deps, now, signal);
  expect(failures).toEqual([
    ["unavailable", expect.any(Unavailable)],
    ["internal", bug],
  ]);
  expect(stored.map(([agentId]) => agentId)).toEqual([well.agentId]);
  expect(new Set((await facts()).map(({ code }) => code))).toEqual(new Set(["unavailable", "internal"]));
});

test("a database that is away ends the run and is no agent's failure", async () => {
  const agent = await addAgent("server", 8 * DAY_MS);
  keys.set(agent.agentId, agent);
  const storePrekeys = () => Promise.reject(new Unavailable("postgres"));
  await expect(rotateDuePrekeys({ ...deps, storePrekeys }, now, signal)).rejects.toThrow(Unavailable);
  expect([failures, await facts()]).toEqual([[], []]);
});

test("one-time prekeys are made where fewer than 20 are left, without a rotation; an agent without any prekeys gets all", async () => {
  const few = await addAgent("server", DAY_MS, 19);
  const enough = await addAgent("server", DAY_MS, 20);
  const fresh = await addAgent("server", DAY_MS, 0);
  await postgres.query({ text: "DELETE FROM messaging_prekeys WHERE agent_id = $1", values: [fresh.agentId] });
  for (const agent of [few, enough, fresh]) keys.set(agent.agentId, agent);
  await rotateDuePrekeys(deps, now, signal);
  const made = new Map(stored);
  expect(stored).toHaveLength(2);
  expect(made.get(few.agentId)).toMatchObject({ oneTimePrekeys: { length: 81 }, kemPrekeys: [] });
  expect(made.get(few.agentId)?.signedPrekey).toBeUndefined();
  expect(made.get(fresh.agentId)).toMatchObject({ signedPrekey: {}, oneTimePrekeys: { length: 100 } });
  expect(rotated).toBe(1);
});

test("an agent that has its keys itself is told when it is connected, and an operator hears whether it is", async () => {
  const [connected, absent, young] = [
    await addAgent("agent", 8 * DAY_MS),
    await addAgent("agent", 9 * DAY_MS),
    await addAgent("agent", DAY_MS),
  ];
  const entries: HandoverEntry[] = [];
  const gatewayId = randomUUID();
  const subscription = deps.handover as ReturnType<typeof openHandover>;
  const listening = Promise.withResolvers<void>();
  const { close } = subscription.subscribe(gatewayId, {
    onEntries: (heard) => entries.push(...heard),
    onGap: () => listening.resolve(),
  });
  await listening.promise;
  for (const { agentId } of [connected, young]) {
    await presence.claim(agentId, { gatewayId, connectionId: "stream-1" });
  }
  await rotateDuePrekeys(deps, now, signal);
  expect(await rotateNow(deps, absent.agentId, now)).toEqual({ outcome: "asked", connected: false });
  expect(await rotateNow(deps, young.agentId, now)).toEqual({ outcome: "asked", connected: true });
  expect(await rotateNow(deps, newIdentity().agentId, now)).toBeNull();
  // Published is not heard yet.
  await vi.waitFor(() =>
    expect(entries).toEqual([
      { type: "notice", agentId: connected.agentId, kind: "rotation-due" },
      { type: "notice", agentId: young.agentId, kind: "rotate-now" },
    ]),
  );
  expect([stored, failures, await facts()]).toEqual([[], [], []]);
  close();
});

test("while Redis is away nobody is told, and agents of server custody rotate", async () => {
  const [theirs, ours] = [await addAgent("agent", 9 * DAY_MS), await addAgent("server", 8 * DAY_MS)];
  keys.set(ours.agentId, ours);
  const lookup = () => Promise.reject(new Unavailable("redis"));
  const away = { ...deps, presence: { lookup } };
  await rotateDuePrekeys(away, now, signal);
  expect(stored.map(([agentId]) => agentId)).toEqual([ours.agentId]);
  await expect(rotateNow(away, theirs.agentId, now)).rejects.toThrow(Unavailable);
});

test("a run that is asked to end leaves the rest to the next", async () => {
  const [first, second] = [await addAgent("server", 9 * DAY_MS), await addAgent("server", 8 * DAY_MS)];
  keys.set(first.agentId, first).set(second.agentId, second);
  const stopping = new AbortController();
  const storePrekeys = async (agentId: string, prekeys: SealedPrekeys, at: number) => {
    await storeInMemory(agentId, prekeys, at);
    stopping.abort();
  };
  await rotateDuePrekeys({ ...deps, storePrekeys }, now, stopping.signal);
  expect(stored).toHaveLength(1);
  await rotateDuePrekeys(deps, now + 1, signal);
  expect(stored.map(([agentId]) => agentId)).toContain(second.agentId);
});
