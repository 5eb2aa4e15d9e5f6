import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inStep, openSampleDatabase, placeAll, sampleAgentId, sampleArrival } from "../tests/messaging.ts";
import type { Change } from "./acks.ts";
import type { Evicted } from "./evictions.ts";
import { readMailbox } from "./mailbox.ts";
import type { Postgres } from "./postgres.ts";
import type { Arrival } from "./queuing.ts";
import { countWaiting } from "./waiting.ts";

const everything = { afterSeq: 0, limit: 1_000, maxBytes: 1 << 30 };

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

/** A step of queuing: stores, and answers what is to be evicted. */
function placeWithin(arrivals: readonly Arrival[], itemsMax: number): Promise<readonly Evicted[]> {
  return inStep(postgres, async (tx) => {
    const { placed, full } = await tx.queuing.place(arrivals, itemsMax);
    const stored = placed.filter(({ placement }) => placement.outcome === "stored").map(({ arrival }) => arrival);
    const mailboxes = full.map((recipientId) => ({
      recipientId,
      arrived: stored.filter((arrival) => arrival.recipientId === recipientId).length,
    }));
    return tx.queuing.evictOldest(mailboxes, itemsMax);
  });
}

/** A step of acks. */
async function end(items: readonly Evicted[], outcome: "evicted" | "acknowledged" = "evicted"): Promise<void> {
  const marks = { deliveredAt: null, undeliverableAt: null, asideAt: null };
  const changes = items.map(
    ({ recipientId, senderId, itemId }): Change => ({
      ...{ recipientId, senderId, itemId, ...marks },
      end: { outcome, at: 1, code: null },
    }),
  );
  await inStep(postgres, (tx) => tx.acks.settle(changes));
}

async function waitingIds(recipientId: string): Promise<string[]> {
  const { items } = await readMailbox(postgres, recipientId, everything);
  return items.map(({ itemId }) => itemId);
}

const idsOf = (items: readonly { itemId: string }[]) => items.map(({ itemId }) => itemId);

describe("evictions", () => {
  test("a mailbox within its limit evicts nothing; the next item pushes out the oldest", async () => {
    const recipientId = sampleAgentId();
    const arrivals = Array.from({ length: 6 }, () => sampleArrival({ recipientId }));
    expect(await placeWithin(arrivals.slice(0, 3), 3)).toEqual([]);
    expect(idsOf(await placeWithin(arrivals.slice(3, 4), 3))).toEqual(idsOf(arrivals.slice(0, 1)));
    expect(idsOf(await placeWithin(arrivals.slice(4), 3))).toEqual(idsOf(arrivals.slice(1, 3)));
  });

  test("a step of more than a mailbox holds keeps the newest of the step", async () => {
    const recipientId = sampleAgentId();
    const arrivals = Array.from({ length: 500 }, () => sampleArrival({ recipientId }));
    const evicted = await placeWithin(arrivals, 10);
    expect(idsOf(evicted)).toEqual(idsOf(arrivals.slice(0, 490)));
    await end(evicted);
    expect(await waitingIds(recipientId)).toEqual(idsOf(arrivals.slice(490)));
  });

  test("what was asked for is not asked for again, however late it ends, and nothing younger goes in its place", async () => {
    const recipientId = sampleAgentId();
    const arrivals = Array.from({ length: 8 }, () => sampleArrival({ recipientId }));
    const asked = [];
    for (const arrival of arrivals) asked.push(...(await placeWithin([arrival], 3)));
    expect(idsOf(asked)).toEqual(idsOf(arrivals.slice(0, 5)));
  });

  test("what was acknowledged makes room", async () => {
    const recipientId = sampleAgentId();
    const arrivals = Array.from({ length: 6 }, () => sampleArrival({ recipientId }));
    await placeWithin(arrivals.slice(0, 3), 3);
    await end(arrivals.slice(1, 3), "acknowledged");
    expect(await placeWithin(arrivals.slice(3, 5), 3)).toEqual([]);
    expect(idsOf(await placeWithin(arrivals.slice(5), 3))).toEqual(idsOf(arrivals.slice(0, 1)));
  });

  test("a repetition, also of what was evicted or acknowledged, pushes nothing out", async () => {
    const recipientId = sampleAgentId();
    const arrivals = Array.from({ length: 5 }, () => sampleArrival({ recipientId }));
    await end(await placeWithin(arrivals, 3));
    await end(arrivals.slice(2, 3), "acknowledged");
    for (const arrival of arrivals) expect(await placeWithin([arrival], 3)).toEqual([]);
    expect(await waitingIds(recipientId)).toEqual(idsOf(arrivals.slice(3)));
  });

  test("a mailbox whose limit was lowered shrinks by two for each that comes", async () => {
    const recipientId = sampleAgentId();
    await placeAll(
      postgres,
      Array.from({ length: 20 }, () => sampleArrival({ recipientId })),
    );
    const sizes = [];
    for (let n = 0; n < 12; n++) {
      await end(await placeWithin([sampleArrival({ recipientId })], 10));
      sizes.push((await waitingIds(recipientId)).length);
    }
    expect(sizes).toEqual([19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 10, 10]);
  });

  test("an item that is set aside waits, and is evicted in its turn", async () => {
    const recipientId = sampleAgentId();
    const arrivals = Array.from({ length: 4 }, () => sampleArrival({ recipientId }));
    const [first] = arrivals as [Arrival];
    await placeWithin(arrivals.slice(0, 3), 3);
    const marks = { deliveredAt: null, undeliverableAt: null, end: null };
    const { senderId, itemId } = first;
    await inStep(postgres, (tx) => tx.acks.setAside([{ recipientId, senderId, itemId, ...marks, asideAt: 1 }]));
    expect(idsOf(await placeWithin(arrivals.slice(3), 3))).toEqual([itemId]);
  });
});

describe("whatever comes, is acknowledged and is evicted, in whatever order", () => {
  const itemsMax = 5;
  /** Arrive: so many from these senders, in one step; ack: the n-th that waits; settle: acks works off what was asked for, or a part. */
  const move = fc.oneof(
    fc.record({ arrive: fc.array(fc.nat({ max: 2 }), { minLength: 1, maxLength: 12 }) }),
    fc.record({ ack: fc.nat({ max: 9 }) }),
    fc.record({ settle: fc.nat({ max: 12 }) }),
    fc.record({ repeat: fc.nat({ max: 20 }) }),
  );

  test("the newest so many are kept, each eviction is asked for once, and counts and bytes are exact", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(move, { maxLength: 14 }), async (moves) => {
        const recipientId = sampleAgentId();
        const senders = [1, 2, 3].map(sampleAgentId);
        const all: Arrival[] = [];
        /** The model: what waits, oldest first, and which of it acks was asked to end. */
        let rows: Arrival[] = [];
        const asked = new Set<string>();
        const endRows = async (ended: readonly Arrival[], outcome: "evicted" | "acknowledged") => {
          await end(ended, outcome);
          rows = rows.filter((row) => !ended.includes(row));
        };
        for (const step of moves) {
          if ("arrive" in step) {
            const arrivals = step.arrive.map((sender, n) =>
              sampleArrival({ recipientId, senderId: senders[sender] ?? "", body: new Uint8Array(n + 1) }),
            );
            const evicted = await placeWithin(arrivals, itemsMax);
            all.push(...arrivals);
            rows.push(...arrivals);
            const live = rows.filter(({ itemId }) => !asked.has(itemId));
            expect(idsOf(evicted)).toEqual(idsOf(live.slice(0, Math.max(0, live.length - itemsMax))));
            for (const { itemId } of evicted) asked.add(itemId);
          } else if ("ack" in step) {
            await endRows(rows.slice(step.ack, step.ack + 1), "acknowledged");
          } else if ("settle" in step) {
            await endRows(rows.filter(({ itemId }) => asked.has(itemId)).slice(0, step.settle), "evicted");
          } else {
            const again = all[step.repeat];
            if (again !== undefined) expect(await placeWithin([again], itemsMax)).toEqual([]);
          }
          const bytes = rows.reduce((sum, { body }) => sum + body.length, 0);
          for (const senderId of senders) {
            const ofSender = rows.filter((row) => row.senderId === senderId).length;
            const counted = await countWaiting(postgres, senderId, [{ recipientId, messageIds: [] }], 4);
            expect(counted).toEqual([
              { recipientId, ofSender: Math.min(4, ofSender), items: rows.length, bytes, stored: 0 },
            ]);
          }
        }
        expect(await waitingIds(recipientId)).toEqual(idsOf(rows));
        expect(rows.filter(({ itemId }) => !asked.has(itemId)).length).toBeLessThanOrEqual(itemsMax);
      }),
      { numRuns: 60 },
    );
  });
});

test("a mailbox that never was has nothing in it", async () => {
  const [recipientId, senderId] = [sampleAgentId(), sampleAgentId()];
  expect(await countWaiting(postgres, senderId, [{ recipientId, messageIds: [] }], 10)).toEqual([
    { recipientId, ofSender: 0, items: 0, bytes: 0, stored: 0 },
  ]);
});

test("of each mailbox is told up to which of the asked messages it got them, also what has ended", async () => {
  const [senderId, one, other] = [sampleAgentId(), sampleAgentId(), sampleAgentId()];
  const [a, b, c] = Array.from({ length: 3 }, () => sampleArrival({ recipientId: one, senderId })) as [
    Arrival,
    Arrival,
    Arrival,
  ];
  const d = sampleArrival({ recipientId: other, senderId });
  await placeAll(postgres, [a, b]);
  await end([b], "acknowledged");
  const questions = [
    { recipientId: other, messageIds: [d.itemId] },
    { recipientId: one, messageIds: idsOf([a, b, c]) },
  ];
  const counted = await countWaiting(postgres, senderId, questions, 10);
  expect(counted.map(({ recipientId, ofSender, stored }) => [recipientId, ofSender, stored])).toEqual([
    [other, 0, 0],
    [one, 1, 2],
  ]);
});
