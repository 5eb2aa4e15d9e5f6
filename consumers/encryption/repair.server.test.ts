import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { encodeFrame } from "../../protocol/frame.ts";
import { REPAIRS_MAX } from "../../protocol/limits.ts";
import { findSuccessors } from "../../store/custody/commands.ts";
import type { Emit } from "../../streams/consumer.ts";
import {
  type CustodyStage,
  encryptedItems,
  endedItems,
  envelopesOf,
  openCustodyStage,
  textsOf,
} from "../../tests/custody-stage.ts";
import { keysUsedTwice } from "../../tests/keys-used-twice.ts";
import { inStep, sampleItemId } from "../../tests/messaging.ts";

const hourMs = 60 * 60 * 1000;

let stage: CustodyStage;
let aheadMs = 0;
beforeAll(async () => {
  stage = await openCustodyStage({ clock: { now: () => Date.now() + aheadMs } });
});
afterAll(() => stage.close());

async function pair(): Promise<[alice: string, bob: string]> {
  return [await stage.agent(), await stage.agent()];
}

const bodies = (emits: readonly Emit[]) => encryptedItems(emits).map(({ body }) => Buffer.from(body).toString("hex"));

/** Says texts, one step each; the ids. */
async function say(from: string, to: string, ...texts: readonly string[]): Promise<readonly string[]> {
  const ids: string[] = [];
  for (const text of texts) {
    const command = await stage.command(from, to, text);
    await stage.deliver(await stage.step([command]));
    ids.push(command.value.messageId);
  }
  return ids;
}

/** What this agent keeps of its peer is gone. */
async function lose(ownerId: string, peerId: string): Promise<void> {
  await stage.postgres.query({
    text: "DELETE FROM messaging_sessions WHERE owner_id = $1 AND peer_id = $2",
    values: [ownerId, peerId],
  });
}

/** Opens, and asks for what did not open. */
async function openAndAsk(agentId: string): Promise<readonly Emit[]> {
  const { asks } = await stage.open(agentId);
  const emits = await stage.step(asks.map((asking) => stage.asking(agentId, asking)));
  await stage.deliver(emits);
  await stage.end(emits);
  return emits;
}

/** Answers what peers ask for now. */
async function answerAll(agentId: string): Promise<readonly Emit[]> {
  const { due, ended } = await stage.takeRequests(agentId);
  const emits = await stage.step([...due, ...ended].map(stage.answering));
  await stage.deliver(emits);
  await stage.end(emits);
  return emits;
}

/** Its recipient has them, and says so. */
async function acknowledgeAll(recipientId: string): Promise<readonly string[]> {
  const opened = await stage.open(recipientId);
  const at = Date.now();
  await inStep(stage.postgres, (tx) =>
    tx.acks.settle(
      opened.messages.map(({ senderId, messageId: itemId }) => ({
        ...{ recipientId, senderId, itemId, deliveredAt: null, undeliverableAt: null, asideAt: null },
        end: { outcome: "acknowledged", at, code: null },
      })),
    ),
  );
  return textsOf(opened);
}

async function keptOf(senderId: string): Promise<readonly { message_id: string; kept: boolean; repairs: number }[]> {
  const { rows } = await stage.postgres.query<{ message_id: string; kept: boolean; repairs: number }>({
    text: `SELECT message_id, content IS NOT NULL AS kept, repairs FROM messaging_commands WHERE sender_id = $1
           ORDER BY message_id`,
    values: [senderId],
  });
  return rows;
}

/** As which messages this one was said anew. */
async function successorsOf(senderId: string, messageId: string): Promise<readonly string[]> {
  const [found = []] = (await findSuccessors(stage.postgres, [{ senderId, messageId }])).values();
  return found.map((key) => key.messageId);
}

/** These are as a recovery brings them back: envelopes alone. */
async function bringBack(senderId: string, ...messageIds: readonly string[]): Promise<void> {
  await stage.postgres.query({
    text: `UPDATE messaging_commands SET hmac = NULL, content = NULL, first_id = NULL, repairs = 0, repair_at = NULL, successor_id = NULL
           WHERE sender_id = $1 AND message_id = ANY ($2)`,
    values: [senderId, messageIds],
  });
}

/** A message that its recipient could not open, and the request for it in its sender's mailbox. */
async function failedOnce(alice: string, bob: string, text: string) {
  await say(alice, bob, "before");
  await acknowledgeAll(bob);
  await lose(bob, alice);
  const command = await stage.command(alice, bob, text);
  await stage.deliver(await stage.step([command]));
  const [request] = encryptedItems(await openAndAsk(bob));
  if (request === undefined) throw new Error("nothing was asked for");
  return { command, request: { ownerId: alice, peerId: bob, itemId: request.itemId } };
}

async function waitingFor(recipientId: string): Promise<number> {
  const { rows } = await stage.postgres.query<{ n: number }>({
    text: "SELECT count(*)::int AS n FROM messaging_queue WHERE recipient_id = $1",
    values: [recipientId],
  });
  return rows[0]?.n ?? 0;
}

async function statusOf(senderId: string, messageId: string) {
  const { rows } = await stage.postgres.query<{ outcome: string | null; code: string | null }>({
    text: "SELECT outcome, code FROM messaging_messages WHERE sender_id = $1 AND message_id = $2",
    values: [senderId, messageId],
  });
  return rows[0];
}

const failures: readonly [law: string, breakIt: (alice: string, bob: string) => Promise<void>][] = [
  ["the recipient lost its sessions", (alice, bob) => lose(bob, alice)],
  ["the recipient's state is damaged", (alice, bob) => stage.overwriteState(bob, alice, new Uint8Array(40))],
];

test.each(failures)(
  "%s: what was under way is said anew, opens once, and the sender can see why",
  async (_, breakIt) => {
    const [alice, bob] = await pair();
    await say(alice, bob, "before");
    expect(await acknowledgeAll(bob)).toEqual(["before"]);
    // Turned, so that no initiation is attached any more.
    await say(bob, alice, "hello");
    await acknowledgeAll(alice);
    await breakIt(alice, bob);
    const lost = await say(alice, bob, "one", "two");
    const { failed, messages } = await stage.open(bob);
    expect(messages).toEqual([]);
    expect(failed.map(({ code }) => code)).toEqual(["session-unknown", "session-unknown"]);

    // The first answer was lost: it is asked for again after a while.
    expect((await stage.open(bob)).asks).toEqual([]);
    aheadMs += 2 * 60_000;
    const asked = await openAndAsk(bob);
    expect(encryptedItems(asked).map(({ kind, recipientId }) => [kind, recipientId])).toEqual([
      ["retry", alice],
      ["retry", alice],
    ]);
    expect(await waitingFor(bob)).toBe(0);
    expect(await statusOf(alice, lost[0] ?? "")).toEqual({ outcome: "refused", code: "session-unknown" });

    const answers = await answerAll(alice);
    expect(envelopesOf(answers).map(({ initiation }) => initiation.length > 0)).toEqual([true, true]);
    expect(await acknowledgeAll(bob)).toEqual(["one", "two"]);
    expect([await waitingFor(alice), await waitingFor(bob)]).toEqual([0, 0]);
    expect((await keptOf(alice)).filter(({ kept }) => kept)).toEqual([]);
    await say(alice, bob, "after");
    expect(await acknowledgeAll(bob)).toEqual(["after"]);
  },
);

test("a command to ask, done twice, leads to one request; one to answer, done twice or made twice, to one envelope", async () => {
  const [alice, bob] = await pair();
  await say(alice, bob, "before");
  await acknowledgeAll(bob);
  await say(bob, alice, "hello");
  await acknowledgeAll(alice);
  await lose(bob, alice);
  await say(alice, bob, "once");
  const { asks } = await stage.open(bob);
  const asking = asks.map((one) => stage.asking(bob, one));
  const first = await stage.step(asking);
  const again = await stage.step(asking);
  expect(bodies(again)).toEqual(bodies(first));
  expect(endedItems(again)).toEqual(endedItems(first));
  for (const emits of [first, again]) {
    await stage.deliver(emits);
    await stage.end(emits);
  }
  const { due } = await stage.takeRequests(alice);
  expect(due).toHaveLength(1);
  expect((await stage.takeRequests(alice)).due).toEqual([]);
  const command = due.map(stage.answering);
  const answers = await stage.step(command);
  const repeated = await stage.step(command);
  expect(bodies(repeated)).toEqual(bodies(answers));
  const other = await stage.step(due.map(stage.answering));
  expect(encryptedItems(other)).toEqual([]);
  expect(endedItems(other)).toEqual(endedItems(answers));
  await stage.deliver(answers);
  await stage.deliver(repeated);
  expect(await acknowledgeAll(bob)).toEqual(["once"]);
});

test("a step of both that is rolled back has used nothing up", async () => {
  const [alice, bob] = await pair();
  await say(alice, bob, "before");
  await acknowledgeAll(bob);
  await say(bob, alice, "hello");
  await acknowledgeAll(alice);
  await lose(bob, alice);
  await say(alice, bob, "once");
  await openAndAsk(bob);
  const { due } = await stage.takeRequests(alice);
  const batch = [...due.map(stage.answering), await stage.command(alice, bob, "beside")];
  const crash = new Error("before the commit");
  const attempt = inStep(stage.postgres, async (tx) => {
    await stage.consumer.step(batch, tx);
    throw crash;
  });
  await expect(attempt).rejects.toBe(crash);
  const emits = await stage.step(batch);
  expect(keysUsedTwice(envelopesOf(emits))).toEqual([]);
  await stage.deliver(emits);
  expect(await acknowledgeAll(bob)).toEqual(["once", "beside"]);
});

test("the sender lost its sessions: what its peer could not open before is said anew all the same", async () => {
  const [alice, bob] = await pair();
  await say(alice, bob, "before");
  await acknowledgeAll(bob);
  await lose(bob, alice);
  await say(alice, bob, "one");
  await openAndAsk(bob);
  await lose(alice, bob);
  await answerAll(alice);
  expect(await acknowledgeAll(bob)).toEqual(["one"]);
});

test("of a peer that never opens anything one new session an hour is begun, and each content is said five times anew", async () => {
  const [alice, bob] = await pair();
  await say(alice, bob, "hopeless");
  const breaks = async () => {
    await stage.postgres.query({
      text: "UPDATE messaging_prekeys SET private_key_encrypted = NULL WHERE agent_id = $1",
      values: [bob],
    });
    await openAndAsk(bob);
  };
  for (let repairs = 1; repairs <= REPAIRS_MAX; repairs++) {
    await breaks();
    expect(envelopesOf(await answerAll(alice))).toHaveLength(1);
    // The next one would need a second session within the hour: it waits, and does not come up before.
    if (repairs === REPAIRS_MAX) break;
    await breaks();
    expect(await answerAll(alice)).toEqual([]);
    expect(await waitingFor(alice)).toBe(1);
    expect((await stage.takeRequests(alice)).due).toEqual([]);
    aheadMs += hourMs;
  }
  await breaks();
  expect(endedItems(await answerAll(alice)).map(({ outcome }) => outcome)).toEqual(["acknowledged"]);
  expect([await waitingFor(alice), await waitingFor(bob)]).toEqual([0, 0]);
  const kept = await keptOf(alice);
  expect(kept.map(({ repairs }) => repairs)).toEqual([0, 1, 2, 3, 4, 5]);
  const [first = "", ...successors] = kept.map(({ message_id }) => message_id);
  expect(await successorsOf(alice, first)).toEqual(successors);
  expect(await successorsOf(alice, successors[3] ?? "")).toEqual(successors.slice(4));
});

test("a peer without prekeys is answered when it has some", async () => {
  const [alice, bob] = await pair();
  await say(alice, bob, "one");
  await lose(bob, alice);
  await stage.postgres.query({
    text: "UPDATE messaging_prekeys SET private_key_encrypted = NULL WHERE agent_id = $1 AND status <> 'ACTIVE'",
    values: [bob],
  });
  stage.withoutBundles.add(bob);
  await openAndAsk(bob);
  expect(await answerAll(alice)).toEqual([]);
  expect(await waitingFor(alice)).toBe(1);
  stage.withoutBundles.delete(bob);
  aheadMs += hourMs;
  expect(envelopesOf(await answerAll(alice))).toHaveLength(1);
  expect(await acknowledgeAll(bob)).toEqual(["one"]);
});

test("a request that nobody signed, or for somebody else's message, says nothing anew", async () => {
  const [alice, bob] = await pair();
  const eve = await stage.agent();
  const [id = ""] = await say(alice, bob, "for bob");
  await lose(bob, alice);
  const { asks } = await stage.open(bob);
  expect(asks).toEqual([]);
  // Eve's keys, Bob's name; and Eve's own name.
  const forged = await stage.forgeRequest({ by: eve, as: bob, about: { senderId: alice, messageId: id } });
  const foreign = await stage.forgeRequest({ by: eve, as: eve, about: { senderId: alice, messageId: id } });
  const { due } = await stage.takeRequests(alice);
  expect(due.map(({ itemId }) => itemId).toSorted()).toEqual([forged, foreign].toSorted());
  const emits = await stage.step(due.map(stage.answering));
  expect(encryptedItems(emits)).toEqual([]);
  const ends = new Map(endedItems(emits).map(({ itemId, outcome, code }) => [itemId, [outcome, code]]));
  expect(ends.get(forged)).toEqual(["refused", "signature-invalid"]);
  expect(ends.get(foreign)).toEqual(["acknowledged", null]);
  expect((await keptOf(alice)).map(({ kept }) => kept)).toEqual([true]);
});

test("content is kept until its message has ended, but for a refusal after which it is asked for, and no stranger ends it", async () => {
  const [alice, bob] = await pair();
  const ends = [
    ["acknowledged", null, false],
    ["refused", "bad-frame", false],
    ["refused", "message-key-gone", true],
    ["expired", null, false],
  ] as const;
  const ids = await say(alice, bob, "1", "2", "3", "4");
  const change = { senderId: alice, deliveredAt: null, undeliverableAt: null, asideAt: null };
  const eve = await stage.agent();
  const settle = (recipientId: string) =>
    inStep(stage.postgres, (tx) =>
      tx.acks.settle(
        ends.map(([outcome, code], n) => ({
          ...change,
          recipientId,
          itemId: ids[n] ?? "",
          end: { outcome, at: 1, code },
        })),
      ),
    );
  await settle(eve);
  expect((await keptOf(alice)).map(({ kept }) => kept)).toEqual([true, true, true, true]);
  await settle(bob);
  const kept = new Map((await keptOf(alice)).map((row) => [row.message_id, row.kept]));
  expect(ids.map((id) => kept.get(id))).toEqual(ends.map(([, , isKept]) => isKept));
});

test("a kept content that no message can be made of is done with, and takes nothing else along", async () => {
  const [alice, bob] = await pair();
  const carol = await stage.agent();
  const [messageId = ""] = await say(alice, bob, "grows");
  const frame = encodeFrame({ contentType: "t".repeat(65_500), body: new Uint8Array() });
  await stage.postgres.query({
    text: "UPDATE messaging_commands SET content = $2 WHERE sender_id = $1",
    values: [alice, stage.keys.sealSaid({ senderId: alice, messageId }, frame)],
  });
  const request = await stage.forgeRequest({ by: bob, as: bob, about: { senderId: alice, messageId } });
  const { due } = await stage.takeRequests(alice);
  const emits = await stage.step([...due.map(stage.answering), await stage.command(carol, bob, "beside")]);
  expect(endedItems(emits)).toEqual([{ outcome: "acknowledged", itemId: request, code: null }]);
  expect(envelopesOf(emits).map(({ senderId }) => senderId)).toEqual([carol]);
  expect((await keptOf(alice)).map(({ kept }) => kept)).toEqual([false]);
  expect(await successorsOf(alice, messageId)).toEqual([]);
});

test("after a restore a request waits until what it asks for was read again, which may be in the step that answers", async () => {
  const [alice, bob] = await pair();
  const { command, request } = await failedOnce(alice, bob, "one");
  await bringBack(alice, command.value.messageId);
  expect(await stage.takeRequests(alice)).toEqual({ due: [], ended: [], afterSeq: null });
  const emits = await stage.step([command, stage.answering(request)]);
  expect(envelopesOf(emits)).toHaveLength(2);
  await stage.deliver(emits);
  await stage.end(emits);
  expect(await acknowledgeAll(bob)).toEqual(["one"]);
  expect(await waitingFor(alice)).toBe(0);
});

test("after a restore a request whose message was read again is taken", async () => {
  const [alice, bob] = await pair();
  const { command, request } = await failedOnce(alice, bob, "one");
  await bringBack(alice, command.value.messageId);
  await stage.step([command]);
  expect((await stage.takeRequests(alice)).due).toEqual([request]);
});

test("a successor that a recovery brought back has the content again, and may fail itself", async () => {
  const [alice, bob] = await pair();
  const { command, request } = await failedOnce(alice, bob, "one");
  const answer = stage.answering(request);
  const before = await stage.step([answer]);
  await bringBack(alice, command.value.messageId, answer.value.messageId);
  const batch = [command, answer, answer];
  const again = await stage.step(batch);
  expect(bodies(again).slice(1)).toEqual([...bodies(before), ...bodies(before)]);
  const kept = new Map((await keptOf(alice)).map((row) => [row.message_id, row]));
  expect(kept.get(command.value.messageId)).toMatchObject({ kept: false });
  expect(kept.get(answer.value.messageId)).toMatchObject({ kept: true, repairs: 1 });
  expect(await successorsOf(alice, command.value.messageId)).toEqual([answer.value.messageId]);
  await stage.deliver(again);
  await stage.end(again);
  await lose(bob, alice);
  await stage.postgres.query({
    text: "UPDATE messaging_prekeys SET private_key_encrypted = NULL WHERE agent_id = $1 AND status <> 'ACTIVE'",
    values: [bob],
  });
  await openAndAsk(bob);
  aheadMs += hourMs;
  await answerAll(alice);
  expect(await acknowledgeAll(bob)).toEqual(["one"]);
  expect(Math.max(...(await keptOf(alice)).map(({ repairs }) => repairs))).toBe(2);
});

test("what a command said is not kept once more when its message has ended before it is read again", async () => {
  const [alice, bob] = await pair();
  const { command } = await failedOnce(alice, bob, "refused, to be said anew");
  const carol = await stage.agent();
  const ended = await stage.command(alice, carol, "acknowledged");
  await stage.deliver(await stage.step([ended]));
  expect(await acknowledgeAll(carol)).toEqual(["acknowledged"]);
  const ids = [command, ended].map(({ value }) => value.messageId);
  await bringBack(alice, ...ids);
  await stage.step([command, ended]);
  const kept = new Map((await keptOf(alice)).map((row) => [row.message_id, row.kept]));
  expect(ids.map((id) => kept.get(id))).toEqual([true, false]);
});

test("a prekey that does not open is not there: the first message is asked for, and the rest of the mailbox opens", async () => {
  const [alice, bob] = await pair();
  const carol = await stage.agent();
  await say(alice, bob, "lost at first");
  await stage.postgres.query({
    text: "UPDATE messaging_prekeys SET private_key_encrypted = $2 WHERE agent_id = $1 AND key_type = 'one-time' AND status = 'USED'",
    values: [bob, randomBytes(80)],
  });
  await say(carol, bob, "opens");
  const { messages, failed } = await stage.open(bob);
  expect([messages.length, failed.map(({ code }) => code)]).toEqual([1, ["prekey-unknown"]]);
  await acknowledgeAll(bob);
  aheadMs += hourMs;
  await openAndAsk(bob);
  await answerAll(alice);
  expect(await acknowledgeAll(bob)).toEqual(["lost at first"]);
});

test("requests that wait keep no message out of a page, and a mailbox without an owner's keys is worked off", async () => {
  const [alice, bob] = await pair();
  const [id = ""] = await say(alice, bob, "for bob");
  for (let n = 0; n < 120; n++) {
    await stage.forgeRequest({
      by: bob,
      as: bob,
      about: { senderId: alice, messageId: n === 0 ? id : sampleItemId() },
    });
  }
  await say(bob, alice, "for alice");
  expect(textsOf(await stage.open(alice))).toEqual(["for alice"]);
  stage.keys.destroy(alice);
  // What was unwrapped before is kept for a second at most.
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  const ends = endedItems(await answerAll(alice));
  expect(ends).toHaveLength(120);
  expect(await waitingFor(alice)).toBe(1);
});

test("what was sent under a delegation goes on under it: repeated, presented otherwise, and said anew", async () => {
  const [alice, bob] = await pair();
  const delegation = [{ issuerId: alice, tokenId: "the-token-of-a-test" }];
  const sentUnder = (emits: readonly Emit[]) => encryptedItems(emits).map((item) => item.delegation);
  await say(alice, bob, "before");
  await acknowledgeAll(bob);
  await lose(bob, alice);
  const { value, ...place } = await stage.command(alice, bob, "for somebody");
  const emits = await stage.step([{ ...place, value: { ...value, delegation } }]);
  await stage.deliver(emits);
  expect(sentUnder(emits)).toEqual([delegation]);
  expect(sentUnder(await stage.step([{ ...place, value }]))).toEqual([delegation]);
  await openAndAsk(bob);
  const answered = await answerAll(alice);
  expect(sentUnder(answered)).toEqual([delegation]);
  expect(textsOf(await stage.open(bob))).toEqual(["for somebody"]);
  const other = await stage.command(alice, bob, "for itself");
  expect(sentUnder(await stage.step([other]))).toEqual([[]]);
});

test("a day's first message may be what is said anew", async () => {
  const [alice, bob] = await pair();
  const { request } = await failedOnce(alice, bob, "one");
  aheadMs += 3 * 24 * hourMs;
  const { rows } = await stage.postgres.query<{ n: number }>({
    text: "SELECT count(*)::int AS n FROM pg_class WHERE relname = $1",
    values: [`messaging_commands_${new Date(Date.now() + aheadMs).toISOString().slice(0, 10).replaceAll("-", "")}`],
  });
  expect(rows).toEqual([{ n: 0 }]);
  await stage.deliver(await stage.step([stage.answering(request)]));
  aheadMs -= 3 * 24 * hourMs;
  expect(await acknowledgeAll(bob)).toEqual(["one"]);
});
