import { afterAll, beforeAll, expect, test } from "vitest";
import { DAY_MS } from "../protocol/limits.ts";
import { Unavailable } from "../protocol/refusal.ts";
import type { MessageReceipt } from "../schemas/values.ts";
import type { Postgres } from "../store/postgres.ts";
import type { Arrival } from "../store/queuing.ts";
import type { NewEvent } from "../streams/headers.ts";
import { openSampleDatabase, placeAll, sampleAgentId, sampleArrival, sampleItemId } from "../tests/messaging.ts";
import { expireItems } from "./expiry.ts";

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

const idTime = Date.now() - 29 * DAY_MS;
const signal = new AbortController().signal;

function arrivals(count: number, time: number, recipientId = sampleAgentId()): Arrival[] {
  return Array.from({ length: count }, () => sampleArrival({ recipientId, itemId: sampleItemId(time) }));
}

/** What one turn asks acks for. */
async function turn(now: number): Promise<readonly NewEvent<MessageReceipt>[]> {
  const events: NewEvent<MessageReceipt>[] = [];
  await expireItems({ postgres, append: async (more) => void events.push(...more) }, now, signal);
  return events;
}

test("what has waited for 30 days is asked to end, each item once a turn; what is a millisecond younger waits", async () => {
  const many = arrivals(2_300, idTime);
  const others = Array.from({ length: 40 }, () => arrivals(1, idTime)).flat();
  const young = arrivals(5, idTime + 1);
  for (let start = 0; start < many.length; start += 500) await placeAll(postgres, many.slice(start, start + 500));
  await placeAll(postgres, [...others, ...young]);
  const now = idTime + 30 * DAY_MS;
  expect(await turn(now - 1)).toEqual([]);
  const events = await turn(now);
  const asked = events.flatMap(({ key, value }) => {
    expect(key).toBe(value.recipientId);
    expect(value.items.length).toBeLessThanOrEqual(256);
    return value.items.map((item) => {
      expect(item).toMatchObject({ outcome: "expired", at: now, door: "none", code: null });
      return `${key}/${item.senderId}/${item.itemId}`;
    });
  });
  const expected = [...many, ...others].map((item) => `${item.recipientId}/${item.senderId}/${item.itemId}`);
  expect(asked.toSorted()).toEqual(expected.toSorted());
  // Nothing was ended yet: the next turn asks for the same.
  expect((await turn(now)).flatMap(({ value }) => value.items)).toHaveLength(expected.length);
});

test("a turn that could not tell Kafka says so, and the next begins again", async () => {
  const old = arrivals(1, idTime - DAY_MS / 2);
  await placeAll(postgres, old);
  const now = idTime + 29.5 * DAY_MS;
  const away = { postgres, append: () => Promise.reject(new Unavailable("kafka")) };
  await expect(expireItems(away, now, signal)).rejects.toBeInstanceOf(Unavailable);
  expect((await turn(now)).flatMap(({ value }) => value.items).map(({ itemId }) => itemId)).toEqual(
    old.map(({ itemId }) => itemId),
  );
});

test("a turn that is called off asks for nothing more", async () => {
  const calledOff = AbortSignal.abort();
  let asked = 0;
  await expireItems({ postgres, append: async () => void asked++ }, idTime + 60 * DAY_MS, calledOff);
  expect(asked).toBe(0);
});
