import { afterAll, beforeEach, expect, test } from "vitest";
import { inStep, openSampleDatabase, placeAll, sampleAgentId, sampleArrival } from "../tests/messaging.ts";
import type { Change } from "./acks.ts";
import type { Postgres } from "./postgres.ts";
import type { Arrival } from "./queuing.ts";
import { countStuck, findStuck, type StuckFilter, type StuckPlace, whichStuck } from "./stuck.ts";

let postgres: Postgres | undefined;
beforeEach(async () => {
  await postgres?.close();
  postgres = await openSampleDatabase();
});
afterAll(() => postgres?.close());

const db = () => postgres as Postgres;
const nothing = { deliveredAt: null, undeliverableAt: null, asideAt: null, end: null };
const nameOf = ({ recipientId, senderId, itemId }: Arrival) => ({ recipientId, senderId, itemId });

function settleAll(changes: readonly Change[]) {
  return inStep(db(), async (tx) => {
    await tx.acks.setAside(changes);
    await tx.acks.settle(changes);
  });
}

const end = { outcome: "refused", at: 1, code: null } as const;

/** Two of one mailbox with each mark at the same moment, others later, and what is not stuck any more. */
async function fill() {
  const [recipientId, senderId] = [sampleAgentId(), sampleAgentId()];
  const all = Array.from({ length: 8 }, (_, n) => sampleArrival(n < 3 ? { recipientId, senderId } : {}));
  const request = sampleArrival({ recipientId, kind: "retry" });
  await placeAll(db(), [...all, request]);
  const marked = [...all.slice(0, 6), request].map((arrival, n): Change => {
    return { ...nothing, ...nameOf(arrival), asideAt: n < 2 ? 100 : 100 + n, undeliverableAt: n < 2 ? 200 : 200 + n };
  });
  await settleAll(marked);
  const [delivered, ended] = [all[4], all[5]] as [Arrival, Arrival];
  await settleAll([
    { ...nothing, ...nameOf(delivered), deliveredAt: 300 },
    { ...nothing, ...nameOf(ended), end },
  ]);
  return { recipientId, senderId, all, request, delivered, ended };
}

/** All pages of so many. */
async function pages(filter: StuckFilter, limit: number) {
  const found = [];
  let after: StuckPlace | null = null;
  do {
    const page = await findStuck(db(), filter, after, limit);
    expect(page.items.length).toBeLessThanOrEqual(limit);
    found.push(...page.items);
    after = page.next;
  } while (after !== null);
  return found;
}

const idsOf = (items: readonly { readonly itemId: string }[]) => items.map(({ itemId }) => itemId);

test("what is stuck is listed by how long it has been, on pages of any size, each item once; what was delivered or has ended is not", async () => {
  const { all, request, ended, delivered } = await fill();
  for (const limit of [1, 2, 3, 100]) {
    const aside = await pages({ state: "set-aside" }, limit);
    expect(aside.map(({ since }) => since)).toEqual([100, 100, 102, 103, 104, 106]);
    expect(new Set(idsOf(aside))).toEqual(new Set(idsOf([...all.slice(0, 5), request])));
    const failed = await pages({ state: "undeliverable" }, limit);
    expect(failed.map(({ since }) => since)).toEqual([200, 200, 202, 203]);
    expect(new Set(idsOf(failed))).toEqual(new Set(idsOf(all.slice(0, 4))));
    expect(idsOf([...failed])).not.toContain(delivered.itemId);
    expect(idsOf([...aside, ...failed])).not.toContain(ended.itemId);
  }
  const [first] = (await findStuck(db(), { state: "set-aside" }, null, 100)).items.slice(2);
  expect(first).toEqual({ ...nameOf(all[2] as Arrival), kind: "message", seq: 3, since: 102 });
  expect((await pages({ state: "set-aside" }, 100)).at(-1)).toMatchObject({ kind: "retry", itemId: request.itemId });
});

test("a filter by recipient or sender leaves out the others, in the list and in the count", async () => {
  const { recipientId, senderId, all, request } = await fill();
  const own = { state: "set-aside", recipientId } as const;
  expect(new Set(idsOf(await pages(own, 2)))).toEqual(new Set(idsOf([...all.slice(0, 3), request])));
  expect(await countStuck(db(), own, 100)).toEqual({ count: 4, oldest: 100 });
  expect(await countStuck(db(), { ...own, senderId }, 100)).toEqual({ count: 3, oldest: 100 });
  expect(await countStuck(db(), { state: "undeliverable", senderId }, 100)).toEqual({ count: 3, oldest: 200 });
  expect(await countStuck(db(), { state: "undeliverable" }, 3)).toEqual({ count: 3, oldest: 200 });
  expect(await countStuck(db(), { state: "undeliverable", senderId: sampleAgentId() }, 3)).toEqual({
    ...{ count: 0, oldest: null },
  });
});

test("of named items those are told that are stuck, in their order, and only under their own names", async () => {
  const { all, request, ended, delivered } = await fill();
  const free = all[7] as Arrival;
  const named = [request, free, ended, delivered, all[1], all[0]].map((arrival) => nameOf(arrival as Arrival));
  // What was delivered is still set aside.
  expect(idsOf(await whichStuck(db(), named))).toEqual(idsOf([request, delivered, all[1], all[0]] as Arrival[]));
  const foreign = { ...nameOf(all[0] as Arrival), recipientId: sampleAgentId() };
  expect(await whichStuck(db(), [foreign])).toEqual([]);
  expect(await whichStuck(db(), [])).toEqual([]);
});
