import { afterEach, expect, test, vi } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { openRoom } from "./room.ts";

const [me, you, they] = ["me", "you", "they"];

/** Mailboxes as they are stored, a clock, and how often they were counted. */
function given(limits = { pairItemsMax: 10, mailboxItemsMax: 100 }) {
  const world = {
    now: 0,
    ofSender: new Map<string, number>(),
    items: new Map<string, number>(),
    /** What queuing has stored, by message id. */
    stored: new Set<string>(),
    counts: 0,
    isAway: false,
    /** Resolved before a count is answered. */
    gate: Promise.resolve(),
  };
  const room = openRoom(
    async (_senderId, questions, countMax) => {
      world.counts += 1;
      const answer = questions.map(({ recipientId, messageIds }) => ({
        ofSender: Math.min(countMax, world.ofSender.get(recipientId) ?? 0),
        items: world.items.get(recipientId) ?? 0,
        stored: messageIds.findLastIndex((id) => world.stored.has(id)) + 1,
      }));
      await world.gate;
      if (world.isAway) throw new Unavailable("postgres");
      return answer;
    },
    limits,
    () => world.now,
  );
  let messages = 0;
  const messagesTo = (recipientIds: readonly string[]) =>
    recipientIds.map((recipientId) => ({ recipientId, messageId: `m${++messages}` }));
  const takeFor = (senderId: string, recipientIds: readonly string[]) => room.take(senderId, messagesTo(recipientIds));
  const take = (count: number, recipientId = you) => takeFor(me, Array(count).fill(recipientId));
  /** Queuing stores everything that was let through so far, and `waiting` of it wait. */
  const settle = (waiting: number) => {
    for (let n = 1; n <= messages; n++) world.stored.add(`m${n}`);
    world.ofSender.set(you, waiting);
  };
  return { world, take, takeFor, settle };
}

const free = (count: number) => Array(count).fill(null);
const full = (count: number) => Array(count).fill("pair-full");

test("what fits is taken; of a call that does not fit nothing is, and it hears from where on", async () => {
  const { world, take } = given();
  world.ofSender.set(you, 4);
  expect(await take(8)).toEqual([...free(6), ...full(2)]);
  expect(await take(6)).toEqual(free(6));
  expect(await take(1)).toEqual(full(1));
});

test("what this process let through and is not stored yet counts, whoever counts again at the same time", async () => {
  const { world, take } = given();
  const { promise, resolve } = Promise.withResolvers<void>();
  world.gate = promise;
  const calls = [take(4), take(4), take(4)];
  resolve();
  expect(await Promise.all(calls)).toEqual([free(4), free(4), [...free(2), ...full(2)]]);
});

test("however long queuing takes, what is under way counts; what it has stored counts once", async () => {
  const { world, take, settle } = given();
  expect(await take(6)).toEqual(free(6));
  world.now = 1_000;
  expect(await take(6)).toEqual([...free(4), ...full(2)]);
  settle(6);
  world.now = 2_000;
  expect(await take(6)).toEqual([...free(4), ...full(2)]);
  world.ofSender.set(you, 0);
  world.now = 3_000;
  expect(await take(10)).toEqual(free(10));
});

test("an older count that is answered later than a younger one changes nothing", async () => {
  const { world, take, settle } = given();
  await take(6);
  world.now = 100;
  const { promise, resolve } = Promise.withResolvers<void>();
  world.gate = promise;
  const slow = take(6);
  world.gate = Promise.resolve();
  settle(6);
  expect(await take(3)).toEqual(free(3));
  resolve();
  expect(await slow).toEqual([null, ...full(5)]);
});

test("of much that is under way the newest that is stored is found to within the half", async () => {
  const { world, take, settle } = given({ pairItemsMax: 1_000, mailboxItemsMax: 10_000 });
  for (let n = 0; n < 300; n++) expect(await take(1)).toEqual([null]);
  settle(0);
  for (let n = 0; n < 300; n++) expect(await take(1)).toEqual([null]);
  world.now = 60_000;
  await take(1);
  // 301 are under way; perhaps some more are taken for that.
  expect(await take(400)).toEqual(free(400));
});

test("what was let through and never stored counts for half a minute", async () => {
  const { world, take } = given();
  await take(10);
  world.now = 29_999;
  expect(await take(1)).toEqual(full(1));
  world.now = 31_000;
  expect(await take(10)).toEqual(free(10));
});

test("each pair has its own room, and a call with one full pair takes none of the others", async () => {
  const { world, takeFor, take } = given();
  world.ofSender.set(you, 10);
  expect(await takeFor(me, [they, you, they])).toEqual([null, "pair-full", null]);
  expect(await take(10, they)).toEqual(free(10));
  expect(await takeFor("another", [you])).toEqual(["pair-full"]);
});

test("a pair that uses little of its room is counted once a minute", async () => {
  const { world, take } = given();
  for (let n = 0; n < 5; n++) await take(1);
  expect(world.counts).toBe(1);
  world.now = 60_000;
  await take(1);
  expect(world.counts).toBe(2);
});

test("a pair that comes near its limit is counted before it is refused, so that one whose mail is read is not", async () => {
  const { world, take, settle } = given();
  for (let n = 0; n < 50; n++) {
    world.now += 100;
    expect(await take(4)).toEqual(free(4));
    settle(0);
  }
});

test("a full pair is counted once a second, and has room when there is", async () => {
  const { world, take } = given();
  world.ofSender.set(you, 10);
  for (let n = 0; n < 20; n++) expect(await take(1)).toEqual(full(1));
  expect(world.counts).toBe(1);
  world.ofSender.set(you, 3);
  world.now = 1_000;
  expect(await take(7)).toEqual(free(7));
});

test("a mailbox with twice what may wait in it takes nothing from anybody", async () => {
  const { world, take } = given();
  world.items.set(you, 200);
  expect(await take(1)).toEqual(["overloaded"]);
  world.items.set(you, 199);
  world.now = 1_000;
  expect(await take(1)).toEqual([null]);
});

test("while PostgreSQL is away, what is not known has room, and what is known counts", async () => {
  const { world, take } = given();
  await take(2);
  world.isAway = true;
  expect(await take(50, they)).toEqual(free(50));
  world.now = 60_000;
  expect(await take(9)).toEqual([...free(8), ...full(1)]);
});

afterEach(() => void vi.useRealTimers());

test("a wall clock that was ahead and is right again keeps nobody out", async () => {
  vi.useFakeTimers({ toFake: ["Date"] });
  let waiting = 10;
  const room = openRoom(async () => [{ ofSender: waiting, items: 1, stored: 0 }], {
    pairItemsMax: 10,
    mailboxItemsMax: 100,
  });
  const take = () => room.take(me, [{ recipientId: you, messageId: "m" }]);
  vi.setSystemTime(Date.now() + 3_600_000);
  expect(await take()).toEqual(["pair-full"]);
  waiting = 0;
  vi.setSystemTime(Date.now() - 3_600_000);
  await expect.poll(take).toEqual([null]);
});
