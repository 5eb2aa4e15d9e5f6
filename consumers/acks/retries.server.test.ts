import { expect, test } from "vitest";
import type { Arrival } from "../../store/queuing.ts";
import { messageRetried, pushRequested } from "../../streams/catalogue.ts";
import type { Emit } from "../../streams/consumer.ts";
import { apply, applyEach, receipt, report, useAcks, words } from "../../tests/acks-stage.ts";
import { placeAll, sampleAgentId, sampleArrival } from "../../tests/messaging.ts";
import { acks } from "./acks.ts";

const postgres = useAcks();

function tryAgain(offset: number, recipientId: string, arrivals: readonly Arrival[], at: number) {
  const record = receipt(offset, recipientId, []);
  const retried = arrivals.map(({ senderId, itemId }) => ({ senderId, itemId, at }));
  return { ...record, value: { ...record.value, retried } };
}

async function marksOf({ recipientId, senderId, itemId }: Arrival) {
  const { rows } = await postgres().query<{ aside: boolean | null; failed: boolean | null }>({
    text: `SELECT (SELECT aside_at IS NOT NULL FROM messaging_queue WHERE recipient_id = $1 AND sender_id = $2 AND item_id = $3) AS aside,
                  (SELECT undeliverable_at IS NOT NULL FROM messaging_messages WHERE sender_id = $2 AND message_id = $3) AS failed`,
    values: [recipientId, senderId, itemId],
  });
  return rows[0];
}

const isRetried = ({ topic }: Emit) => topic.name === messageRetried.name;
const isWake = ({ topic }: Emit) => topic.name === pushRequested.name;

test("what is tried again loses its marks and is told once, with one wake for its recipient; what has none, or has ended, is left alone", async () => {
  const recipientId = sampleAgentId();
  const all = Array.from({ length: 6 }, (_, n) => sampleArrival({ recipientId, kind: n === 5 ? "retry" : "message" }));
  await placeAll(postgres(), all);
  const [aside, failedOne, both, plain, ended, request] = all as [Arrival, Arrival, Arrival, Arrival, Arrival, Arrival];
  await applyEach(recipientId, [
    report("aside", aside, 1),
    report("undeliverable", failedOne, 2),
    report("aside", both, 3),
    report("undeliverable", both, 4),
    report("aside", ended, 5),
    report("undeliverable", ended, 6),
    report("refused", ended, 7),
    report("aside", request, 8),
  ]);
  const told = await apply([tryAgain(9, recipientId, [...all, aside], 20)]);
  expect(told.filter(isRetried).map((emit) => emit.value("e"))).toEqual(
    (
      [
        [aside, 1, true, false],
        [failedOne, 2, false, true],
        [both, 3, true, true],
        [request, 6, true, false],
      ] as const
    ).map(([{ kind, itemId, senderId }, seq, wasSetAside, wasUndeliverable]) => {
      const facts = { eventId: "e", kind, itemId, senderId, recipientId, seq, wasSetAside, wasUndeliverable };
      return { ...facts, retriedAt: 20 };
    }),
  );
  expect(told.filter(isWake).map((emit) => emit.value("e"))).toEqual([{ recipientId, seq: 6, requestedAt: 20 }]);
  expect(told).toHaveLength(5);
  for (const arrival of [aside, failedOne, both, plain]) {
    expect(await marksOf(arrival)).toEqual({ aside: false, failed: false });
  }
  expect(await marksOf(request)).toEqual({ aside: false, failed: null });
  expect(await marksOf(ended)).toEqual({ aside: null, failed: true });
  expect(await apply([tryAgain(10, recipientId, all, 21)])).toEqual([]);
  expect(words(await applyEach(recipientId, [report("undeliverable", failedOne, 22)]))).toEqual(["undeliverable@22"]);
});

test("a message that was delivered all the same keeps the time at which it could not be announced", async () => {
  const message = sampleArrival();
  await placeAll(postgres(), [message]);
  await applyEach(message.recipientId, [report("undeliverable", message, 1), report("delivered", message, 2)]);
  expect(await apply([tryAgain(9, message.recipientId, [message], 3)])).toEqual([]);
  expect(await marksOf(message)).toEqual({ aside: false, failed: true });
});

test("a retry of another mailbox's item changes nothing", async () => {
  const message = sampleArrival();
  await placeAll(postgres(), [message]);
  await applyEach(message.recipientId, [report("aside", message, 1), report("undeliverable", message, 2)]);
  expect(await apply([tryAgain(9, sampleAgentId(), [message], 3)])).toEqual([]);
  expect(await marksOf(message)).toEqual({ aside: true, failed: true });
});

test("in one step or in many, a mark from before a retry goes, and one from behind it stays", async () => {
  for (const isOneStep of [true, false]) {
    const message = sampleArrival();
    await placeAll(postgres(), [message]);
    const { recipientId } = message;
    const records = [
      receipt(0, recipientId, [report("aside", message, 1)]),
      tryAgain(1, recipientId, [message], 2),
      receipt(2, recipientId, [report("undeliverable", message, 3)]),
      tryAgain(3, recipientId, [message], 4),
      receipt(4, recipientId, [report("aside", message, 5)]),
    ];
    const told: Emit[] = [];
    if (isOneStep) told.push(...(await apply(records)));
    else for (const record of records) told.push(...(await apply([record])));
    expect(told.map(({ topic }) => topic.name.split(".")[1])).toEqual([
      ...["set-aside", "retried", "requested"],
      ...["undeliverable", "retried", "requested"],
      "set-aside",
    ]);
    expect(await marksOf(message)).toEqual({ aside: true, failed: false });
  }
});

test("a record that asks for too much again is refused", () => {
  const message = sampleArrival();
  const record = tryAgain(1, message.recipientId, Array<Arrival>(257).fill(message), 1);
  expect(() => acks.check?.(record)).toThrow("too-many");
  expect(acks.itemsOf?.(tryAgain(1, message.recipientId, [message, message], 1))).toBe(2);
});
