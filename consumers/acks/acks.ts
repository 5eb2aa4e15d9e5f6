/**
 * Settles what became of items in mailboxes, and tells the world once.
 *
 * Reads   message.receipt.v1, keyed by recipient: in order per recipient, at least once.
 * Writes  message.delivered.v1, message.acknowledged.v1 and message.discarded.v1 (refused, evicted, expired, deleted): once per message
 *         and ce_id, delivered before acknowledged.
 * Keeps   a message's times and outcome; deletes the mailbox row at its end, counts what ended.
 * Refuses records under another key than their recipient. An item that is not there changes nothing.
 */
import type { MessageReceipt } from "../../schemas/values.ts";
import type { Tx } from "../../store/tx.ts";
import { messageReceipt } from "../../streams/catalogue.ts";
import type { StepConsumer } from "../../streams/consumer.ts";
import { toEvents } from "./events.ts";
import { checkReceipt, foldReceipts } from "./reports.ts";

export const acks: StepConsumer<MessageReceipt, Tx> = {
  name: "acks",
  reads: [messageReceipt],
  // Nobody waits for it: answers on a stream free its window at once. Woken for each report, it would cost as much as queuing does.
  pace: { bytesMin: 64 * 1024, waitMsMax: 100 },
  check: checkReceipt,
  itemsOf: ({ value }) => value.items.length,
  step: async (batch, tx) => {
    const turned = await tx.acks.settle(foldReceipts(batch));
    return turned.flatMap(toEvents);
  },
};
