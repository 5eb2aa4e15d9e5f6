import { expect, test } from "vitest";
import type { MessageReceipt } from "../../schemas/values.ts";
import { findMessages } from "../../store/messages.ts";
import type { Arrival } from "../../store/queuing.ts";
import { messageReceipt } from "../../streams/catalogue.ts";
import type { Emit, Inbound } from "../../streams/consumer.ts";
import { apply, applyEach, receipt, report, useAcks, waiting, words } from "../../tests/acks-stage.ts";
import { placeAll, sampleAgentId, sampleArrival } from "../../tests/messaging.ts";
import { sliceItemsMax } from "./ranges.ts";

const postgres = useAcks();

function failed(offset: number, recipientId: string, untilSeq: number, afterSeq = 0): Inbound<MessageReceipt> {
  const record = receipt(offset, recipientId, []);
  return { ...record, value: { ...record.value, undeliverable: { afterSeq, untilSeq, at: 50 } } };
}

test("a range that could not be announced marks what waits in it undelivered, and nothing else", async () => {
  const recipientId = sampleAgentId();
  const [delivered, acknowledged, waitingOne, retry, later] = [
    ...Array.from({ length: 3 }, () => sampleArrival({ recipientId })),
    sampleArrival({ recipientId, kind: "retry" }),
    sampleArrival({ recipientId }),
  ] as [Arrival, Arrival, Arrival, Arrival, Arrival];
  const stranger = sampleArrival();
  for (const arrival of [delivered, acknowledged, waitingOne, retry, later, stranger])
    await placeAll(postgres(), [arrival]);
  await applyEach(recipientId, [report("delivered", delivered, 1), report("acknowledged", acknowledged, 2)]);
  const told = await apply([failed(3, recipientId, 4)]);
  expect(words(told)).toEqual(["undeliverable@50"]);
  const [event] = told;
  expect(event).toMatchObject({ key: recipientId, time: 50, subject: `${waitingOne.senderId}/${waitingOne.itemId}` });
  expect(event?.value("some-event")).toMatchObject({
    eventId: "some-event",
    messageId: waitingOne.itemId,
    senderId: waitingOne.senderId,
    recipientId,
    seq: 3,
    undeliverableAt: 50,
  });
  expect(await apply([failed(4, recipientId, 4)])).toEqual([]);
  const statuses = await findMessages(
    postgres(),
    [delivered, acknowledged, waitingOne, later, stranger].map(({ senderId, itemId: messageId }) => ({
      senderId,
      messageId,
    })),
  );
  expect(statuses.map(({ status }) => status)).toEqual([
    "delivered",
    "acknowledged",
    "undeliverable",
    "queued",
    "queued",
  ]);
  expect(statuses[2]).toMatchObject({ undeliverableAt: 50 });
  expect(await waiting(recipientId)).toBe(4);
});

test("a long range is worked off in slices, each message is told once, and what was answered in between is left alone", async () => {
  const recipientId = sampleAgentId();
  const senderId = sampleAgentId();
  const count = 2 * sliceItemsMax + 7;
  const arrivals = Array.from({ length: count }, () => sampleArrival({ recipientId, senderId }));
  for (let start = 0; start < count; start += 100) await placeAll(postgres(), arrivals.slice(start, start + 100));
  const told: string[] = [];
  let next: Inbound<MessageReceipt> | null = failed(0, recipientId, count + 100);
  let slices = 0;
  while (next !== null) {
    const emits: readonly Emit[] = await apply([next]);
    const rests = emits.filter(({ topic }) => topic.name === messageReceipt.name);
    told.push(...emits.filter((emit) => !rests.includes(emit)).map(({ subject }) => subject));
    expect(told.length).toBeLessThanOrEqual(++slices * sliceItemsMax);
    const answered = arrivals[count - 1] as Arrival;
    if (slices === 1) await apply([receipt(1, recipientId, [report("acknowledged", answered, 9)])]);
    const value = rests[0]?.value("") as MessageReceipt | undefined;
    next = value === undefined ? null : { ...failed(slices, recipientId, 0), value };
  }
  expect(slices).toBe(3);
  expect(told).toEqual(arrivals.slice(0, -1).map(({ itemId }) => `${senderId}/${itemId}`));
});
