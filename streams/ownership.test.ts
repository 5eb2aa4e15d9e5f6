import pino from "pino";
import { expect, test } from "vitest";
import type { Owned } from "./ownership.ts";
import { createOwnership } from "./ownership.ts";
import { createPatience } from "./patience.ts";

const quiet = pino({ level: "silent" });
const nothing = () => undefined;
const id = { topic: "a", partition: 0 };

/** A log of one partition, whose end each look finds a little later if it says so, and the position that the table has. */
function world() {
  const now = { low: 0, highs: [10], position: 10 };
  const admin = {
    fetchTopicOffsets: async () => {
      const high = (now.highs.length > 1 ? now.highs.shift() : now.highs[0]) ?? 0;
      return [{ partition: 0, low: `${now.low}`, high: `${high}`, offset: `${high}` }];
    },
  };
  const ownership = createOwnership({
    group: "g",
    kafka: { ask: (question: (asked: typeof admin) => unknown) => question(admin) } as never,
    topics: [id.topic],
    store: { loadPositions: async () => [{ ...id, nextOffset: now.position }] } as never,
    outbox: { drained: async () => undefined, publishLeftovers: async () => undefined } as never,
    publisher: { keep: nothing, marks: async () => new Map() } as never,
    commits: { begin: nothing, silence: nothing, commit: async () => undefined },
    patience: createPatience(quiet, nothing, () => 0),
    fetching: { seek: nothing, pause: nothing, resume: nothing },
    log: quiet,
    atGap: "stop",
    afterRestore: undefined,
  });
  const until = new AbortController().signal;
  return {
    now,
    take: async () => (await ownership.take([id], until))[0] as Owned,
    check: (owned: Owned) => ownership.check([owned], until),
  };
}

test("a partition whose log ended before its position stands when the log has grown past it, also when it is taken anew, until the gap is accepted", async () => {
  const { now, take, check } = world();
  now.highs = [7];
  expect(await take()).toMatchObject({ position: 10, stopped: "cut" });
  now.highs = [20];
  const owned = await take();
  expect(owned.stopped).toBe("cut");
  await check(owned);
  expect(owned.stopped).toBe("cut");
  // Accepted: it begins at the first record, and comes by the old position again like by any other.
  now.position = 0;
  await check(owned);
  expect(owned).toMatchObject({ position: 0, stopped: null });
  now.position = 10;
  await check(owned);
  expect(owned.stopped).toBe(null);
  expect((await take()).stopped).toBe(null);
});

test("a log that is shorter for a moment is none that was cut", async () => {
  const { now, take } = world();
  now.highs = [7, 7, 10];
  expect(await take()).toMatchObject({ position: 10, stopped: null });
});

test("a partition whose records have expired goes on by itself when its position is in the log", async () => {
  const { now, take, check } = world();
  now.low = 12;
  now.highs = [20];
  const owned = await take();
  expect(owned.stopped).toBe("gap");
  now.position = 15;
  await check(owned);
  expect(owned.stopped).toBe(null);
});
