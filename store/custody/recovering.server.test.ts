import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { pause } from "../../streams/backoff.ts";
import type { Emit } from "../../streams/consumer.ts";
import {
  type CustodyStage,
  discardedCodes,
  envelopesOf,
  openCustodyStage,
  textsOf,
} from "../../tests/custody-stage.ts";
import { keysUsedTwice } from "../../tests/keys-used-twice.ts";
import { inStep, sampleAgentId, sampleItemId } from "../../tests/messaging.ts";
import { beginGeneration } from "../generation.ts";
import { openMessageDays } from "../message-days.ts";
import { inTransaction, type Queryable } from "../postgres.ts";
import { findCommands } from "./commands.ts";
import { recallOpened, recallOrForget } from "./opened.ts";
import { beginGathering, gather, keepEnvelopes, retireOneTimePrekeys } from "./recovering.ts";
import { findStates, lockStates, writeStates } from "./states.ts";

let stage: CustodyStage;
beforeAll(async () => {
  stage = await openCustodyStage();
});
afterAll(() => stage.close());

async function say(from: string, to: string, texts: readonly string[]) {
  const emits = await stage.step(await stage.commands(from, to, texts));
  await stage.deliver(emits);
  return envelopesOf(emits);
}

const sessionsOf = (envelopes: Awaited<ReturnType<typeof say>>) =>
  new Set(envelopes.map(({ sessionId }) => Buffer.from(sessionId).toString("hex")));

test("sessions of before a restore receive and never send again, whoever opens the state first", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const before = await say(alice, bob, ["1", "2"]);
  expect(textsOf(await stage.open(bob))).toEqual(["1", "2"]);
  const back = await say(bob, alice, ["back"]);
  expect(sessionsOf(back)).toEqual(sessionsOf(before));
  await beginGeneration(stage.postgres, 0);

  // Reading first: what was under way opens, and the state that it leaves is retired for good.
  expect(textsOf(await stage.open(alice))).toContain("back");
  const fromAlice = await say(alice, bob, ["new"]);
  // Sending first.
  const fromBob = await say(bob, alice, ["new, too"]);
  for (const after of [fromAlice, fromBob]) expect([...sessionsOf(after)]).not.toEqual([...sessionsOf(before)]);
  expect(textsOf(await stage.open(alice))).toContain("new, too");
  expect(textsOf(await stage.open(bob))).toContain("new");
  // Both settle on one session, which lasts.
  const [again, answer] = [await say(alice, bob, ["once more"]), await say(bob, alice, ["indeed"])];
  expect([...sessionsOf(again), ...sessionsOf(answer)]).not.toContain([...sessionsOf(before)][0]);
  expect(keysUsedTwice([...before, ...back, ...fromAlice, ...fromBob, ...again, ...answer])).toEqual([]);
});

test("a rekey that waits for its answer is answered in no session of before a restore", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const [sent] = await say(alice, bob, ["asks"]);
  if (sent === undefined) throw new Error("nothing was sent");
  await stage.open(bob);
  const answer = stage.rekey(bob, alice, sent.sessionId);
  const crash = new Error("it would be answered");
  const attempt = inStep(stage.postgres, async (tx) => {
    if (envelopesOf(await stage.consumer.step([answer], tx)).length === 1) throw crash;
  });
  await expect(attempt).rejects.toBe(crash);
  await beginGeneration(stage.postgres, 0);
  expect(envelopesOf(await stage.step([answer]))).toEqual([]);
});

test("rows that are put back with the next generation use no key a second time; without it they do", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const envelopes = [...(await say(alice, bob, ["1"]))];
  const pair = { ownerId: alice, peerId: bob };
  const [backup] = await findStates(stage.postgres, [pair]);
  const putBack = () =>
    stage.postgres.query({
      text: "UPDATE messaging_sessions SET version = $3, state = $4, generation = $5 WHERE owner_id = $1 AND peer_id = $2",
      values: [alice, bob, backup?.version, backup?.state, backup?.generation],
    });
  envelopes.push(...(await say(alice, bob, ["lost"])));
  await putBack();
  await beginGeneration(stage.postgres, 0);
  const after = await say(alice, bob, ["after"]);
  expect(keysUsedTwice([...envelopes, ...after])).toEqual([]);
  await putBack();
  await stage.postgres.query({
    text: "UPDATE messaging_sessions SET generation = (SELECT generation FROM database_generation) WHERE owner_id = $1",
    values: [alice],
  });
  expect(keysUsedTwice([...envelopes, ...(await say(alice, bob, ["careless"]))])).toHaveLength(1);
});

test("a state that was locked before a recovery and written after it is outdated", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  await say(alice, bob, ["1"]);
  const pair = { ownerId: alice, peerId: bob };
  await inTransaction(stage.postgres, async (client) => {
    const [locked] = await lockStates(client, [pair], { areThere: true });
    if (locked?.state == null) throw new Error("no state");
    expect(locked.isOutdated).toBe(false);
    await beginGeneration(stage.postgres, 0);
    await writeStates(client, [{ ...locked, state: locked.state, readVersion: locked.version }]);
  });
  const [stored] = await findStates(stage.postgres, [pair]);
  expect(stored).toMatchObject({ isOutdated: true, version: 2 });
});

test("a state whose day's key is gone is that of a peer of whom nothing is known", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const before = await say(alice, bob, ["1"]);
  // Day 1: nobody has its key.
  await stage.postgres.query({
    text: "UPDATE messaging_sessions SET state = overlay(state PLACING '\\x00000001'::bytea FROM 2) WHERE owner_id = $1",
    values: [alice],
  });
  stage.startAnew();
  await stage.redis.ask((client) => client.del(stage.redis.key(`ratchet:${alice}:${bob}`)));
  await beginGeneration(stage.postgres, 0);
  const after = await say(alice, bob, ["begins anew"]);
  expect([...sessionsOf(after)]).not.toEqual([...sessionsOf(before)]);
  expect(textsOf(await stage.open(bob))).toEqual(["1", "begins anew"]);
});

test("private halves of prekeys whose day's key is gone are gone, and hold nothing else up", async () => {
  const [alice, bob, carol] = [await stage.agent(), await stage.agent(), await stage.agent()];
  await say(alice, bob, ["cannot be opened"]);
  await stage.postgres.query({
    text: `UPDATE messaging_prekeys SET private_key_encrypted = overlay(private_key_encrypted PLACING '\\x00000001'::bytea FROM 2)
           WHERE agent_id = $1 AND status = 'USED'`,
    values: [bob],
  });
  await say(carol, bob, ["can"]);
  const { failed, messages } = await stage.open(bob);
  expect(failed.map(({ code }) => code)).toEqual(["prekey-unknown"]);
  expect(messages).toHaveLength(1);
});

test("a content whose day's key is gone was never opened: its message fails, can be said anew, and holds nothing else up", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const [lost] = await say(alice, bob, ["lost", "kept"]);
  stage.keyring.destroyDatedBelow("day", 2);
  expect(textsOf(await stage.open(bob))).toEqual(["lost", "kept"]);
  await stage.postgres.query({
    text: `UPDATE messaging_opened SET content = overlay(content PLACING '\\x00000001'::bytea FROM 2)
           WHERE recipient_id = $1 AND message_id = $2`,
    values: [bob, lost?.messageId],
  });
  const { failed, messages } = await stage.open(bob);
  expect(failed).toMatchObject([{ messageId: lost?.messageId, code: "message-key-gone" }]);
  expect(messages).toHaveLength(1);
  await stage.sayAs(alice, bob, `text/plain; in-repair-of=${lost?.messageId}`, "lost");
  expect(textsOf(await stage.open(bob))).toEqual(["kept", "lost"]);
});

test("a content of a day that no keyring knows was never opened either, and one that is no sealing stays failed: neither closes the mailbox", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const [unknown, damaged] = await say(alice, bob, ["of an unknown day", "damaged", "kept"]);
  await stage.open(bob);
  const overlay = (messageId: string | undefined, bytes: string, from: number) =>
    stage.postgres.query({
      text: `UPDATE messaging_opened SET content = overlay(content PLACING $3::bytea FROM $4::int)
             WHERE recipient_id = $1 AND message_id = $2`,
      values: [bob, messageId, Buffer.from(bytes, "hex"), from],
    });
  await overlay(unknown?.messageId, "7fffffff", 2);
  await overlay(damaged?.messageId, "09", 1);
  const { failed, asks, messages } = await stage.open(bob);
  expect(failed.map(({ messageId, code }) => [messageId, code])).toEqual([
    [unknown?.messageId, "message-key-gone"],
    [damaged?.messageId, "message-key-gone"],
  ]);
  expect(asks.map(({ messageId }) => messageId)).toEqual([unknown?.messageId]);
  expect(messages.map(({ body }) => Buffer.from(body).toString("utf8"))).toEqual(["kept"]);
});

test("what is gone is forgotten under the locks only, and only while it is what was looked at", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const sent = await say(alice, bob, ["one"]);
  const [messageId = ""] = sent.map((envelope) => envelope.messageId);
  await stage.open(bob);
  const { postgres } = stage;
  const read = async () => {
    const { rows } = await postgres.query<{ content: Buffer }>({
      text: "SELECT content FROM messaging_opened WHERE recipient_id = $1",
      values: [bob],
    });
    return rows.map(({ content }) => content);
  };
  const put = (content: Uint8Array) =>
    postgres.query({
      text: "UPDATE messaging_opened SET content = $2 WHERE recipient_id = $1",
      values: [bob, content],
    });
  const [content = Buffer.alloc(0)] = await read();
  const gone = Buffer.from(content);
  gone.writeUInt32BE(0x7fffffff, 1);
  await put(gone);
  const wanted = [{ senderId: alice, messageId }];
  expect(await recallOpened(postgres, stage.keys, bob, wanted)).toEqual([]);
  expect(await read()).toEqual([gone]);
  /** Somebody opens it between the look and the forgetting. */
  const overtaken: Queryable = {
    query: async (query) => {
      if (query.name === "forget-opened") await put(content);
      return postgres.query(query);
    },
  };
  expect(await recallOrForget(overtaken, stage.keys, bob, wanted)).toEqual([]);
  expect(await read()).toEqual([content]);
  await put(gone);
  expect(await recallOrForget(postgres, stage.keys, bob, wanted)).toEqual([]);
  expect(await read()).toEqual([]);
});

test("commands that are read again publish what has left, under the first one's mark, and known ones keep theirs", async () => {
  const senderId = sampleAgentId();
  const days = openMessageDays(stage.postgres);
  const [known, left, notAgain] = [sampleItemId(), sampleItemId(), sampleItemId()] as const;
  const chain = [{ issuerId: sampleAgentId(), tokenId: "the-token-of-a-test" }];
  const [mark, envelope, other] = [32, 90, 91].map((length) => randomBytes(length)) as [Buffer, Buffer, Buffer];
  await inStep(stage.postgres, (tx) =>
    tx.custody.writeCommands([
      { senderId, messageId: known, hmac: mark, envelope, content: null, firstId: null, repairs: 0, delegation: [] },
    ]),
  );
  const recovery = () =>
    inTransaction(stage.postgres, async (client) => {
      await beginGathering(client);
      await gather(client, [
        { senderId, messageId: left },
        { senderId, messageId: left },
      ]);
      await gather(client, [{ senderId, messageId: known }]);
      const kept = await keepEnvelopes(client, days, [
        { senderId, messageId: left, envelope, delegation: chain },
        { senderId, messageId: left, envelope: other, delegation: [] },
        { senderId, messageId: notAgain, envelope: other, delegation: [] },
      ]);
      return (
        kept + (await keepEnvelopes(client, days, [{ senderId, messageId: known, envelope: other, delegation: chain }]))
      );
    });
  expect(await recovery()).toBe(1);
  expect(await recovery()).toBe(0);
  const found = await findCommands(
    stage.postgres,
    [known, left, notAgain].map((messageId) => ({ senderId, messageId })),
  );
  expect(new Map(found.map((row) => [row.messageId, [row.hmac, row.envelope, row.delegation]]))).toEqual(
    new Map([
      [known, [mark, envelope, []]],
      [left, [null, envelope, chain]],
    ]),
  );
});

test("gathering bears that the log is read for long in between", async () => {
  const senderId = sampleAgentId();
  const gathered = inTransaction(stage.postgres, async (client) => {
    await client.query({ text: "SET LOCAL idle_in_transaction_session_timeout = 50" });
    await beginGathering(client);
    await pause(500);
    await gather(client, [{ senderId, messageId: sampleItemId() }]);
    return "gathered";
  });
  expect(await gathered).toBe("gathered");
});

test("an envelope that a recovery brought back is the first command's that is read again: with it what was said is kept, and another content is none", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const command = await stage.command(alice, bob, "said");
  const [left] = envelopesOf(await stage.step([command]));
  await stage.postgres.query({
    text: "UPDATE messaging_commands SET hmac = NULL, content = NULL WHERE sender_id = $1",
    values: [alice],
  });
  const other = await stage.command(alice, bob, "something else", command.value.messageId);
  const again = await stage.step([command, other]);
  expect(envelopesOf(again).map((one) => Buffer.from(one.authTag).toString("hex"))).toEqual([
    Buffer.from(left?.authTag ?? []).toString("hex"),
  ]);
  expect(discardedCodes(again)).toEqual(["id-reused"]);
  const { rows } = await stage.postgres.query({
    text: "SELECT octet_length(hmac) AS mac, content IS NOT NULL AS kept FROM messaging_commands WHERE sender_id = $1",
    values: [alice],
  });
  expect(rows).toEqual([{ mac: 32, kept: true }]);
  expect(discardedCodes(await stage.step([other]))).toEqual(["id-reused"]);
});

test("one-time prekeys of before are handed out no more, their private halves stay, and new ones are handed out", async () => {
  const [alice, bob, carol] = [await stage.agent(), await stage.agent(), await stage.agent()];
  const active = async () => {
    const { rows } = await stage.postgres.query<{ count: number }>({
      text: `SELECT count(*) FROM messaging_prekeys WHERE agent_id = $1 AND status = 'ACTIVE' AND key_type IN ('one-time', 'kem')`,
      values: [bob],
    });
    return rows[0]?.count;
  };
  const underWay: readonly Emit[] = await stage.step(await stage.commands(alice, bob, ["under way"]));
  await stage.postgres.query({
    text: "INSERT INTO messaging_prekey_dips (agent_id, key_type, began_at) VALUES ($1, 'kem', 1) ON CONFLICT DO NOTHING",
    values: [bob],
  });
  expect(await active()).toBeGreaterThan(0);
  expect(await retireOneTimePrekeys(stage.postgres, Date.now() + 1_000)).toBeGreaterThan(0);
  expect(await active()).toBe(0);
  expect(await retireOneTimePrekeys(stage.postgres, Date.now() + 1_000)).toBe(0);
  const { rows } = await stage.postgres.query({
    text: "SELECT 1 FROM messaging_prekey_dips WHERE agent_id = $1",
    values: [bob],
  });
  expect(rows).toEqual([]);
  await stage.deliver(underWay);
  await say(carol, bob, ["without a one-time prekey"]);
  expect(textsOf(await stage.open(bob))).toEqual(["under way", "without a one-time prekey"]);
});
