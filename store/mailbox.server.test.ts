import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Outcome } from "../schemas/values.ts";
import { inStep, openSampleDatabase, placeAll, sampleAgentId, sampleArrival } from "../tests/messaging.ts";
import type { Change } from "./acks.ts";
import { itemsBySeq, lastSeqs, newestWaiting, readMailbox } from "./mailbox.ts";
import { findMessages } from "./messages.ts";
import type { Postgres } from "./postgres.ts";
import type { Arrival } from "./queuing.ts";

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

async function fill(recipientId: string, sizes: readonly number[]): Promise<readonly Arrival[]> {
  const arrivals = sizes.map((size) => sampleArrival({ recipientId, body: new Uint8Array(size) }));
  await placeAll(postgres, arrivals);
  return arrivals;
}

function change(item: Arrival, outcome: Outcome): Change {
  const { recipientId, senderId, itemId } = item;
  const nothing = { deliveredAt: null, undeliverableAt: null, asideAt: null, end: null };
  if (outcome === "aside") return { recipientId, senderId, itemId, ...nothing, asideAt: 1 };
  if (outcome === "delivered") return { recipientId, senderId, itemId, ...nothing, deliveredAt: 1 };
  if (outcome === "undeliverable") return { recipientId, senderId, itemId, ...nothing, undeliverableAt: 1 };
  return { recipientId, senderId, itemId, ...nothing, end: { outcome, at: 1, code: null } };
}

function settle(changes: readonly Change[]) {
  return inStep(postgres, async (tx) => {
    await tx.acks.setAside(changes);
    return tx.acks.settle(changes);
  });
}

const everything = { afterSeq: 0, limit: 1_000, maxBytes: 1 << 30 };

test("a mailbox that never had an item is empty and at its end", async () => {
  expect(await readMailbox(postgres, sampleAgentId(), everything)).toEqual({ items: [], lastSeq: 0, end: true });
});

test("a mailbox whose items have all ended still says how far it has come", async () => {
  const recipientId = sampleAgentId();
  const items = await fill(recipientId, [1, 2, 3]);
  await settle(items.map((item) => change(item, "acknowledged")));
  expect(await readMailbox(postgres, recipientId, everything)).toEqual({ items: [], lastSeq: 3, end: true });
  expect(await lastSeqs(postgres, [sampleAgentId(), recipientId])).toEqual(new Map([[recipientId, 3]]));
});

test("a page ends at its limit, at its bytes, or at the mailbox's end, and only the last says so", async () => {
  const recipientId = sampleAgentId();
  await fill(recipientId, [10, 10, 10, 10]);
  const seqs = async (afterSeq: number, limit: number, maxBytes: number) => {
    const page = await readMailbox(postgres, recipientId, { afterSeq, limit, maxBytes });
    expect(page.lastSeq).toBe(4);
    return [page.items.map(({ seq }) => seq), page.end];
  };
  expect(await seqs(0, 3, 1_000)).toEqual([[1, 2, 3], false]);
  expect(await seqs(3, 3, 1_000)).toEqual([[4], true]);
  expect(await seqs(0, 4, 1_000)).toEqual([[1, 2, 3, 4], true]);
  expect(await seqs(0, 10, 20)).toEqual([[1, 2], false]);
  expect(await seqs(0, 10, 39)).toEqual([[1, 2, 3], false]);
  expect(await seqs(0, 10, 40)).toEqual([[1, 2, 3, 4], true]);
  expect(await seqs(4, 10, 40)).toEqual([[], true]);
});

test("an item larger than the page comes alone, so that a reader always gets on", async () => {
  const recipientId = sampleAgentId();
  await fill(recipientId, [5_000, 10]);
  const page = await readMailbox(postgres, recipientId, { afterSeq: 0, limit: 10, maxBytes: 100 });
  expect(page.items.map(({ seq }) => seq)).toEqual([1]);
  expect(page.end).toBe(false);
});

test("what was set aside is not read, and seqs find only what waits", async () => {
  const recipientId = sampleAgentId();
  const [, aside, ended, last] = (await fill(recipientId, [1, 1, 1, 1])) as [Arrival, Arrival, Arrival, Arrival];
  await settle([change(aside, "aside"), change(ended, "refused")]);
  const page = await readMailbox(postgres, recipientId, everything);
  expect(page.items.map(({ seq }) => seq)).toEqual([1, 4]);
  expect(page).toMatchObject({ lastSeq: 4, end: true });
  expect(await itemsBySeq(postgres, recipientId, [4, 3, 99])).toEqual([
    { seq: 4, senderId: last.senderId, itemId: last.itemId },
  ]);
});

test("the newest that waits is neither one that has ended nor one set aside, and who has none is not named", async () => {
  const [some, done, none] = [sampleAgentId(), sampleAgentId(), sampleAgentId()];
  const [, , aside, ended] = (await fill(some, [1, 1, 1, 1])) as [Arrival, Arrival, Arrival, Arrival];
  await settle((await fill(done, [1, 1])).map((item) => change(item, "acknowledged")));
  await settle([change(aside, "aside"), change(ended, "acknowledged")]);
  expect(await newestWaiting(postgres, [done, some, none])).toEqual(new Map([[some, 2]]));
  expect(await newestWaiting(postgres, [])).toEqual(new Map());
});

test("pages of any size, put together, are the mailbox: every waiting item once, in order", async () => {
  const sizes = fc.array(fc.nat({ max: 40 }), { minLength: 1, maxLength: 12 });
  const limits = fc.record({ limit: fc.integer({ min: 1, max: 5 }), maxBytes: fc.integer({ min: 1, max: 90 }) });
  const gone = fc.array(fc.nat({ max: 11 }));
  await fc.assert(
    fc.asyncProperty(sizes, gone, limits, async (bodySizes, ended, { limit, maxBytes }) => {
      const recipientId = sampleAgentId();
      const items = await fill(recipientId, bodySizes);
      await settle(items.filter((_, n) => ended.includes(n)).map((item) => change(item, "expired")));
      const read: number[] = [];
      let afterSeq = 0;
      for (let pages = 0; pages <= bodySizes.length; pages++) {
        const page = await readMailbox(postgres, recipientId, { afterSeq, limit, maxBytes });
        read.push(...page.items.map(({ seq }) => seq));
        if (page.end) break;
        afterSeq = page.items.at(-1)?.seq ?? Number.NaN;
      }
      expect(read).toEqual(items.map((_, n) => n + 1).filter((seq) => !ended.includes(seq - 1)));
    }),
    { numRuns: 40 },
  );
});

test("rows and last seq are of one moment: while items arrive, an end never hides one", async () => {
  const recipientId = sampleAgentId();
  let writing = true;
  const writer = (async () => {
    for (let step = 0; step < 30; step++) await fill(recipientId, [1, 1, 1]);
    writing = false;
  })();
  let seen = 0;
  while (writing) {
    const page = await readMailbox(postgres, recipientId, { afterSeq: seen, limit: 1_000, maxBytes: 1 << 20 });
    expect(page.end).toBe(true);
    expect(page.items.length).toBe(page.lastSeq - seen);
    seen = page.lastSeq;
  }
  await writer;
});

test("a message's status follows it from queued to its end, with the times of each", async () => {
  const recipientId = sampleAgentId();
  const items = (await fill(recipientId, [1, 1, 1])) as [Arrival, Arrival, Arrival];
  const [waiting, delivered, refused] = items;
  await settle([
    change(delivered, "delivered"),
    { ...change(refused, "refused"), end: { outcome: "refused", at: 9, code: "bad-padding" } },
  ]);
  const keyOf = ({ senderId, itemId }: Arrival) => ({ senderId, messageId: itemId });
  const unknown = keyOf(sampleArrival());
  expect(await findMessages(postgres, [keyOf(refused), unknown, keyOf(waiting), keyOf(delivered)])).toMatchObject([
    { ...keyOf(refused), recipientId, status: "refused", code: "bad-padding", deliveredAt: null, endedAt: 9 },
    {
      ...keyOf(waiting),
      status: "queued",
      code: null,
      acceptedAt: waiting.acceptedAt,
      deliveredAt: null,
      endedAt: null,
    },
    { ...keyOf(delivered), status: "delivered", deliveredAt: 1, endedAt: null },
  ]);
});
