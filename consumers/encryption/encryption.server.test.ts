import { afterAll, beforeAll, expect, test } from "vitest";
import { encodeFrame } from "../../protocol/frame.ts";
import { Refusal, Unavailable } from "../../protocol/refusal.ts";
import type { MessageDiscarded } from "../../schemas/values.ts";
import { openSteps } from "../../store/steps.ts";
import { stepTx } from "../../store/tx.ts";
import type { Emit } from "../../streams/consumer.ts";
import {
  type CustodyStage,
  discardedCodes,
  encryptedItems,
  envelopesOf,
  openCustodyStage,
  textsOf,
} from "../../tests/custody-stage.ts";
import { keysUsedTwice } from "../../tests/keys-used-twice.ts";
import { sampleItemId } from "../../tests/messaging.ts";

let stage: CustodyStage;
beforeAll(async () => {
  stage = await openCustodyStage();
});
afterAll(() => stage.close());

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (error instanceof Refusal) return error.code;
    throw error;
  }
  return "done";
}

const numbered = (count: number) => Array.from({ length: count }, (_, n) => `${n + 1}`);
const bodies = (emits: readonly Emit[]) => encryptedItems(emits).map(({ body }) => Buffer.from(body).toString("hex"));

test("a batch that is done again, whole or in parts, leads to the same envelopes, and they open", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const batch = await stage.commands(alice, bob, numbered(30));
  const emits = await stage.step(batch);
  expect(envelopesOf(emits).map(({ sendCounter }) => sendCounter)).toEqual(numbered(30).map(Number));
  expect(bodies(await stage.step(batch))).toEqual(bodies(emits));
  expect(bodies(await stage.step(batch.slice(7, 9)))).toEqual(bodies(emits).slice(7, 9));
  await stage.deliver(emits);
  expect(textsOf(await stage.open(bob))).toEqual(numbered(30));
});

test("a step that was rolled back used nothing up: what is derived again is what leaves, under the same bundle", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const batch = await stage.commands(alice, bob, ["one", "two"]);
  const store = openSteps(stage.postgres, stepTx(stage.postgres));
  const place = { topic: "rolled-back", partition: 0 };
  await store.loadPositions("encryption", [{ ...place, startAt: 0 }]);
  const crash = new Error("before the commit");
  const attempt = store.commitStep("encryption", [{ ...place, from: 0, to: 2 }], [], async (tx) => {
    await stage.consumer.step(batch, tx);
    throw crash;
  });
  await expect(attempt).rejects.toBe(crash);
  const emits = await stage.step(batch);
  await stage.deliver(emits);
  expect(textsOf(await stage.open(bob))).toEqual(["one", "two"]);
  const { rows } = await stage.postgres.query({
    text: "SELECT 1 FROM messaging_prekey_claims WHERE target_id = $1",
    values: [bob],
  });
  expect(rows).toHaveLength(1);
});

test("of two owners of one position one commits, and no message key makes two ciphertexts that leave", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const store = openSteps(stage.postgres, stepTx(stage.postgres));
  const place = { topic: "zombie", partition: 0 };
  await store.loadPositions("encryption", [{ ...place, startAt: 0 }]);
  const left: Emit[] = [];
  for (let from = 0; from < 50; from += 10) {
    const batch = await stage.commands(alice, bob, numbered(10));
    const step = async () => {
      let emits: readonly Emit[] = [];
      const outcome = await store.commitStep("encryption", [{ ...place, from, to: from + 10 }], [], async (tx) => {
        emits = await stage.consumer.step(batch, tx);
        return [];
      });
      return { outcome, emits };
    };
    const both = await Promise.all([step(), step()]);
    expect(both.map(({ outcome }) => outcome).toSorted()).toEqual(["committed", "moved"]);
    for (const { outcome, emits } of both) if (outcome === "committed") left.push(...emits);
  }
  const envelopes = envelopesOf(left);
  expect(envelopes).toHaveLength(50);
  expect(keysUsedTwice(envelopes)).toEqual([]);
  await stage.deliver(left);
  expect(textsOf(await stage.open(bob))).toHaveLength(50);
});

test("sending and opening at the same time, both ways, wait for each other and lose nothing", async () => {
  const [alice, bob, carol] = [await stage.agent(), await stage.agent(), await stage.agent()];
  const everybody = [alice, bob, carol];
  const envelopes: ReturnType<typeof envelopesOf>[number][] = [];
  let sending = true;
  const opened = new Map<string, string>();
  const opening = everybody.map(async (agentId) => {
    do {
      const { messages, failed } = await stage.open(agentId);
      expect(failed).toEqual([]);
      for (const { senderId, messageId, body } of messages) {
        opened.set(`${senderId} ${agentId} ${messageId}`, Buffer.from(body).toString("utf8"));
      }
    } while (sending);
  });
  for (let round = 0; round < 6; round++) {
    const pairs = everybody.flatMap((from) => everybody.filter((to) => to !== from).map((to) => ({ from, to })));
    const batches = await Promise.all(
      pairs.map(({ from, to }) => stage.commands(from, to, [`${round} a`, `${round} b`])),
    );
    // Two steps, as of two partitions.
    const steps = [batches.slice(0, 3).flat(), batches.slice(3).flat()].map((batch) => stage.step(batch));
    for (const emits of await Promise.all(steps)) {
      envelopes.push(...envelopesOf(emits));
      // A mailbox has one writer.
      await stage.deliver(emits);
    }
  }
  sending = false;
  await Promise.all(opening);
  for (const agentId of everybody) {
    for (const { senderId, messageId } of (await stage.open(agentId)).messages) {
      opened.set(`${senderId} ${agentId} ${messageId}`, "");
    }
  }
  expect(opened.size).toBe(72);
  expect(keysUsedTwice(envelopes)).toEqual([]);
});

test("two openings at once answer the same, and one-time prekeys are used up once", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  await stage.deliver(await stage.step(await stage.commands(alice, bob, numbered(5))));
  const [first, second] = await Promise.all([stage.open(bob), stage.open(bob)]);
  expect(textsOf(first)).toEqual(numbered(5));
  expect(textsOf(second)).toEqual(numbered(5));
  const { rows } = await stage.postgres.query<{ key_type: string }>({
    text: `SELECT key_type FROM messaging_prekeys WHERE agent_id = $1 AND private_key_encrypted IS NULL ORDER BY key_type`,
    values: [bob],
  });
  expect(rows.map((row) => row.key_type)).toEqual(["kem", "one-time"]);
});

test("another content under a used id is discarded, and so is what nobody can be reached for", async () => {
  const [alice, bob, nobody] = [await stage.agent(), await stage.agent(), await stage.agent({ prekeys: false })];
  const first = await stage.command(alice, bob, "said");
  const other = await stage.command(alice, bob, "said differently", first.value.messageId);
  const again = await stage.command(alice, bob, "said", first.value.messageId);
  const emits = await stage.step([first, other, again]);
  expect(discardedCodes(emits)).toEqual(["id-reused"]);
  const told = emits.find(({ topic }) => topic.name === "message.discarded.v1")?.value("event");
  expect((told as MessageDiscarded).digest).toEqual(
    stage.keys.commandMac(
      other.value,
      encodeFrame({ contentType: "text/plain", body: Buffer.from("said differently") }),
    ),
  );
  expect(new Set(bodies(emits)).size).toBe(1);
  expect(discardedCodes(await stage.step(await stage.commands(alice, nobody, ["hello"])))).toEqual([
    "prekeys-unavailable",
  ]);
  expect(discardedCodes(await stage.step(await stage.commands(alice, alice, ["hello"])))).toEqual([
    "identity-mismatch",
  ]);
});

test("the same content sealed anew is the same message, however its sender padded it; other content, or what does not open, is not", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const frame = encodeFrame({ contentType: "text/plain", body: Buffer.from("said") });
  const first = await stage.sealed(alice, bob, frame);
  const { messageId } = first.value;
  const padded = await stage.sealed(alice, bob, Buffer.concat([frame, Buffer.alloc(64)]), messageId);
  expect(Buffer.compare(first.value.sealed, padded.value.sealed)).not.toBe(0);
  const other = await stage.command(alice, bob, "said", messageId, "text/html");
  const broken = { ...first, value: { ...first.value, sealed: padded.value.sealed.with(60, 1) } };
  const emits = await stage.step([first]);
  expect(bodies(await stage.step([padded]))).toEqual(bodies(emits));
  const odd = await stage.step([other, broken]);
  expect([discardedCodes(odd), bodies(odd)]).toEqual([["id-reused", "id-reused"], []]);
  expect(odd.map((emit) => (emit.value("event") as MessageDiscarded).digest?.length)).toEqual([32, undefined]);
});

test("what its sender sealed wrongly is told to it, and takes nothing else along", async () => {
  const [alice, bob, carol] = [await stage.agent(), await stage.agent(), await stage.agent()];
  const [good] = await stage.commands(carol, bob, ["good"]);
  if (good === undefined) throw new Error("no command");
  const wrong = [
    await stage.sealed(alice, bob, Buffer.from("no frame")),
    await stage.command(alice, bob, "", undefined, "application/vnd.sealpost.rekey"),
    await stage.command(alice, bob, "x", undefined, `text/plain; in-repair-of=${sampleItemId()}`),
    // It would fit, and could not be said anew.
    await stage.command(alice, bob, "", undefined, "t".repeat(65_500)),
    await stage.command(alice, bob, "b".repeat(65_480), undefined, "text/plain"),
    { ...good, key: `${alice}:${bob}`, value: { ...good.value, senderId: alice } },
  ];
  const emits = await stage.step([...wrong, good]);
  expect(discardedCodes(emits)).toEqual([
    "malformed",
    "malformed",
    "malformed",
    "too-large",
    "too-large",
    "auth-failed",
  ]);
  await stage.deliver(emits);
  expect(textsOf(await stage.open(bob))).toEqual(["good"]);
});

test("content whose epoch's key is not there is a record's fault by name, and changes nothing", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  await stage.step(await stage.commands(alice, bob, ["before"]));
  const [good, moved] = await stage.commands(alice, bob, ["good", "moved"]);
  if (good === undefined || moved === undefined) throw new Error("no command");
  const gone = { ...good, value: { ...good.value, sealed: good.value.sealed.with(4, 0) } };
  expect(await codeOf(stage.step([gone]))).toBe("epoch-unknown");
  const emits = await stage.step([good]);
  expect(envelopesOf(emits).map(({ sendCounter }) => sendCounter)).toEqual([2]);
});

test("a state that does not open is lost, also one from before: what is said next begins a session, and opens", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const [first] = envelopesOf(await stage.step(await stage.commands(alice, bob, ["before"])));
  // It would be used a second time.
  await stage.postgres.query({
    text: "UPDATE messaging_sessions SET version = version + 1 WHERE owner_id = $1",
    values: [alice],
  });
  const emits = await stage.step(await stage.commands(alice, bob, ["after", "and on"]));
  const envelopes = envelopesOf(emits);
  expect(envelopes.map(({ sendCounter }) => sendCounter)).toEqual([1, 2]);
  expect(envelopes.map(({ sessionId }) => Buffer.compare(sessionId, first?.sessionId ?? sessionId))).not.toContain(0);
  await stage.deliver(emits);
  expect(textsOf(await stage.open(bob))).toEqual(["after", "and on"]);
});

test("a state of a later version of this code is left alone, and waited for", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  await stage.step(await stage.commands(alice, bob, ["before"]));
  await stage.overwriteState(alice, bob, Uint8Array.of(2, 1, 1));
  await expect(stage.step(await stage.commands(alice, bob, ["after"]))).rejects.toBeInstanceOf(Unavailable);
  await stage.overwriteState(alice, bob, Uint8Array.of(1, 1, 1));
  expect(envelopesOf(await stage.step(await stage.commands(alice, bob, ["after"])))).toHaveLength(1);
});

test("an agent whose master key is destroyed sends and opens nothing any more", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  await stage.deliver(await stage.step(await stage.commands(alice, bob, ["late"])));
  stage.keys.destroy(bob);
  stage.keys.destroy(alice);
  // What was unwrapped before is kept for a second at most.
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  expect(await codeOf(stage.open(bob))).toBe("key-destroyed");
  expect(await codeOf(stage.command(bob, alice, "x"))).toBe("key-destroyed");
  const carol = await stage.agent();
  const [fine] = await stage.commands(carol, carol, ["x"]);
  if (fine === undefined) throw new Error("no command");
  const forged = { ...fine, value: { ...fine.value, senderId: alice } };
  expect(await codeOf(stage.step([forged]))).toBe("key-destroyed");
});
