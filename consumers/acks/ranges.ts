/**
 * Ranges of a mailbox that could not be announced, worked off slice by slice. Pure.
 *
 * A mailbox may hold ten thousand items, and one record about all of them must not hold up its partition: a record is worked off for the first of
 * them, and the rest goes back to the topic, behind what came in the meantime.
 */
import type { MessageReceipt } from "../../schemas/values.ts";
import type { SeqRange } from "../../store/acks.ts";
import type { ItemKey } from "../../store/mailbox.ts";
import { messageReceipt } from "../../streams/catalogue.ts";
import type { Emit, Inbound } from "../../streams/consumer.ts";

type Receipt = Inbound<MessageReceipt>;

/** A step takes 2,000 items: four ranges, or one and other receipts. */
export const sliceItemsMax = 500;

/** One for each record that has one, in order. */
export function rangesOf(batch: readonly Receipt[]): readonly SeqRange[] {
  return batch.flatMap(({ value: { recipientId, undeliverable } }) =>
    undeliverable ? [{ recipientId, afterSeq: undeliverable.afterSeq, untilSeq: undeliverable.untilSeq }] : [],
  );
}

/** The batch with the slices' items in the place of its ranges, and what is left of those. `slices`: one for each range, in order. */
export function withSlices(
  batch: readonly Receipt[],
  slices: readonly (readonly ItemKey[])[],
): { readonly records: readonly Receipt[]; readonly rests: readonly Emit<MessageReceipt>[] } {
  const waiting = slices.values();
  const rests: Emit<MessageReceipt>[] = [];
  const records = batch.map((record) => {
    const { recipientId, items, undeliverable } = record.value;
    if (!undeliverable) return record;
    const slice = waiting.next().value ?? [];
    const { at, untilSeq } = undeliverable;
    const last = slice.at(-1);
    if (slice.length === sliceItemsMax && last !== undefined && last.seq < untilSeq) {
      const rest = { recipientId, items: [], undeliverable: { afterSeq: last.seq, untilSeq, at } };
      const head = { topic: messageReceipt, key: recipientId, cause: record, time: at, subject: recipientId };
      rests.push({ ...head, value: () => rest });
    }
    const failed = slice.map(({ senderId, itemId }) => {
      return { outcome: "undeliverable", senderId, itemId, at, door: "none", code: null } as const;
    });
    return { ...record, value: { ...record.value, items: [...items, ...failed], undeliverable: null } };
  });
  return { records, rests };
}
