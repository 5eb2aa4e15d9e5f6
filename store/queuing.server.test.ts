import { createHash } from "node:crypto";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openSampleDatabase, placeAll, sampleAgentId, sampleArrival, sampleItemId } from "../tests/messaging.ts";
import { readMailbox } from "./mailbox.ts";
import { dayOf } from "./message-days.ts";
import { findMessages } from "./messages.ts";
import type { Postgres } from "./postgres.ts";
import type { Arrival } from "./queuing.ts";

const dayMs = 24 * 60 * 60 * 1000;
const everything = { afterSeq: 0, limit: 1_000, maxBytes: 1 << 30 };

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

function sha256(bytes: Uint8Array): Uint8Array {
  return createHash("sha256").update(bytes).digest();
}

async function itemIds(recipientId: string): Promise<string[]> {
  const { items } = await readMailbox(postgres, recipientId, everything);
  return items.map(({ itemId }) => itemId);
}

describe("seqs", () => {
  test("a mailbox's seqs are 1, 2, 3 in the order of arrival, over several steps", async () => {
    const [one, other] = [sampleAgentId(), sampleAgentId()];
    const arrivals = [one, other, one, one, other].map((recipientId) => sampleArrival({ recipientId }));
    const first = await placeAll(postgres, arrivals);
    expect(first).toMatchObject([{ seq: 1 }, { seq: 1 }, { seq: 2 }, { seq: 3 }, { seq: 2 }]);
    const second = await placeAll(postgres, [sampleArrival({ recipientId: one })]);
    expect(second).toMatchObject([{ outcome: "stored", seq: 4 }]);
    const page = await readMailbox(postgres, one, everything);
    expect(page.items.map(({ seq }) => seq)).toEqual([1, 2, 3, 4]);
    expect(page).toMatchObject({ lastSeq: 4, end: true });
  });

  test("what is stored is what arrived, byte for byte", async () => {
    const large = new Uint8Array(70_000).map((_, index) => index * 7);
    const arrivals = [new Uint8Array(0), Uint8Array.of(0, 255, 92), large].map((body) => sampleArrival({ body }));
    await placeAll(postgres, arrivals);
    for (const arrival of arrivals) {
      const { items } = await readMailbox(postgres, arrival.recipientId, everything);
      expect(items).toEqual([
        {
          seq: 1,
          kind: "message",
          senderId: arrival.senderId,
          itemId: arrival.itemId,
          body: Buffer.from(arrival.body),
        },
      ]);
    }
  });

  test("two writers for different recipients and the same senders each keep their seqs dense", async () => {
    const senders = Array.from({ length: 5 }, sampleAgentId);
    const recipients = [sampleAgentId(), sampleAgentId()] as const;
    const write = async (recipientId: string) => {
      for (let step = 0; step < 8; step++) {
        await placeAll(
          postgres,
          Array.from({ length: 25 }, (_, n) => sampleArrival({ recipientId, senderId: senders[n % 5] ?? "" })),
        );
      }
    };
    await Promise.all(recipients.map(write));
    for (const recipientId of recipients) {
      const { items } = await readMailbox(postgres, recipientId, everything);
      expect(items.map(({ seq }) => seq)).toEqual(Array.from({ length: 200 }, (_, n) => n + 1));
    }
  });

  test("a message's own row has the seq of its mailbox row, also behind a repetition", async () => {
    const recipientId = sampleAgentId();
    const [known, next, last] = [1, 2, 3].map(() => sampleArrival({ recipientId })) as [Arrival, Arrival, Arrival];
    await placeAll(postgres, [known]);
    expect(await placeAll(postgres, [known, next, known, last])).toMatchObject([
      { outcome: "repeated" },
      { outcome: "stored", seq: 2 },
      { outcome: "repeated" },
      { outcome: "stored", seq: 3 },
    ]);
    const { rows } = await postgres.query<{ seq: number; message_id: string }>({
      text: "SELECT seq, message_id FROM messaging_messages WHERE recipient_id = $1 ORDER BY seq",
      values: [recipientId],
    });
    expect(rows.map((row) => [row.seq, row.message_id])).toEqual(
      [known, next, last].map(({ itemId }, n) => [n + 1, itemId]),
    );
    const { lastSeq } = await readMailbox(postgres, recipientId, everything);
    expect(lastSeq).toBe(3);
  });

  test("a mailbox's totals count every stored item once", async () => {
    const recipientId = sampleAgentId();
    const arrivals = [10, 20, 30].map((length) => sampleArrival({ recipientId, body: new Uint8Array(length) }));
    await placeAll(postgres, arrivals);
    await placeAll(postgres, arrivals);
    const { rows } = await postgres.query({
      text: "SELECT last_seq, stored_items, stored_bytes FROM messaging_mailboxes WHERE recipient_id = $1",
      values: [recipientId],
    });
    expect(rows).toEqual([{ last_seq: 3, stored_items: 3, stored_bytes: 60 }]);
  });
});

describe("repetitions and reuse", () => {
  test("the same message again is nothing new, in one step or in two", async () => {
    const message = sampleArrival();
    expect(await placeAll(postgres, [message, message])).toMatchObject([
      { outcome: "stored" },
      { outcome: "repeated" },
    ]);
    expect(await placeAll(postgres, [message])).toEqual([{ outcome: "repeated" }]);
    expect(await itemIds(message.recipientId)).toEqual([message.itemId]);
  });

  test("other bytes under a known id are refused with their digest, and the first message stays as it was", async () => {
    const first = sampleArrival();
    const second = { ...first, body: Uint8Array.of(1) };
    await placeAll(postgres, [first]);
    const before = await findMessages(postgres, [{ senderId: first.senderId, messageId: first.itemId }]);
    expect(await placeAll(postgres, [second])).toMatchObject([{ outcome: "id-reused", digest: sha256(second.body) }]);
    expect(await findMessages(postgres, [{ senderId: first.senderId, messageId: first.itemId }])).toEqual(before);
    expect(await itemIds(first.recipientId)).toEqual([first.itemId]);
  });

  test("within one step the first bytes win", async () => {
    const first = sampleArrival();
    const second = { ...first, body: Uint8Array.of(1) };
    expect(await placeAll(postgres, [first, second, first, second])).toMatchObject([
      { outcome: "stored" },
      { outcome: "id-reused" },
      { outcome: "repeated" },
      { outcome: "id-reused" },
    ]);
  });

  test("one id to two recipients is one message: the second is refused", async () => {
    const first = sampleArrival();
    const second = { ...first, recipientId: sampleAgentId(), body: Uint8Array.of(2) };
    expect(await placeAll(postgres, [first, second])).toMatchObject([{ outcome: "stored" }, { outcome: "id-reused" }]);
    expect(await placeAll(postgres, [second])).toMatchObject([{ outcome: "id-reused" }]);
    expect(await itemIds(second.recipientId)).toEqual([]);
  });

  test("one id to two recipients at the same moment: one is stored", async () => {
    for (let round = 0; round < 10; round++) {
      const first = sampleArrival();
      const second = { ...first, recipientId: sampleAgentId(), body: Uint8Array.of(round) };
      const outcomes = (await Promise.all([placeAll(postgres, [first]), placeAll(postgres, [second])])).flat();
      expect(outcomes.map(({ outcome }) => outcome).sort()).toEqual(["id-reused", "stored"]);
    }
  });

  test("two steps that bring the same ids in opposite orders do not deadlock, and each id is stored once", async () => {
    for (let round = 0; round < 5; round++) {
      const senderId = sampleAgentId();
      const ids = Array.from({ length: 200 }, () => sampleItemId());
      const [one, other] = [sampleAgentId(), sampleAgentId()].map((recipientId) =>
        ids.map((itemId) => sampleArrival({ recipientId, senderId, itemId })),
      ) as [Arrival[], Arrival[]];
      const placements = await Promise.all([placeAll(postgres, one), placeAll(postgres, other.reverse())]);
      const stored = placements.flat().filter(({ outcome }) => outcome === "stored");
      expect(stored).toHaveLength(ids.length);
    }
  });

  test("the same id of two senders is two messages", async () => {
    const first = sampleArrival();
    const second = { ...first, senderId: sampleAgentId() };
    expect(await placeAll(postgres, [first, second])).toMatchObject([{ seq: 1 }, { seq: 2 }]);
  });

  test("a retry request is stored once per mailbox and has no message row", async () => {
    const retry = sampleArrival({ kind: "retry" });
    expect(await placeAll(postgres, [retry, retry])).toMatchObject([
      { outcome: "stored", seq: 1 },
      { outcome: "repeated" },
    ]);
    expect(await placeAll(postgres, [retry, sampleArrival({ recipientId: retry.recipientId })])).toMatchObject([
      { outcome: "repeated" },
      { outcome: "stored", seq: 2 },
    ]);
    expect(await findMessages(postgres, [{ senderId: retry.senderId, messageId: retry.itemId }])).toEqual([]);
  });

  test("whatever comes in whichever steps, each mailbox holds the first of each message, in order", async () => {
    const agents = [1, 2, 3].map(sampleAgentId);
    const pick = fc.nat({ max: 2 });
    const arrival = fc.record({ recipient: pick, sender: pick, id: fc.nat({ max: 5 }), body: fc.nat({ max: 1 }) });
    await fc.assert(
      fc.asyncProperty(fc.array(fc.array(arrival, { maxLength: 8 }), { maxLength: 4 }), async (steps) => {
        const [recipients, senders] = [agents.map(sampleAgentId), agents.map(sampleAgentId)];
        const ids = Array.from({ length: 6 }, () => sampleItemId());
        const winners = new Map<string, { recipient: number; body: number }>();
        const expected = recipients.map((): string[] => []);
        for (const step of steps) {
          const placements = await placeAll(
            postgres,
            step.map(({ recipient, sender, id, body }) =>
              sampleArrival({
                recipientId: recipients[recipient] ?? "",
                senderId: senders[sender] ?? "",
                itemId: ids[id] ?? "",
                body: Uint8Array.of(recipient, sender, id, body),
              }),
            ),
          );
          const outcomes = step.map(({ recipient, sender, id, body }) => {
            const winner = winners.get(`${sender}/${id}`);
            if (winner !== undefined) {
              return winner.recipient === recipient && winner.body === body ? "repeated" : "id-reused";
            }
            winners.set(`${sender}/${id}`, { recipient, body });
            expected[recipient]?.push(`${senders[sender]}/${ids[id]}`);
            return "stored";
          });
          expect(placements.map(({ outcome }) => outcome)).toEqual(outcomes);
        }
        for (const [index, recipientId] of recipients.entries()) {
          const { items } = await readMailbox(postgres, recipientId, everything);
          expect(items.map(({ senderId, itemId }) => `${senderId}/${itemId}`)).toEqual(expected[index]);
          expect(items.map(({ seq }) => seq)).toEqual(items.map((_, n) => n + 1));
        }
      }),
      { numRuns: 40 },
    );
  });
});

describe("time", () => {
  test("the time of queuing is the database's, the same for the whole step", async () => {
    const { rows } = await postgres.query<{ now: number }>({
      text: "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now",
    });
    const placements = await placeAll(postgres, [sampleArrival(), sampleArrival()]);
    const times = placements.map((placement) => (placement.outcome === "repeated" ? 0 : placement.at));
    expect(times[0]).toBe(times[1]);
    expect(times[0]).toBeGreaterThanOrEqual(rows[0]?.now ?? Number.NaN);
  });

  test("a message older than 30 days is discarded as expired, without a row", async () => {
    const old = sampleArrival({ itemId: sampleItemId(Date.now() - 30 * dayMs - 1_000) });
    expect(await placeAll(postgres, [old, sampleArrival()])).toMatchObject([
      { outcome: "expired" },
      { outcome: "stored" },
    ]);
    expect(await itemIds(old.recipientId)).toEqual([]);
    expect(await findMessages(postgres, [{ senderId: old.senderId, messageId: old.itemId }])).toEqual([]);
  });

  test("a message from long ago is stored: the partition of its day is made when it is missing", async () => {
    const time = Date.now() - 29 * dayMs;
    const name = `messaging_messages_${new Date(time).toISOString().slice(0, 10).replaceAll("-", "")}`;
    const { rows } = await postgres.query<{ there: string | null }>({
      text: "SELECT to_regclass($1) AS there",
      values: [name],
    });
    expect(rows).toEqual([{ there: null }]);
    expect(dayOf(time)).toBeLessThan(dayOf(Date.now()));
    const message = sampleArrival({ itemId: sampleItemId(time) });
    expect(await placeAll(postgres, [message])).toMatchObject([{ outcome: "stored", seq: 1 }]);
  });

  test("two steps that miss the same day at the same moment both store their message", async () => {
    const time = Date.now() - 27 * dayMs;
    const messages = [1, 2, 3].map(() => sampleArrival({ itemId: sampleItemId(time) }));
    const placements = await Promise.all(messages.map((message) => placeAll(postgres, [message])));
    expect(placements.flat().map(({ outcome }) => outcome)).toEqual(["stored", "stored", "stored"]);
  });
});
