import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { messageReceipt } from "../streams/catalogue.ts";
import type { Inbound } from "../streams/consumer.ts";
import {
  acknowledged,
  alice,
  BEGIN,
  bob,
  carol,
  delivered,
  discarded,
  folded,
  marked,
  queued,
  reported,
  retried,
} from "../tests/log-life.ts";
import { foldMailboxes } from "./mailboxes.ts";
import { foldUsage } from "./usage.ts";

const waits = queued({ seq: 1 });
const read = queued({ seq: 2 });
const evicted = queued({ seq: 3, senderId: carol });
const deleted = queued({ seq: 4 });
const aside = queued({ seq: 5 });
const again = queued({ seq: 6 });
const twice = queued({ seq: 7 });
const silent = queued({ seq: 8 });
const asked = queued({ seq: 1, kind: "retry", senderId: bob, recipientId: alice });
const answered = queued({ seq: 2, kind: "retry", senderId: bob, recipientId: alice });
/** The same request, stored once more after its end. */
const askedAnew = queued({ ...answered, seq: 3, acceptedAt: BEGIN + 2_000 });

const life: readonly Inbound<unknown>[] = [
  ...[waits, read, evicted, deleted, aside, again, twice, silent, asked, answered, askedAnew].map(
    (item) => item.queued,
  ),
  delivered(read),
  acknowledged(read),
  discarded(evicted, "evicted"),
  reported(evicted, "evicted", BEGIN + 900),
  delivered(deleted, BEGIN + 501),
  discarded(deleted, "deleted", { detail: "of-a-test" }),
  // Its id again, with other content: it goes on.
  discarded(waits, "id-reused", { seq: null, size: null }),
  marked(aside, "set-aside", BEGIN + 600),
  marked(again, "set-aside", BEGIN + 610),
  retried(again, true, false),
  marked(twice, "set-aside", BEGIN + 620),
  retried(twice, true, false),
  marked(twice, "set-aside", BEGIN + 630),
  marked(silent, "undeliverable", BEGIN + 640),
  marked(again, "undeliverable", BEGIN + 650),
  retried(again, false, true),
  reported(asked, "aside", BEGIN + 700),
  reported(asked, "retried", BEGIN + 701),
  reported(asked, "delivered", BEGIN + 702),
  reported(asked, "aside", BEGIN + 703),
  reported(answered, "acknowledged", BEGIN + 710),
];

const tables = (records: readonly Inbound<unknown>[]) => folded(foldMailboxes(), records);
const column = (table: string, name: string) =>
  Array.from(tables(life).get(table) ?? [], ([key, { columns }]) => [key, columns[name]]);
const nameOf = ({ senderId, itemId }: { readonly senderId: string; readonly itemId: string }) =>
  `${senderId}/${itemId}`;

describe("what the log says of mailboxes", () => {
  test("what has not ended waits; marks stand as often as they were set more than taken", () => {
    const place = (item: typeof waits) => `${item.recipientId}/${nameOf(item)}`;
    expect(new Map(column("messaging_queue", "aside_at") as [string, unknown][])).toEqual(
      new Map([
        [place(waits), null],
        [place(aside), BEGIN + 600],
        [place(again), null],
        [place(twice), BEGIN + 630],
        [place(silent), null],
        [place(asked), BEGIN + 703],
        [place(askedAnew), null],
      ]),
    );
    expect(tables(life).get("messaging_queue")?.get(place(waits))).toEqual({
      since: waits.acceptedAt,
      columns: {
        ...{ seq: 1, kind: "message", body_sha256: createHash("sha256").update(waits.body).digest("hex") },
        ...{ created_at: waits.acceptedAt, expires_at: waits.acceptedAt + 30 * 24 * 3_600_000, aside_at: null },
      },
    });
  });

  test("a message has its first times, its end and the reason of it", () => {
    const outcomes = new Map(column("messaging_messages", "outcome") as [string, unknown][]);
    expect(outcomes.size).toBe(8);
    expect(Array.from(outcomes.values()).filter((outcome) => outcome !== null)).toEqual([
      "acknowledged",
      "evicted",
      "deleted",
    ]);
    expect(tables(life).get("messaging_messages")?.get(nameOf(deleted))?.columns).toMatchObject({
      ...{ recipient_id: bob, seq: 4, delivered_at: BEGIN + 501, outcome: "deleted", code: "of-a-test" },
      ...{ ended_at: BEGIN + 900, undeliverable_at: null },
    });
    const failed = column("messaging_messages", "undeliverable_at").filter(([, at]) => at !== null);
    expect(failed).toEqual([[nameOf(silent), BEGIN + 640]]);
  });

  test("totals count every place, of retry requests as well", () => {
    const bytes = (...items: readonly (typeof waits)[]) => items.reduce((sum, { body }) => sum + body.length, 0);
    const mailboxes = tables(life).get("messaging_mailboxes");
    expect(mailboxes?.get(bob)?.columns).toMatchObject({ last_seq: 8, stored_items: 8, evicted_seq: 3 });
    expect(mailboxes?.get(alice)?.columns).toEqual({
      ...{ last_seq: 3, stored_items: 3, evicted_seq: 0, stored_bytes: bytes(asked, answered, askedAnew) },
    });
    const ends = tables(life).get("messaging_mailbox_ends");
    expect(ends?.get(bob)?.columns).toEqual({ ended_items: 3, ended_bytes: bytes(read, evicted, deleted) });
    expect(ends?.get(alice)?.columns).toEqual({ ended_items: 1, ended_bytes: bytes(answered) });
  });

  test("usage counts messages by the hour in which each thing happened", () => {
    const usage = folded(foldUsage(), [...life, acknowledged(waits, BEGIN + 1_000)]).get("messaging_usage");
    const hour = BEGIN - (BEGIN % 3_600_000);
    expect(usage?.get(`${alice}/${hour}`)?.columns).toMatchObject({
      messages_sent: 7,
      bytes_sent: 70,
      messages_received: 0,
    });
    expect(usage?.get(`${bob}/${hour}`)?.columns).toMatchObject({
      ...{ messages_received: 8, messages_acknowledged: 1, messages_discarded: 2, bytes_discarded: 20 },
    });
    expect(usage?.get(`${bob}/${hour + 3_600_000}`)?.columns).toMatchObject({
      messages_acknowledged: 1,
      messages_sent: 0,
    });
  });
});

test("what its readers refuse or pass over counts for nothing: of nobody, or of a time that is none", () => {
  const at = 8_640_000_000_000_001;
  const nobody = alice.repeat(70);
  const forged = [
    queued({ seq: 100, queuedAt: at }),
    queued({ seq: 101, senderId: nobody }),
    queued({ seq: 102, recipientId: nobody }),
  ].map((item) => item.queued);
  const usage = [...life, ...forged, acknowledged(waits, at), discarded(silent, "evicted", { discardedAt: at })];
  expect(folded(foldUsage(), usage)).toEqual(folded(foldUsage(), life));
  const ends = [reported(asked, "acknowledged", at), reported({ ...asked, senderId: nobody }, "acknowledged", BEGIN)];
  expect(tables([...life, ...ends])).toEqual(tables(life));
});

describe("laws", () => {
  const byTopic = Map.groupBy(life, ({ topic }) => topic.name);

  test("topics may be read in any order, and mixed: the tables are the same", () => {
    const turns = fc.array(fc.nat(), { minLength: life.length, maxLength: life.length });
    fc.assert(
      fc.property(turns, (choices) => {
        const left = Array.from(byTopic.values(), (records) => [...records]);
        const mixed = choices.flatMap((choice) => {
          const open = left.filter(({ length }) => length > 0);
          return open[choice % open.length]?.shift() ?? [];
        });
        expect(mixed).toHaveLength(life.length);
        expect(tables(mixed)).toEqual(tables(life));
        expect(folded(foldUsage(), mixed)).toEqual(folded(foldUsage(), life));
      }),
      { numRuns: 50 },
    );
  });

  test("a fact that is told again changes nothing, however late", () => {
    const facts = life.filter(({ topic }) => topic.name !== messageReceipt.name);
    expect(facts.length).toBeGreaterThan(20);
    fc.assert(
      fc.property(fc.subarray(facts), fc.nat({ max: life.length }), (repeats, at) => {
        const told = [
          ...life.slice(0, at),
          ...repeats.filter((one) => life.indexOf(one) < at),
          ...life.slice(at),
          ...repeats,
        ];
        expect(tables(told)).toEqual(tables(life));
        expect(folded(foldUsage(), told)).toEqual(folded(foldUsage(), life));
      }),
      { numRuns: 50 },
    );
  });
});
