import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { JUMP_MAX } from "../../protocol/limits.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { generateX25519 } from "../../protocol/primitives/primitives.ts";
import { type CustodyStage, envelopesOf, openCustodyStage, textsOf } from "../../tests/custody-stage.ts";
import { inStep, placeAll, sampleArrival, sampleItemId } from "../../tests/messaging.ts";

let stage: CustodyStage;
let aheadMs = 0;
beforeAll(async () => {
  stage = await openCustodyStage({ clock: { now: () => Date.now() + aheadMs } });
});
afterAll(() => stage.close());

async function say(from: string, to: string, texts: readonly string[]): Promise<readonly string[]> {
  const batch = await Promise.all(texts.map((text) => stage.command(from, to, text)));
  await stage.deliver(await stage.step(batch));
  return batch.map(({ value }) => value.messageId);
}

async function rowsOf(recipientId: string) {
  const { rows } = await stage.postgres.query<{ message_id: string; outcome: string; content: Uint8Array | null }>({
    text: "SELECT message_id, outcome, content FROM messaging_opened WHERE recipient_id = $1 ORDER BY message_id",
    values: [recipientId],
  });
  return rows;
}

test("a peer that waits for a rekey gets one answer, after which its messages carry no initiation", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  await say(
    alice,
    bob,
    Array.from({ length: 12 }, (_, n) => `${n}`),
  );
  const { rekeys } = await stage.open(bob);
  expect(rekeys.map(({ peerId }) => peerId)).toEqual([alice]);
  const [{ sessionId }] = rekeys as [(typeof rekeys)[number]];
  const answered = await stage.step([stage.rekey(bob, alice, sessionId), stage.rekey(bob, alice, sessionId)]);
  expect(envelopesOf(answered)).toHaveLength(1);
  await stage.deliver(answered);
  const { messages, handled } = await stage.open(alice);
  expect([messages.length, handled.length]).toEqual([0, 1]);
  const next = await stage.step([await stage.command(alice, bob, "turned")]);
  expect(envelopesOf(next).map(({ initiation, sendCounter }) => [initiation.length, sendCounter])).toEqual([[0, 1]]);
  await stage.deliver(next);
  expect(textsOf(await stage.open(bob)).at(-1)).toBe("turned");
});

test("a rekey answer in a session that is not there is no message", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  expect(await stage.step([stage.rekey(alice, bob, randomBytes(16))])).toEqual([]);
});

test("what the service has to tell of an item is told again behind the reader's cursor, until the item has ended; contents are not", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const [kept = ""] = await say(alice, bob, ["kept"]);
  const again = await stage.sayAs(alice, bob, `text/plain; in-repair-of=${kept}`, "kept");
  await placeAll(stage.postgres, [sampleArrival({ senderId: alice, recipientId: bob })]);
  await say(alice, bob, ["the last"]);
  const { cursor, messages, handled, refused } = await stage.open(bob);
  expect([cursor, messages.length]).toEqual([4, 2]);
  expect([handled, refused]).toMatchObject([[{ seq: 2, messageId: again }], [{ seq: 3, code: "malformed" }]]);
  const none = { messages: [], failed: [], handled: [], refused: [], cursor };
  expect(await stage.open(bob, 4)).toMatchObject({ ...none, handled, refused });
  expect(await stage.open(bob, 2)).toMatchObject({ ...none, messages: messages.slice(1), handled, refused });
  expect(await stage.open(bob, 1)).toMatchObject({ ...none, messages: messages.slice(1), handled, refused });
  const change = { recipientId: bob, deliveredAt: null, undeliverableAt: null, asideAt: null };
  const ended = [...handled, ...refused].map(({ senderId, messageId: itemId }) => {
    return { ...change, senderId, itemId, end: { outcome: "acknowledged" as const, at: 1, code: null } };
  });
  await inStep(stage.postgres, (tx) => tx.acks.settle(ended));
  expect(await stage.open(bob, 4)).toMatchObject(none);
});

test("what did not open is asked for again behind the reader's cursor when its time has come, and told once", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const [envelope] = envelopesOf(await stage.step([await stage.command(alice, bob, "damaged on its way")]));
  if (envelope === undefined) throw new Error("no envelope");
  await stage.deliverEnvelope({ ...envelope, authTag: randomBytes(16) });
  const { asks, failed, cursor } = await stage.open(bob);
  expect([asks.length, failed.length, cursor]).toEqual([1, 1, 1]);
  // The command was lost: nobody has asked.
  expect((await stage.open(bob, cursor)).asks).toEqual([]);
  aheadMs = 61_000;
  const later = await stage.open(bob, cursor);
  aheadMs = 0;
  expect(later.asks).toMatchObject([{ messageId: envelope.messageId, requestId: asks[0]?.requestId }]);
  expect(later.failed).toEqual([]);
});

test("content is deleted when its item ends, however it ends, and the outcome stays", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const [first = "", second = ""] = await say(alice, bob, ["one", "two"]);
  await stage.open(bob);
  const change = { recipientId: bob, senderId: alice, deliveredAt: null, undeliverableAt: null, asideAt: null };
  await inStep(stage.postgres, (tx) =>
    tx.acks.settle([
      { ...change, itemId: first, end: { outcome: "acknowledged", at: 1, code: null } },
      { ...change, itemId: second, end: { outcome: "deleted", at: 1, code: null } },
    ]),
  );
  expect((await rowsOf(bob)).map(({ outcome, content }) => [outcome, content])).toEqual([
    ["content", null],
    ["content", null],
  ]);
  expect((await stage.open(bob)).messages).toEqual([]);
});

test("a repair of what was opened is done with; one of what never came is content, and the first is done with", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const [first = ""] = await say(alice, bob, ["said"]);
  await stage.open(bob);
  const again = await stage.sayAs(alice, bob, `text/plain; in-repair-of=${first}`, "said");
  const lost = sampleItemId();
  await stage.sayAs(alice, bob, `text/plain; in-repair-of=${lost}`, "never came");
  const { messages, handled } = await stage.open(bob);
  expect(messages.map(({ contentType, body }) => [contentType, Buffer.from(body).toString("utf8")])).toEqual([
    ["text/plain", "said"],
    ["text/plain", "never came"],
  ]);
  expect(handled.map(({ messageId }) => messageId)).toEqual([again]);
  expect((await rowsOf(bob)).find(({ message_id }) => message_id === lost)?.outcome).toBe("handled");
});

test("ids that no message can have are not remembered because a repair names them", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const far = sampleItemId(Date.UTC(2080, 1, 1));
  await stage.sayAs(alice, bob, `text/plain; in-repair-of=${far}`, "a trick");
  expect(textsOf(await stage.open(bob))).toEqual(["a trick"]);
  expect((await rowsOf(bob)).map(({ message_id }) => message_id)).not.toContain(far);
});

test("what is no envelope is refused for good; what could be said anew stays, and keeps nothing back", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  await placeAll(stage.postgres, [sampleArrival({ senderId: alice, recipientId: bob })]);
  const [lost] = await Promise.all([stage.command(alice, bob, "begins the session")]);
  const begun = envelopesOf(await stage.step([lost]));
  // Changed on its way.
  const [envelope] = begun as [(typeof begun)[number]];
  const damaged = { ...envelope, authTag: randomBytes(16) };
  await stage.deliverEnvelope(damaged);
  await say(alice, bob, ["opens"]);
  const { messages, failed, refused, cursor, lastSeq } = await stage.open(bob);
  expect(messages.map(({ seq }) => seq)).toEqual([3]);
  expect(failed).toMatchObject([{ seq: 2, code: "auth-failed", messageId: envelope.messageId }]);
  expect(refused).toMatchObject([{ seq: 1, code: "malformed" }]);
  expect([cursor, lastSeq]).toEqual([3, 3]);
  expect((await stage.open(bob)).failed).toEqual(failed);
});

test("a page ends behind an envelope whose counters ask for much, and the calls that follow get to the end", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const begun = envelopesOf(await stage.step([await stage.command(alice, bob, "begins the session")]));
  const [envelope] = begun as [(typeof begun)[number]];
  await stage.deliverEnvelope(envelope);
  for (let n = 0; n < 3; n++) {
    const { publicKey: dhPublicKey } = generateX25519(nodePrimitives, nodeRandom);
    const asked = { dhPublicKey, previousCounter: 1 + JUMP_MAX, sendCounter: 1 + JUMP_MAX };
    await stage.deliverEnvelope({ ...envelope, ...asked, messageId: sampleItemId(), initiation: new Uint8Array() });
  }
  await say(alice, bob, ["waits behind them"]);
  const first = await stage.open(bob);
  expect(first).toMatchObject({
    messages: [{ seq: 1 }],
    failed: [{ seq: 2, code: "auth-failed" }],
    cursor: 2,
    lastSeq: 5,
  });
  const second = await stage.open(bob, first.cursor);
  expect(second).toMatchObject({ messages: [], failed: [{ seq: 3 }], cursor: 3, lastSeq: 5 });
  const third = await stage.open(bob, second.cursor);
  expect(third).toMatchObject({ messages: [], failed: [{ seq: 4 }], cursor: 4, lastSeq: 5 });
  const last = await stage.open(bob, third.cursor);
  expect([textsOf(last), last.failed, last.cursor]).toEqual([["waits behind them"], [], 5]);
  // What is known costs nothing any more: a reader without a cursor has all of it in one page.
  const again = await stage.open(bob);
  expect([again.messages.length, again.failed.length, again.cursor]).toEqual([2, 3, 5]);
});
