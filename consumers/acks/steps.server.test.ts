import fc from "fast-check";
import { expect, test } from "vitest";
import type { MessageReceipt, Outcome } from "../../schemas/values.ts";
import type { Arrival } from "../../store/queuing.ts";
import type { Codec } from "../../streams/codec.ts";
import type { Inbound, OutboxRow } from "../../streams/consumer.ts";
import { emittedRows } from "../../streams/emission.ts";
import { apply, ended, receipt, report, useAcks, waiting, words } from "../../tests/acks-stage.ts";
import { inStep, placeAll, sampleAgentId, sampleArrival } from "../../tests/messaging.ts";
import { acks } from "./acks.ts";

const postgres = useAcks();

/** JSON instead of Avro: what a value is encoded as is not the point here. */
const codec: Codec = {
  encode: (_, value) => Buffer.from(JSON.stringify(value)),
  decode: () => {
    throw new Error("not used");
  },
  learn: () => null,
};

/** The rows that these steps leave in the outbox; everything they did is undone. */
async function rowsOf(steps: readonly (readonly Inbound<MessageReceipt>[])[]): Promise<readonly OutboxRow[]> {
  const rows: OutboxRow[] = [];
  const undo = new Error("undone");
  const work = inStep(postgres(), async (tx) => {
    for (const step of steps) {
      const message = { key: null, value: null, timestamp: "0", attributes: 0, offset: "0", headers: {} };
      const received = step.map((inbound) => ({ ...inbound, message, bytes: 0, items: 1, outcome: { inbound } }));
      rows.push(...emittedRows(codec, "acks", await acks.step(step, tx), received));
    }
    throw undo;
  });
  await expect(work).rejects.toBe(undo);
  return rows;
}

test("however records fall into steps, the same events leave in the same order under the same ids", async () => {
  const outcomes = ["delivered", "acknowledged", "refused", "evicted", "undeliverable", "aside"] as const;
  const item = fc.record({ message: fc.nat({ max: 3 }), outcome: fc.constantFrom(...outcomes) });
  const record = fc.record({ recipient: fc.nat({ max: 1 }), items: fc.array(item, { minLength: 1, maxLength: 6 }) });
  const script = fc.array(fc.record({ record, endsStep: fc.boolean() }), { minLength: 1, maxLength: 8 });
  const mailboxes = [sampleAgentId(), sampleAgentId()].map((recipientId) => ({
    recipientId,
    messages: Array.from({ length: 4 }, () => sampleArrival({ recipientId })),
  }));
  await placeAll(
    postgres(),
    mailboxes.flatMap(({ messages }) => messages),
  );
  await fc.assert(
    fc.asyncProperty(script, async (records) => {
      let at = 0;
      const steps: Inbound<MessageReceipt>[][] = [[]];
      for (const [offset, { record, endsStep }] of records.entries()) {
        const { recipientId, messages } = mailboxes[record.recipient] as (typeof mailboxes)[number];
        const reports = record.items.map(({ message, outcome }) => report(outcome, messages[message] as Arrival, ++at));
        steps.at(-1)?.push(receipt(offset, recipientId, reports));
        if (endsStep) steps.push([]);
      }
      const alone = await rowsOf(steps.flat().map((record) => [record]));
      expect(await rowsOf(steps)).toEqual(alone);
      // In the order of the reports that say so: the events of a record by their numbers, its reports by their times.
      const times = alone.map(({ headers }) => headers["ce_time"] ?? "");
      expect(times).toEqual(times.toSorted());
    }),
    { numRuns: 100 },
  );
});

test("however receipts fall into records and steps, the same is told of each message, and the mailbox adds up", async () => {
  const outcomes = ["delivered", "acknowledged", "refused", "evicted", "undeliverable", "aside"] as const;
  const item = fc.record({ message: fc.nat({ max: 5 }), outcome: fc.constantFrom(...outcomes) });
  const steps = fc.array(fc.array(fc.array(item, { minLength: 1, maxLength: 4 }), { maxLength: 4 }), { maxLength: 5 });
  await fc.assert(
    fc.asyncProperty(steps, async (script) => {
      const recipients = [sampleAgentId(), sampleAgentId()] as const;
      const messages = Array.from({ length: 6 }, (_, n) => sampleArrival({ recipientId: recipients[n < 3 ? 0 : 1] }));
      await placeAll(postgres(), messages);
      const model = messages.map(
        (): Model => ({
          aside: false,
          delivered: false,
          undeliverable: false,
          told: [],
          end: null,
        }),
      );
      const told = messages.map((): string[] => []);
      let at = 0;
      for (const step of script) {
        const batch: Inbound<MessageReceipt>[] = [];
        for (const record of step) {
          for (const recipientId of recipients) {
            const items = record.filter(({ message }) => messages[message]?.recipientId === recipientId);
            if (items.length === 0) continue;
            const reports = items.map(({ message, outcome }) => {
              at += 1;
              expectInModel(model[message], outcome, at);
              return report(outcome, messages[message] ?? sampleArrival(), at);
            });
            batch.push(receipt(batch.length, recipientId, reports));
          }
        }
        for (const emit of await apply(batch)) {
          const index = messages.findIndex(({ senderId, itemId }) => emit.subject === `${senderId}/${itemId}`);
          told[index]?.push(...words([emit]));
        }
      }
      expect(told).toEqual(model.map((message) => message.told));
      for (const recipientId of recipients) {
        const gone = messages.filter((message, n) => message.recipientId === recipientId && model[n]?.end !== null);
        expect(await waiting(recipientId)).toBe(3 - gone.length);
        expect(await ended(recipientId)).toEqual({
          items: gone.length,
          bytes: gone.reduce((bytes, { body }) => bytes + body.length, 0),
        });
      }
    }),
    { numRuns: 60 },
  );
});

interface Model {
  aside: boolean;
  delivered: boolean;
  undeliverable: boolean;
  told: string[];
  end: string | null;
}

/** What must come of a report, item by item. */
function expectInModel(message: Model | undefined, outcome: Outcome, at: number): void {
  if (message === undefined || message.end !== null) return;
  if (outcome === "aside") {
    if (!message.aside) message.told.push(`aside@${at}`);
    message.aside = true;
    return;
  }
  if (outcome === "undeliverable") {
    if (!message.delivered && !message.undeliverable) message.told.push(`undeliverable@${at}`);
    message.undeliverable ||= !message.delivered;
    return;
  }
  if ((outcome === "delivered" || outcome === "acknowledged") && !message.delivered) {
    message.delivered = true;
    message.told.push(`delivered@${at}`);
  }
  if (outcome === "delivered") return;
  message.end = outcome;
  message.told.push(`${outcome}@${at}`);
}
