/**
 * Puts accepted items into their recipients' mailboxes, each under the mailbox's next seq, and has the oldest leave where there are too many.
 *
 * Reads   message.encrypted.v1, keyed by recipient: in order per recipient, at least once.
 * Writes  message.queued.v1 once per item; message.receipt.v1 (evicted) once for each item beyond a mailbox's limit; message.discarded.v1
 *         for what is never stored: an id that another message has, a message that is too old, a dead letter.
 * Keeps   the mailbox row of every item until its end, a message's outcome for 40 days, the mailboxes' seqs and totals.
 * Refuses bodies that are no envelope or not the item's, records under another key than the recipient, ids whose time is
 *         not about that of the record.
 */
import type { MessageEncrypted } from "../../schemas/values.ts";
import type { Tx } from "../../store/tx.ts";
import { messageEncrypted } from "../../streams/catalogue.ts";
import type { StepConsumer } from "../../streams/consumer.ts";
import { fullMailboxes, toEvents, toEvictions, toLament } from "./events.ts";
import { checkItem, toArrival } from "./items.ts";

/** `mailboxItemsMax`: the newest so many items of a mailbox wait. */
export function queuing({ mailboxItemsMax }: { readonly mailboxItemsMax: number }): StepConsumer<MessageEncrypted, Tx> {
  return {
    name: "queuing",
    reads: [messageEncrypted],
    check: checkItem,
    lament: toLament,
    step: async (batch, tx) => {
      const placements = await tx.queuing.place(batch.map(toArrival), mailboxItemsMax);
      const evicted = await tx.queuing.evictOldest(fullMailboxes(placements), mailboxItemsMax);
      return [...placements.placed.flatMap(toEvents), ...toEvictions(placements, evicted)];
    },
  };
}
