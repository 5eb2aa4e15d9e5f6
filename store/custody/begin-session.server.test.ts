import { afterAll, beforeAll, expect, test } from "vitest";
import { type CustodyStage, envelopesOf, openCustodyStage, textsOf } from "../../tests/custody-stage.ts";

let stage: CustodyStage;
beforeAll(async () => {
  stage = await openCustodyStage();
});
afterAll(() => stage.close());

async function claimsOf(targetId: string): Promise<number> {
  const text = "SELECT 1 FROM messaging_prekey_claims WHERE target_id = $1";
  return (await stage.postgres.query({ text, values: [targetId] })).rows.length;
}

test("a session that was begun is the one the first message is sent in, without another claim", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const begun = await stage.begin(alice, bob);
  expect(begun).toMatchObject({ isNew: true, unanswered: { suite: 2 } });
  const again = await stage.begin(alice, bob);
  expect(again).toEqual({ ...begun, isNew: false });
  const emits = await stage.step([await stage.command(alice, bob, "hello")]);
  expect(envelopesOf(emits).map(({ sessionId }) => sessionId)).toEqual([begun?.sessionId]);
  expect(await claimsOf(bob)).toBe(1);
  await stage.deliver(emits);
  expect(textsOf(await stage.open(bob))).toEqual(["hello"]);
  expect(await stage.begin(bob, alice)).toEqual({ sessionId: begun?.sessionId, isNew: false, unanswered: null });
});

test("begun many times at once, and while the first messages are sealed, it is one session", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const begin = () => stage.begin(alice, bob);
  const [first, , second, emits] = await Promise.all([
    begin(),
    begin(),
    begin(),
    stage.step([await stage.command(alice, bob, "one"), await stage.command(alice, bob, "two")]),
  ]);
  const hex = (bytes: Uint8Array | undefined) => Buffer.from(bytes ?? []).toString("hex");
  const ids = [first?.sessionId, second?.sessionId, ...envelopesOf(emits).map(({ sessionId }) => sessionId)].map(hex);
  expect(new Set(ids).size).toBe(1);
  await stage.deliver(emits);
  expect(textsOf(await stage.open(bob))).toEqual(["one", "two"]);
});

test("nothing is begun with who has no prekeys, and by whom has no keys any more", async () => {
  const [alice, nobody, bob] = [await stage.agent(), await stage.agent({ prekeys: false }), await stage.agent()];
  expect(await stage.begin(alice, nobody)).toBeNull();
  stage.keys.destroy(alice);
  // What was unwrapped before is kept for a second at most.
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  await expect(stage.begin(alice, bob)).rejects.toMatchObject({ code: "key-destroyed" });
});
