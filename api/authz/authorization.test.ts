import { expect, test } from "vitest";
import { Unavailable } from "../../protocol/refusal.ts";
import { type Ask, cachedAuthorization, type Decision } from "./authorization.ts";

const ask = (senderId: string, recipientId: string, principalId = senderId): Ask => {
  return { senderId, recipientId, principalId };
};

const refused: Decision = { allowed: false, rule: "blocked" };

function given() {
  const asked: (readonly Ask[])[] = [];
  const blocked = new Set<string>();
  let now = 1_000_000;
  let isAway = false;
  const authorize = cachedAuthorization(
    async (asks) => {
      if (isAway) throw new Unavailable("postgres");
      asked.push(asks);
      return asks.map(({ senderId, principalId }) =>
        blocked.has(senderId) || blocked.has(principalId) ? refused : { allowed: true },
      );
    },
    () => now,
  );
  return {
    ...{ asked, blocked, authorize },
    later: (ms: number) => (now += ms),
    goAway: () => {
      isAway = true;
    },
  };
}

test("a permission is asked for once in five seconds", async () => {
  const { asked, blocked, authorize, later } = given();
  expect(await authorize([ask("a", "b"), ask("a", "b")])).toEqual([{ allowed: true }, { allowed: true }]);
  blocked.add("a");
  later(4_999);
  expect(await authorize([ask("a", "b")])).toEqual([{ allowed: true }]);
  later(1);
  expect(await authorize([ask("a", "b")])).toEqual([refused]);
  expect(asked).toEqual([[ask("a", "b")], [ask("a", "b")]]);
});

test("who was refused stays refused, is asked for anew each time, and is let in as soon as it may", async () => {
  const { asked, blocked, authorize } = given();
  blocked.add("a");
  expect(await authorize([ask("a", "b")])).toEqual([refused]);
  expect(await authorize([ask("a", "b")])).toEqual([refused]);
  expect(asked).toHaveLength(2);
  blocked.delete("a");
  expect(await authorize([ask("a", "b")])).toEqual([{ allowed: true }]);
});

test("what one may is not what another may, nor for another principal", async () => {
  const { asked, blocked, authorize } = given();
  blocked.add("root");
  await authorize([ask("a", "b")]);
  expect(await authorize([ask("a", "b"), ask("a", "b", "root"), ask("b", "a"), ask("root", "b")])).toEqual([
    { allowed: true },
    refused,
    { allowed: true },
    refused,
  ]);
  expect(asked[1]).toEqual([ask("a", "b", "root"), ask("b", "a"), ask("root", "b")]);
});

test("while PostgreSQL is away what is remembered holds, and nothing else", async () => {
  const { authorize, goAway } = given();
  await authorize([ask("a", "b")]);
  goAway();
  expect(await authorize([ask("a", "b")])).toEqual([{ allowed: true }]);
  await expect(authorize([ask("a", "b"), ask("a", "c")])).rejects.toThrow(Unavailable);
});

test("no more permissions are remembered than there is room for", async () => {
  const { asked, authorize } = given();
  await authorize([ask("first", "b")]);
  await authorize(Array.from({ length: 20_000 }, (_, n) => ask(`a${n}`, "b")));
  await authorize([ask("first", "b")]);
  expect(asked).toHaveLength(3);
});
