import { readFile } from "node:fs/promises";
import { Redis } from "ioredis";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ServiceProcess } from "../bin/service-process.ts";
import type { Failpoint } from "../streams/runner-options.ts";
import { expectCleanLog } from "./clean-log.ts";
import { HeldAgent, type ReadMessage } from "./held-agent.ts";
import { eventually, type House, openHouse, takeTexts } from "./house.ts";

let house: House;
let url: string;
let redis: Redis;

beforeAll(async () => {
  house = await openHouse();
  redis = new Redis(house.stack.urls.redisUrl);
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: ["queuing", "routing", "acks", "receipts", "sessions", "relay", "jobs"] });
});

afterAll(async () => {
  redis.disconnect();
  await house.close();
});

const encryption = (failpoint?: string) =>
  house.start({ roles: ["encryption"], env: failpoint === undefined ? {} : { SEALPOST_FAILPOINT: failpoint } });

function numbered(prefix: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${prefix} ${index + 1}`);
}

async function heldAgents(count: number): Promise<HeldAgent[]> {
  const agents = Array.from({ length: count }, () => new HeldAgent(url));
  for (const agent of agents) expect((await agent.register()).status).toBe(201);
  return agents;
}

/** In calls of `each`, so that there are many steps. */
async function sendAll(from: HeldAgent, to: string, bodies: readonly string[], each = 10): Promise<void> {
  for (let start = 0; start < bodies.length; start += each) await from.send(to, bodies.slice(start, start + each));
}

/** Is the process stopped by a signal (Linux: state T)? */
async function isFrozen({ pid }: ServiceProcess): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  return stat.slice(stat.lastIndexOf(")") + 2).startsWith("T");
}

/** How many states of pairs the process has needed and no cache had as the row has them: old ones, and none. */
async function statesMissed({ url: at }: ServiceProcess): Promise<number> {
  const text = await (await fetch(`${at}/metrics`)).text();
  const lines = text.matchAll(/^messaging_ratchet_states_total\{found="(\w+)"\} (\d+)/gm);
  return [...lines].reduce(
    (sum, [, found, count]) => sum + (found === "stale" || found === "nowhere" ? Number(count) : 0),
    0,
  );
}

const freezes: readonly Failpoint[] = ["after-commit", "before-commit"];

test.each(freezes)(
  "encryption frozen %s, past its session, while another takes over and it goes on: every message opens once, no key is used twice",
  { retry: 0 },
  async (point) => {
    const [held, other] = await heldAgents(2);
    if (held === undefined || other === undefined) throw new Error("no agents");
    const zombie = await encryption(`encryption:${point}:4:freeze`);
    const sent: string[] = [];
    const say = async (count: number, what: string) => {
      const bodies = numbered(`${point} ${what}`, count);
      sent.push(...bodies);
      await Promise.all([sendAll(held, other.id, bodies, 5), sendAll(other, held.id, bodies, 5)]);
    };
    for (let round = 1; !(await isFrozen(zombie)) && round <= 200; round += 1) await say(5, `${round}`);
    expect(await isFrozen(zombie)).toBe(true);
    const heir = await encryption();
    await say(60, "while it is frozen");
    const [there, back] = [other.texts(sent.length, 90_000), held.texts(sent.length, 90_000)];
    // What waited for the frozen one has come: the other one has all partitions.
    expect(await there).toEqual(sent);
    expect(await back).toEqual(sent);
    process.kill(zombie.pid, "SIGCONT");
    await say(60, "while both go on");
    const fresh = sent.slice(-60);
    expect(await Promise.all([other.texts(60), held.texts(60)])).toEqual([fresh, fresh]);
    await heir.stop();
    await say(20, "by the first again");
    const last = sent.slice(-20);
    expect(await Promise.all([other.texts(20, 90_000), held.texts(20, 90_000)])).toEqual([last, last]);
    await expectCleanLog(house);
    await zombie.stop();
  },
);

test("Redis emptied, and its states put back to older ones, in the middle of traffic: everything opens once, no key is used twice", {
  retry: 0,
}, async () => {
  const [held, other] = await heldAgents(2);
  if (held === undefined || other === undefined) throw new Error("no agents");
  const alice = await house.agent("alice-redis", url);
  const sent: string[] = [];
  let service = await encryption();
  const say = async (what: string) => {
    const bodies = numbered(what, 40);
    sent.push(...bodies);
    await Promise.all([
      sendAll(held, other.id, bodies),
      sendAll(other, held.id, bodies),
      sendAll(held, alice.id, bodies),
    ]);
  };
  /** Of these pairs: others have left theirs. */
  const states = async () => {
    const keys = (await redis.keys("ratchet:*")).filter((key) => key.includes(held.id));
    return Promise.all(keys.map(async (key) => ({ key, dump: await redis.dumpBuffer(key) })));
  };
  await say("first");
  await eventually("states are in Redis", async () => (await states()).length >= 3);
  const old = await states();
  await say("second");
  for (const accident of ["emptied", "put back"]) {
    const traffic = say(accident);
    // Whoever starts anew has nothing in its memory and must believe Redis or the row.
    await service.kill();
    if (accident === "emptied") await redis.flushall();
    else for (const { key, dump } of old) await redis.restore(key, 60_000, dump as Buffer, "REPLACE");
    service = await encryption();
    await traffic;
    await eventually("it has looked for them", async () => (await statesMissed(service)) >= 3, 60_000);
    await say(`${accident}, and on`);
    await redis.flushall();
    await say(`${accident}, emptied while it runs`);
    await eventually("what was said has come to Redis again", async () => (await states()).length >= 3);
  }
  expect(await other.texts(sent.length, 90_000)).toEqual(sent);
  expect(await held.texts(sent.length, 90_000)).toEqual(sent);
  expect(await takeTexts(alice, sent.length, 90_000)).toEqual(sent);
  await expectCleanLog(house);
  await service.stop();
});

test("a held agent that opens its mailbox again and again holds up nobody: while it does, what its peers and itself send arrives", async () => {
  const [busy, ...peers] = await heldAgents(4);
  if (busy === undefined) throw new Error("no agents");
  const service = await encryption();
  let opening = true;
  let calls = 0;
  const opened = new Set<string>();
  const loops = [1, 2, 3].map(async () => {
    while (opening) {
      const { messages, failed } = await busy.open();
      expect(failed).toEqual([]);
      for (const { senderId, messageId } of messages) opened.add(`${senderId} ${messageId}`);
      calls += 1;
      // The mailbox must not be full of what was read already, or nothing new would be opened.
      if (messages.length > 50) await busy.acknowledge(messages);
    }
  });
  const bodies = numbered("to and fro", 60);
  await Promise.all(
    peers.flatMap((peer, index) => {
      const next = peers[(index + 1) % peers.length] as HeldAgent;
      return [sendAll(peer, busy.id, bodies), sendAll(peer, next.id, bodies), sendAll(busy, peer.id, bodies)];
    }),
  );
  for (const peer of peers) expect([...(await peer.texts(120))].toSorted()).toEqual([...bodies, ...bodies].toSorted());
  await eventually("the loop has read what its peers sent", () => opened.size === 180);
  opening = false;
  await Promise.all(loops);
  expect(calls).toBeGreaterThan(20);
  await expectCleanLog(house);
  await service.stop();
});

/**
 * Opens page by page, acknowledges in another order and not all at once; the texts of each sender in the order in which they were sent. What was read
 * before may come again for as long as its acknowledgement is under way: an application knows it by its id.
 */
async function readInPages(
  agent: HeldAgent,
  count: number,
  readBefore: Set<string> = new Set(),
  msMax = 120_000,
): Promise<ReadonlyMap<string, readonly string[]>> {
  const until = performance.now() + msMax;
  const got = new Map<string, ReadMessage>();
  let cursor = "0";
  let late: ReadMessage[] = [];
  while (got.size < count) {
    if (performance.now() > until) throw new Error(`only ${got.size} of ${count} messages came`);
    const page = await agent.open(cursor, 1 + (got.size % 37));
    if (page.failed.length > 0) throw new Error(`did not open: ${JSON.stringify(page.failed)}`);
    for (const message of page.messages) {
      const name = `${message.senderId} ${message.messageId}`;
      if (!readBefore.has(name)) got.set(name, message);
    }
    cursor = page.cursor;
    // The latter half first, the rest a page later; what was not answered yet comes again with the next sweep.
    const half = page.messages.length >> 1;
    await agent.acknowledge([...page.messages.slice(half).toReversed(), ...late]);
    late = page.messages.slice(0, half);
    if (page.messages.length === 0) cursor = "0";
  }
  await agent.acknowledge(late);
  for (const name of got.keys()) readBefore.add(name);
  const bySender = new Map<string, string[]>();
  for (const { senderId, text } of [...got.values()].toSorted((a, b) => a.seq - b.seq)) {
    bySender.set(senderId, [...(bySender.get(senderId) ?? []), text]);
  }
  return bySender;
}

test("thousands of messages both ways, read in pages, answered out of order, with agents offline between: each opens once, in order", {
  retry: 0,
}, async () => {
  const [held, other] = await heldAgents(2);
  if (held === undefined || other === undefined) throw new Error("no agents");
  const service = await encryption();
  let alice = await house.agent("alice-thousands", url);
  const aliceId = alice.id;
  const [there, back, toAlice, fromAlice] = ["there", "back", "to alice", "from alice"].map((what) =>
    numbered(what, 500),
  );
  if (!there || !back || !toAlice || !fromAlice) throw new Error("no texts");
  const half = 250;
  const sayHalf = async (from: number) => {
    const part = (bodies: readonly string[]) => bodies.slice(from, from + half);
    const outcomes = alice.sendMany(part(fromAlice).map((body) => ({ to: held.id, body })));
    await Promise.all([
      sendAll(held, other.id, part(there), 25),
      sendAll(other, held.id, part(back), 25),
      sendAll(held, aliceId, part(toAlice), 25),
    ]);
    expect((await outcomes).filter(({ status }) => status === "rejected")).toEqual([]);
  };
  // Nobody reads: chains grow, and all ask for a rekey.
  await sayHalf(0);
  await alice.close();
  const [byHeld, byOther] = [new Set<string>(), new Set<string>()];
  const first = [readInPages(held, 2 * half, byHeld), readInPages(other, half, byOther)];
  const [heldFirst, otherFirst] = await Promise.all(first);
  alice = await house.agent("alice-thousands", url);
  // Everybody reads while the rest is said.
  const second = [readInPages(held, 2 * half, byHeld), readInPages(other, half, byOther)];
  const [, heldSecond, otherSecond, aliceRead] = await Promise.all([
    sayHalf(half),
    second[0],
    second[1],
    takeTexts(alice, toAlice.length, 120_000),
  ]);
  const joined = (one: typeof heldFirst, two: typeof heldFirst, senderId: string) => [
    ...(one?.get(senderId) ?? []),
    ...(two?.get(senderId) ?? []),
  ];
  expect(joined(heldFirst, heldSecond, other.id)).toEqual(back);
  expect(joined(heldFirst, heldSecond, aliceId)).toEqual(fromAlice);
  expect(joined(otherFirst, otherSecond, held.id)).toEqual(there);
  expect(aliceRead).toEqual(toAlice);
  await expectCleanLog(house);
  expect(await (await fetch(`${service.url}/metrics`)).text()).toMatch(
    /^messaging_ratchet_cache_hit_ratio (1|0\.\d*[1-9])/m,
  );
  await service.stop();
});
