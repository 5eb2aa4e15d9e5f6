import { afterAll, beforeAll, expect, test } from "vitest";
import { type CustodyStage, envelopesOf, openCustodyStage, textsOf } from "../../tests/custody-stage.ts";
import { eventually } from "../../tests/house.ts";
import { keysUsedTwice } from "../../tests/keys-used-twice.ts";
import { inStep } from "../../tests/messaging.ts";
import { inTransaction } from "../postgres.ts";
import { findStates, lockStates, sealOf } from "./states.ts";

let stage: CustodyStage;
beforeAll(async () => {
  stage = await openCustodyStage();
});
afterAll(() => stage.close());

type Envelopes = ReturnType<typeof envelopesOf>;

/** One step that says these; its envelopes, delivered. */
async function say(from: string, to: string, texts: readonly string[]): Promise<Envelopes> {
  const emits = await stage.step(await Promise.all(texts.map((text) => stage.command(from, to, text))));
  await stage.deliver(emits);
  return envelopesOf(emits);
}

const keyOf = (owner: string, peer: string) => stage.redis.key(`ratchet:${owner}:${peer}`);
const inRedis = (owner: string, peer: string) => stage.redis.ask((client) => client.getBuffer(keyOf(owner, peer)));

/** Another value than this, when it has come: writing it is not waited for. */
async function newInRedis(owner: string, peer: string, before: Buffer | null = null): Promise<Buffer> {
  let value: Buffer | null = null;
  await eventually("the state is in Redis", async () => {
    value = await inRedis(owner, peer);
    return value !== null && (before === null || !value.equals(before));
  });
  return value as unknown as Buffer;
}

async function put(owner: string, peer: string, value: Buffer): Promise<void> {
  await stage.redis.ask((client) => client.set(keyOf(owner, peer), value, "EX", 60));
}

test("a state is found in the process that committed it, in Redis by another, sealed and for an hour, and in the row by all", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  stage.found();
  await say(alice, bob, ["first"]);
  await say(alice, bob, ["in the process"]);
  const [row] = await findStates(stage.postgres, [{ ownerId: alice, peerId: bob }]);
  if (row?.state == null) throw new Error("no state");
  await eventually("Redis has what the row has", async () => {
    const value = await inRedis(alice, bob);
    return (
      value !== null &&
      value.readBigUInt64BE(0) === BigInt(row.version) &&
      value.subarray(8).equals(row.state as Uint8Array)
    );
  });
  expect(await stage.redis.ask((client) => client.ttl(keyOf(alice, bob)))).toBeGreaterThan(3_500);
  stage.startAnew();
  await say(alice, bob, ["by Redis"]);
  stage.startAnew();
  await stage.redis.ask((client) => client.del(keyOf(alice, bob)));
  await say(alice, bob, ["by the row"]);
  expect(stage.found()).toEqual(["nowhere", "process", "redis", "nowhere"]);
  expect(textsOf(await stage.open(bob))).toEqual(["first", "in the process", "by Redis", "by the row"]);
});

test("whatever Redis holds, no message key makes two ciphertexts and everything opens", async () => {
  const [alice, bob, carol] = [await stage.agent(), await stage.agent(), await stage.agent()];
  const envelopes = [...(await say(alice, bob, ["1"])), ...(await say(alice, carol, ["c"]))];
  const old = await newInRedis(alice, bob);
  envelopes.push(...(await say(alice, bob, ["2"])));
  const young = await newInRedis(alice, bob, old);
  const newer = Buffer.from(young);
  newer.writeBigUInt64BE(young.readBigUInt64BE(0) + 1n, 0);
  const damaged = Buffer.from(young);
  damaged.writeUInt8(damaged.readUInt8(60) ^ 1, 60);
  const values = [old, newer, damaged, young.subarray(0, 7), Buffer.alloc(0), await newInRedis(alice, carol)];
  stage.found();
  for (const [index, value] of values.entries()) {
    stage.startAnew();
    await put(alice, bob, value);
    envelopes.push(...(await say(alice, bob, [`${index + 3}`])));
  }
  expect(stage.found()).toEqual(["stale", "nowhere", "nowhere", "nowhere", "nowhere", "nowhere"]);
  expect(keysUsedTwice(envelopes)).toEqual([]);
  expect(textsOf(await stage.open(bob))).toEqual(["1", "2", "3", "4", "5", "6", "7", "8"]);
});

test("a step that was not committed leaves nothing in a cache, and what reading moved on is read from the row", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const envelopes = [...(await say(alice, bob, ["1"]))];
  const batch = [await stage.command(alice, bob, "2")];
  const crash = new Error("before the commit");
  const attempt = inStep(stage.postgres, async (tx) => {
    await stage.consumer.step(batch, tx);
    throw crash;
  });
  await expect(attempt).rejects.toBe(crash);
  stage.found();
  const again = await stage.step(batch);
  expect(stage.found()).toEqual(["process"]);
  envelopes.push(...envelopesOf(again));
  await stage.deliver(again);
  await say(bob, alice, ["back"]);
  expect(textsOf(await stage.open(alice))).toEqual(["back"]);
  stage.found();
  envelopes.push(...(await say(alice, bob, ["3"])));
  expect(stage.found()).toEqual(["stale"]);
  expect(keysUsedTwice(envelopes)).toEqual([]);
});

test("rows that were put back, and have grown to the same version again, are what counts", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  await say(alice, bob, ["1"]);
  const pair = { ownerId: alice, peerId: bob };
  const [backup] = await findStates(stage.postgres, [pair]);
  await say(alice, bob, ["lost with the restore"]);
  const [lost] = await findStates(stage.postgres, [pair]);
  const value = await newInRedis(alice, bob);
  const restore = (version: number, state: Uint8Array | null | undefined) =>
    stage.postgres.query({
      text: "UPDATE messaging_sessions SET version = $3, state = $4 WHERE owner_id = $1 AND peer_id = $2",
      values: [alice, bob, version, state],
    });
  await restore(backup?.version ?? 0, backup?.state);
  stage.startAnew();
  await stage.redis.ask((client) => client.del(keyOf(alice, bob)));
  await say(alice, bob, ["another second"]);
  // The same version as the lost one, of another history.
  await put(alice, bob, value);
  stage.startAnew();
  stage.found();
  await say(alice, bob, ["third"]);
  expect(stage.found()).toEqual(["stale"]);
  // And rows that are gone altogether are made again.
  await stage.postgres.query({ text: "DELETE FROM messaging_sessions WHERE owner_id = $1", values: [alice] });
  const [begun] = await say(alice, bob, ["from the start"]);
  expect(begun?.sendCounter).toBe(1);
  expect(lost?.version).toBe(2);
});

test("whoever waited for the lock is told of the state that is there then", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  await say(alice, bob, ["1"]);
  const pair = { ownerId: alice, peerId: bob };
  const [row] = await findStates(stage.postgres, [pair]);
  if (row?.state == null) throw new Error("no state");
  const known = [{ ...pair, version: row.version, seal: sealOf(row.state) }];
  const lock = () =>
    inTransaction(stage.postgres, async (client) => (await lockStates(client, [pair], { areThere: true, known }))[0]);
  expect(await lock()).toMatchObject({ isKnown: true, state: null, version: row.version });
  let waiting: ReturnType<typeof lock> | undefined;
  await inTransaction(stage.postgres, async (client) => {
    await lockStates(client, [pair], { areThere: true });
    waiting = lock();
    await client.query({ text: "SELECT pg_sleep(0.2)" });
    await client.query({
      text: "UPDATE messaging_sessions SET version = version + 1, state = '\\x01' WHERE owner_id = $1",
      values: [alice],
    });
  });
  expect(await waiting).toMatchObject({ isKnown: false, version: row.version + 1, state: Buffer.of(1) });
});

test("when a key was destroyed, whosever it is, the process keeps no state any more", async () => {
  const [alice, bob, carol] = [await stage.agent(), await stage.agent(), await stage.agent()];
  await say(alice, bob, ["1"]);
  await newInRedis(alice, bob);
  stage.keys.destroy(carol);
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  stage.found();
  await say(alice, bob, ["2"]);
  expect(stage.found()).toEqual(["redis"]);
});
