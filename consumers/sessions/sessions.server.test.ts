import { afterAll, beforeAll, expect, test } from "vitest";
import type { Envelope } from "../../protocol/envelope.ts";
import type { Postgres } from "../../store/postgres.ts";
import { factsOfPair } from "../../store/session-facts.ts";
import { inStep, openSampleDatabase } from "../../tests/messaging.ts";
import { recordOf, sampleSession } from "../../tests/sessions.ts";
import { sessions } from "./sessions.ts";

const now = Date.UTC(2026, 5, 1);

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

async function step(envelopes: readonly Envelope[], partition = 0): Promise<number> {
  const batch = envelopes.map((envelope, offset) => recordOf(envelope, { partition, offset }));
  return (await inStep(postgres, (tx) => sessions.step(batch, tx))).length;
}

test("steps that hold the same messages again leave the rows as they were and tell nothing", async () => {
  const { alice, bob, initiationBytes: initiation, sent } = sampleSession();
  const envelopes = Array.from({ length: 300 }, (_, n) => sent(now + n, { sendCounter: n + 1, initiation }));
  expect(await step(envelopes)).toBe(1);
  const before = await factsOfPair(postgres, alice.agentId, bob.agentId);
  expect(before).toMatchObject([{ messages: 300, sendCounter: 300, initiation: { suite: 1 } }]);
  expect(await step(envelopes)).toBe(0);
  expect(await step(envelopes.slice(0, 10))).toBe(0);
  expect(await factsOfPair(postgres, bob.agentId, alice.agentId)).toEqual(before);
});

test("a step that was rolled back is told again", async () => {
  const { alice, bob, initiationBytes: initiation, sent } = sampleSession();
  const batch = [recordOf(sent(now, { initiation }))];
  const crash = new Error("before the commit");
  const crashed = inStep(postgres, async (tx) => {
    expect(await sessions.step(batch, tx)).toHaveLength(1);
    throw crash;
  });
  await expect(crashed).rejects.toBe(crash);
  expect(await factsOfPair(postgres, alice.agentId, bob.agentId)).toEqual([]);
  expect(await inStep(postgres, (tx) => sessions.step(batch, tx))).toHaveLength(1);
});

test("steps of two partitions with the same senders, in opposite orders, never wait for each other for ever", async () => {
  const pairs = Array.from({ length: 40 }, () => sampleSession());
  let at = now;
  for (let round = 0; round < 10; round++) {
    at += 1;
    const sent = pairs.map((pair) => pair.sent(at, { sendCounter: round + 1, initiation: pair.initiationBytes }));
    const answered = pairs.map((pair) => pair.answered(at, { sendCounter: round + 1 })).toReversed();
    await Promise.all([step(sent, 0), step(answered, 1)]);
  }
  for (const { alice, bob } of pairs) {
    const rows = await factsOfPair(postgres, alice.agentId, bob.agentId);
    expect(rows.map(({ messages, sendCounter }) => [messages, sendCounter])).toEqual([
      [10, 10],
      [10, 10],
    ]);
  }
});
