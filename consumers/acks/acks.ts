/**
 * Settles what became of items in mailboxes, and tells the world once.
 *
 * Reads   message.receipt.v1, keyed by recipient: in order per recipient, at least once.
 * Writes  message.delivered.v1, message.acknowledged.v1, message.discarded.v1 (refused, evicted, expired, deleted), message.undeliverable.v1,
 *         message.set-aside.v1 and message.retried.v1: once per message and ce_id, in the order of the reports, delivered before acknowledged. Of a range that is long the rest, to itself;
 *         push.requested.v1 for who has something to come for again.
 * Keeps   a message's times and outcome; deletes the mailbox row at its end, counts what ended.
 * Refuses records under another key than their recipient, and such of times that are none or of ids that are nobody's. An item that is not there changes nothing.
 *
 * So in a database that was put back from a backup it stands, until queuing has put back what was answered since.
 */
import type { MessageReceipt } from "../../schemas/values.ts";
import type { Tx } from "../../store/tx.ts";
import { messageReceipt } from "../../streams/catalogue.ts";
import type { Emit, Inbound, StepConsumer } from "../../streams/consumer.ts";
import { toEvents, toRetriedEvents } from "./events.ts";
import { rangesOf, sliceItemsMax, withSlices } from "./ranges.ts";
import { checkReceipt, foldReceipts, partsOf, retriesOf } from "./reports.ts";

export const acks: StepConsumer<MessageReceipt, Tx> = {
  name: "acks",
  reads: [messageReceipt],
  // Nobody waits for it: answers on a stream free its window at once. Woken for each report, it would cost as much as queuing does.
  pace: { bytesMin: 64 * 1024, waitMsMax: 100 },
  check: checkReceipt,
  itemsOf: ({ value }) => value.items.length + (value.retried?.length ?? 0) + (value.undeliverable ? sliceItemsMax : 0),
  afterRestore: "stand",
  step: async (batch, tx) => {
    const slices = await tx.acks.firstOf(rangesOf(batch), sliceItemsMax);
    const { records, rests } = withSlices(batch, slices);
    const told: Emit[] = [];
    for (const part of partsOf(records)) told.push(...(await settled(part, tx)));
    return [...told, ...rests];
  },
};

async function settled(part: readonly Inbound<MessageReceipt>[], tx: Tx): Promise<readonly Emit[]> {
  const reports = foldReceipts(part);
  const aside = await tx.acks.setAside(reports);
  const turned = await tx.acks.settle(reports);
  const retried = await tx.acks.takeMarks(retriesOf(part));
  return [...toEvents(aside, turned), ...toRetriedEvents(retried)];
}
