import { expect, test } from "vitest";
import type { Outcome } from "../../schemas/values.ts";
import { findMessages } from "../../store/messages.ts";
import type { Arrival } from "../../store/queuing.ts";
import { messageAcknowledged, messageDelivered, messageSetAside } from "../../streams/catalogue.ts";
import { apply, applyEach, ended, receipt, report, useAcks, waiting, words } from "../../tests/acks-stage.ts";
import { placeAll, sampleAgentId, sampleArrival } from "../../tests/messaging.ts";

const postgres = useAcks();

const table: [law: string, reports: [Outcome, number][], told: string[], status: string][] = [
  ["a delivery is told, and the item waits", [["delivered", 1]], ["delivered@1"], "delivered"],
  [
    "a second delivery is no news",
    [
      ["delivered", 1],
      ["delivered", 2],
    ],
    ["delivered@1"],
    "delivered",
  ],
  [
    "an acknowledgement ends a delivered message",
    [
      ["delivered", 1],
      ["acknowledged", 2],
    ],
    ["delivered@1", "acknowledged@2"],
    "acknowledged",
  ],
  [
    "an acknowledgement alone counts as the delivery as well",
    [["acknowledged", 2]],
    ["delivered@2", "acknowledged@2"],
    "acknowledged",
  ],
  [
    "a delivery after the acknowledgement is no news",
    [
      ["acknowledged", 2],
      ["delivered", 1],
    ],
    ["delivered@2", "acknowledged@2"],
    "acknowledged",
  ],
  [
    "a second acknowledgement is no news",
    [
      ["acknowledged", 2],
      ["acknowledged", 3],
    ],
    ["delivered@2", "acknowledged@2"],
    "acknowledged",
  ],
  ["a refusal ends a message and does not make it delivered", [["refused", 2]], ["refused@2"], "refused"],
  [
    "a delivered message can be refused",
    [
      ["delivered", 1],
      ["refused", 2],
    ],
    ["delivered@1", "refused@2"],
    "refused",
  ],
  [
    "the first end wins: refused",
    [
      ["refused", 2],
      ["acknowledged", 3],
    ],
    ["refused@2"],
    "refused",
  ],
  [
    "the first end wins: acknowledged",
    [
      ["acknowledged", 2],
      ["refused", 3],
      ["expired", 4],
    ],
    ["delivered@2", "acknowledged@2"],
    "acknowledged",
  ],
  [
    "eviction ends a message",
    [
      ["evicted", 2],
      ["acknowledged", 3],
    ],
    ["evicted@2"],
    "evicted",
  ],
  [
    "expiry ends a message",
    [
      ["delivered", 1],
      ["expired", 2],
    ],
    ["delivered@1", "expired@2"],
    "expired",
  ],
  [
    "deletion ends a message",
    [
      ["deleted", 2],
      ["evicted", 3],
    ],
    ["deleted@2"],
    "deleted",
  ],
  [
    "undeliverable and aside are marks: the message goes on",
    [
      ["undeliverable", 1],
      ["aside", 2],
      ["acknowledged", 3],
    ],
    ["undeliverable@1", "aside@2", "delivered@3", "acknowledged@3"],
    "acknowledged",
  ],
  [
    "what could not be announced waits as undeliverable, and that is told once",
    [
      ["undeliverable", 1],
      ["undeliverable", 2],
    ],
    ["undeliverable@1"],
    "undeliverable",
  ],
  [
    "a delivery turns what could not be announced",
    [
      ["undeliverable", 1],
      ["delivered", 2],
    ],
    ["undeliverable@1", "delivered@2"],
    "delivered",
  ],
  [
    "what was delivered is not undeliverable",
    [
      ["delivered", 1],
      ["undeliverable", 2],
    ],
    ["delivered@1"],
    "delivered",
  ],
  [
    "what has ended is not undeliverable",
    [
      ["evicted", 1],
      ["undeliverable", 2],
    ],
    ["evicted@1"],
    "evicted",
  ],
];

for (const [law, reports, told, status] of table) {
  test(`${law}, in one step or in several`, async () => {
    for (const steps of ["one", "several"]) {
      const message = sampleArrival();
      await placeAll(postgres(), [message]);
      const items = reports.map(([outcome, at]) => report(outcome, message, at));
      const emits =
        steps === "one"
          ? await apply(items.map((item, offset) => receipt(offset, message.recipientId, [item])))
          : await applyEach(message.recipientId, items);
      expect(words(emits)).toEqual(told);
      const [found] = await findMessages(postgres(), [{ senderId: message.senderId, messageId: message.itemId }]);
      expect(found?.status).toBe(status);
      const hasEnded = status !== "delivered" && status !== "undeliverable";
      expect(await waiting(message.recipientId)).toBe(hasEnded ? 0 : 1);
      expect(await ended(message.recipientId)).toEqual(
        hasEnded ? { items: 1, bytes: message.body.length } : { items: 0, bytes: 0 },
      );
    }
  });
}

test("delivered and acknowledged carry the message's facts, each with its own door and cause", async () => {
  const message = sampleArrival({ sendCounter: 7, size: 33, custody: "server", acceptedAt: 5 });
  const [placement] = await placeAll(postgres(), [message]);
  if (placement?.outcome !== "stored") throw new Error("the message was not stored");
  const batch = [
    receipt(10, message.recipientId, [report("delivered", message, 1)]),
    receipt(11, message.recipientId, [report("acknowledged", message, 2)]),
  ];
  const [delivered, acknowledged, ...others] = await apply(batch);
  expect(others).toEqual([]);
  const facts = {
    eventId: "some-event",
    messageId: message.itemId,
    senderId: message.senderId,
    recipientId: message.recipientId,
    sessionId: Buffer.from(message.sessionId),
    sendCounter: 7,
    seq: 1,
    size: 33,
    acceptedAt: 5,
    queuedAt: placement.at,
    deliveredAt: 1,
    custody: "server",
  };
  const subject = `${message.senderId}/${message.itemId}`;
  expect(delivered).toMatchObject({ key: message.recipientId, cause: { offset: 10 }, time: 1, subject });
  expect(delivered?.value("some-event")).toEqual({ ...facts, door: "stream" });
  expect(acknowledged).toMatchObject({ key: message.recipientId, cause: { offset: 11 }, time: 2, subject });
  expect(acknowledged?.value("some-event")).toEqual({ ...facts, door: "http", acknowledgedAt: 2 });
});

test("a refusal is discarded with the recipient's code as detail", async () => {
  const message = sampleArrival();
  await placeAll(postgres(), [message]);
  const [discarded] = await apply([receipt(3, message.recipientId, [report("refused", message, 4, "auth-failed")])]);
  expect(discarded?.value("some-event")).toEqual({
    eventId: "some-event",
    messageId: message.itemId,
    senderId: message.senderId,
    recipientId: message.recipientId,
    code: "refused",
    detail: "auth-failed",
    digest: null,
    discardedAt: 4,
    seq: 1,
    size: message.size,
  });
  const [found] = await findMessages(postgres(), [{ senderId: message.senderId, messageId: message.itemId }]);
  expect(found).toMatchObject({ status: "refused", code: "auth-failed", endedAt: 4, deliveredAt: null });
});

test("somebody else's answer changes nothing", async () => {
  const message = sampleArrival();
  await placeAll(postgres(), [message]);
  const other = sampleAgentId();
  expect(
    await apply([receipt(1, other, [report("delivered", message, 1), report("acknowledged", message, 2)])]),
  ).toEqual([]);
  expect(await waiting(message.recipientId)).toBe(1);
  expect(await ended(other)).toEqual({ items: 0, bytes: 0 });
});

test("an answer to what was never stored changes nothing", async () => {
  const message = sampleArrival();
  expect(await apply([receipt(1, message.recipientId, [report("acknowledged", message, 2)])])).toEqual([]);
  expect(await ended(message.recipientId)).toEqual({ items: 0, bytes: 0 });
});

test("a retry request ends without a word on the public topics", async () => {
  const retry = sampleArrival({ kind: "retry" });
  await placeAll(postgres(), [retry]);
  const told = await applyEach(retry.recipientId, [report("delivered", retry, 1), report("acknowledged", retry, 2)]);
  expect(told).toEqual([]);
  expect(await waiting(retry.recipientId)).toBe(0);
  expect(await ended(retry.recipientId)).toEqual({ items: 1, bytes: retry.body.length });
});

test("marks are kept: aside in the mailbox, undeliverable with the message, the first of each", async () => {
  const message = sampleArrival();
  await placeAll(postgres(), [message]);
  await applyEach(message.recipientId, [
    report("aside", message, 1),
    report("aside", message, 2),
    report("undeliverable", message, 3),
    report("undeliverable", message, 4),
  ]);
  const { rows } = await postgres().query({
    text: `SELECT q.aside_at, m.undeliverable_at, m.outcome FROM messaging_queue q
           JOIN messaging_messages m ON m.sender_id = q.sender_id AND m.message_id = q.item_id WHERE q.recipient_id = $1`,
    values: [message.recipientId],
  });
  expect(rows).toEqual([{ aside_at: 1, undeliverable_at: 3, outcome: null }]);
});

test("that a message is set aside is told once, with its place, and only while it waits", async () => {
  const recipientId = sampleAgentId();
  const [message, ended, retry] = [{}, {}, { kind: "retry" as const }].map((fields) =>
    sampleArrival({ recipientId, ...fields }),
  ) as [Arrival, Arrival, Arrival];
  await placeAll(postgres(), [sampleArrival({ recipientId }), message, ended, retry]);
  const told = [
    ...(await apply([receipt(7, recipientId, [report("aside", message, 1), report("aside", message, 2)])])),
    ...(await applyEach(recipientId, [report("aside", message, 3), report("aside", retry, 4)])),
    ...(await apply([receipt(8, recipientId, [report("aside", ended, 5), report("evicted", ended, 6)])])),
    ...(await applyEach(recipientId, [report("aside", ended, 7), report("acknowledged", message, 8)])),
    ...(await applyEach(recipientId, [report("aside", message, 9)])),
  ];
  const aside = told.filter(({ topic }) => topic.name === messageSetAside.name);
  expect(aside).toHaveLength(2);
  const { senderId, itemId } = message;
  expect(aside[0]).toMatchObject({ key: recipientId, subject: `${senderId}/${itemId}`, time: 1 });
  expect(aside[0]?.cause.offset).toBe(7);
  expect(aside[0]?.value("e")).toEqual({
    ...{ eventId: "e", messageId: itemId, senderId, recipientId },
    ...{ seq: 2, setAsideAt: 1 },
  });
  expect(words(told)).toEqual(["aside@1", "aside@5", "evicted@6", "delivered@8", "acknowledged@8"]);
});

test("what is told keeps the order of the answers, whatever was said of the items earlier in the step", async () => {
  const recipientId = sampleAgentId();
  const messages = Array.from({ length: 6 }, () => sampleArrival({ recipientId }));
  await placeAll(postgres(), messages);
  const told = await apply([
    receipt(
      1,
      recipientId,
      messages.slice(3).map((message) => report("delivered", message, 1)),
    ),
    receipt(
      2,
      recipientId,
      messages.map((message) => report("acknowledged", message, 2)),
    ),
  ]);
  const subjects = ({ name }: { readonly name: string }) =>
    told.filter(({ topic }) => topic.name === name).map(({ subject }) => subject);
  const ids = messages.map(({ senderId, itemId }) => `${senderId}/${itemId}`);
  expect(subjects(messageDelivered)).toEqual([...ids.slice(3), ...ids.slice(0, 3)]);
  expect(subjects(messageAcknowledged)).toEqual(ids);
});
