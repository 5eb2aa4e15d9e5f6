import { afterAll, beforeAll, expect, test } from "vitest";
import { lockStates } from "../store/custody/states.ts";
import { inTransaction } from "../store/postgres.ts";
import { type CustodyStage, discardedCodes, envelopesOf, openCustodyStage } from "../tests/custody-stage.ts";
import { forgetOldSessions } from "./sessions.ts";

let stage: CustodyStage;
beforeAll(async () => {
  stage = await openCustodyStage();
});
afterAll(() => stage.close());

async function peersOf(ownerId: string): Promise<readonly string[]> {
  const { rows } = await stage.postgres.query<{ peer_id: string }>({
    text: "SELECT peer_id FROM messaging_sessions WHERE owner_id = $1",
    values: [ownerId],
  });
  return rows.map((row) => row.peer_id);
}

const forget = () => forgetOldSessions(stage.postgres, Date.now());

test("a pair that never had a session leaves no row, one that has keeps it, and a row that is held waits", async () => {
  const [alice, bob, nobody] = [await stage.agent(), await stage.agent(), await stage.agent({ prekeys: false })];
  const say = async (to: string) => stage.step([await stage.command(alice, to, "hello")]);
  expect(envelopesOf(await say(bob))).toHaveLength(1);
  expect(discardedCodes(await say(nobody))).toEqual(["prekeys-unavailable"]);
  // More than one page, behind and before them.
  await inTransaction(stage.postgres, async (client) => {
    const many = Array.from({ length: 1_500 }, (_, n) => ({ ownerId: "a".repeat(43), peerId: `${n}` }));
    await lockStates(client, [...many, ...many.map((pair) => ({ ...pair, ownerId: "z".repeat(43) }))], {
      areThere: false,
    });
  });
  await inTransaction(stage.postgres, async (client) => {
    await lockStates(client, [{ ownerId: alice, peerId: nobody }], { areThere: true });
    await forget();
  });
  expect((await peersOf(alice)).toSorted()).toEqual([bob, nobody].toSorted());
  await forget();
  expect(await peersOf(alice)).toEqual([bob]);
  for (const letter of ["a", "z"]) expect(await peersOf(letter.repeat(43))).toEqual([]);
  expect(discardedCodes(await say(nobody))).toEqual(["prekeys-unavailable"]);
  expect(envelopesOf(await say(bob)).map(({ sendCounter }) => sendCounter)).toEqual([2]);
});
