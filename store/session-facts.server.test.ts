import { randomBytes, randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { forgetOldSessions } from "../jobs/sessions.ts";
import { openSampleDatabase, sampleAgentId, sampleItemId } from "../tests/messaging.ts";
import { uniqueName, useStack } from "../tests/stack.ts";
import { openPairFacts } from "./pair-facts.ts";
import { inTransaction, type Postgres } from "./postgres.ts";
import { openRedis, type RedisDoor, redisReady } from "./redis.ts";
import {
  factsOfOwner,
  factsOfPair,
  findFacts,
  pairSessionsMax,
  type SessionFacts,
  writeFacts,
} from "./session-facts.ts";

const dayMs = 24 * 60 * 60 * 1000;

let postgres: Postgres;
let redis: RedisDoor;
beforeAll(async () => {
  postgres = await openSampleDatabase();
  redis = openRedis(useStack().redisUrl, { prefix: `${uniqueName("facts")}:` });
  await redisReady(redis, 5_000);
});
afterAll(async () => {
  redis?.close();
  await postgres?.close();
});

function someFacts(fields: Partial<SessionFacts> = {}): SessionFacts {
  return {
    ownerId: sampleAgentId(),
    peerId: sampleAgentId(),
    sessionId: randomBytes(16),
    messageId: sampleItemId(),
    dhPublicKey: randomBytes(32),
    sendCounter: 1,
    previousCounter: 0,
    messages: 1,
    firstAt: 1_000,
    lastAt: 2_000,
    initiation: null,
    ...fields,
  };
}

test("what is written is found, and written over as a whole", async () => {
  const initiation = {
    suite: 2,
    signedPrekeyId: randomUUID(),
    oneTimePrekeyId: null,
    kemPrekeyId: randomUUID(),
    at: 5,
  };
  const [begun, answered] = [someFacts({ initiation }), someFacts({ sendCounter: 4_294_967_295 })];
  await writeFacts(postgres, [begun, answered]);
  expect(await findFacts(postgres, [answered, someFacts(), begun])).toEqual(expect.arrayContaining([begun, answered]));
  const later = { ...begun, ...someFacts({ ...begun, messageId: sampleItemId(), sendCounter: 9, messages: 7 }) };
  await writeFacts(postgres, [later]);
  expect(await findFacts(postgres, [begun])).toEqual([later]);
});

test("a pair's sessions come newest first, both sides of each together, and no more than are shown", async () => {
  const [one, other] = [sampleAgentId(), sampleAgentId()];
  const rows = Array.from({ length: pairSessionsMax + 20 }, (_, n) => {
    const own = someFacts({ ownerId: one, peerId: other, lastAt: n });
    // Every other session has answers, some of them long ago.
    const answer = someFacts({ ownerId: other, peerId: one, sessionId: own.sessionId, lastAt: n % 4 === 0 ? 0 : n });
    return n % 2 === 0 ? [own, answer] : [own];
  });
  await writeFacts(postgres, [...rows.flat(), someFacts({ ownerId: one }), someFacts({ ownerId: other })]);
  const found = await factsOfPair(postgres, other, one);
  expect(found).toHaveLength(pairSessionsMax * 1.5);
  const newest = rows.toReversed().slice(0, pairSessionsMax);
  const names = (list: readonly SessionFacts[]) => list.map(({ sessionId }) => Buffer.from(sessionId).toString("hex"));
  expect(names(found)).toEqual(names(newest.flat()));
  const own = someFacts({ ownerId: one, peerId: one });
  await writeFacts(postgres, [own]);
  expect(await factsOfPair(postgres, one, one)).toEqual([own]);
});

test("an agent's pages hold each of its rows once, newest first, and nobody else's", async () => {
  const ownerId = sampleAgentId();
  const rows = Array.from({ length: 57 }, (_, n) => someFacts({ ownerId, lastAt: Math.floor(n / 5) }));
  await writeFacts(postgres, [...rows, someFacts({ peerId: ownerId })]);
  const read: SessionFacts[] = [];
  for (let page = await factsOfOwner(postgres, ownerId, null, 10); page.length > 0; ) {
    read.push(...page);
    page = await factsOfOwner(postgres, ownerId, page.at(-1) ?? null, 10);
  }
  expect(read.map(({ lastAt }) => lastAt)).toEqual(rows.map(({ lastAt }) => lastAt).toReversed());
  expect(new Set(read.map(({ messageId }) => messageId))).toEqual(new Set(rows.map(({ messageId }) => messageId)));
});

test("facts are forgotten 60 days after the last message, however many one agent has, and no younger ones", async () => {
  const now = Date.now();
  const ownerId = sampleAgentId();
  const old = Array.from({ length: 2_500 }, () => someFacts({ ownerId, lastAt: now - 60 * dayMs - 1 }));
  const others = Array.from({ length: 50 }, () => someFacts({ lastAt: now - 61 * dayMs }));
  const young = [someFacts({ ownerId, lastAt: now - 60 * dayMs }), someFacts({ lastAt: now })];
  await writeFacts(postgres, [...old, ...others, ...young]);
  await inTransaction(postgres, async (client) => {
    // Of a step that is under way.
    const [held] = others;
    if (held === undefined) throw new Error("no row");
    await writeFacts(client, [{ ...held, lastAt: now }]);
    await forgetOldSessions(postgres, now);
  });
  expect(await findFacts(postgres, old)).toEqual([]);
  expect(await findFacts(postgres, young)).toHaveLength(2);
  expect(await findFacts(postgres, others)).toMatchObject([{ lastAt: now }]);
});

test("a job that shall end leaves the rest for the next night", async () => {
  const now = Date.now();
  const ownerId = sampleAgentId();
  // What other tests left.
  await forgetOldSessions(postgres, now);
  const old = Array.from({ length: 1_500 }, () => someFacts({ ownerId, lastAt: now - 61 * dayMs }));
  await writeFacts(postgres, old);
  await forgetOldSessions(postgres, now, AbortSignal.abort());
  expect(await findFacts(postgres, old)).toHaveLength(500);
  await forgetOldSessions(postgres, now);
  expect(await findFacts(postgres, old)).toEqual([]);
});

test("a pair's facts are remembered for some seconds, the same from both sides; without Redis the database is asked", async () => {
  const initiation = { suite: 1, signedPrekeyId: randomUUID(), oneTimePrekeyId: null, kemPrekeyId: null, at: 5 };
  const facts = someFacts({ initiation });
  const { ownerId, peerId } = facts;
  await writeFacts(postgres, [facts]);
  const door = openPairFacts(postgres, redis);
  expect(await door.ofPair(ownerId, peerId)).toEqual([facts]);
  const later = { ...facts, messages: 2 };
  await writeFacts(postgres, [later]);
  expect(await door.ofPair(peerId, ownerId)).toEqual([facts]);
  const away = openRedis("redis://127.0.0.1:1");
  expect(await openPairFacts(postgres, away).ofPair(ownerId, peerId)).toEqual([later]);
  away.close();
});
