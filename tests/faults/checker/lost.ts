/**
 * No message that was accepted is lost: whoever was answered 202 finds it read, acknowledged and told of, or discarded with a code and said anew.
 *
 * It looks from both ends. From the client's: what it was promised. From the log's: whatever came into it has to come out, also where the client never
 * heard an answer.
 */
import type { LogItem, Operation } from "./history.ts";
import { type Indexed, type ItemRecord, labelName, nameOf, placeOf } from "./indexed.ts";

export function lost(index: Indexed): readonly string[] {
  const readers = new Set(index.history.readers);
  const isToReader = ({ recipientId }: LogItem) => readers.has(recipientId);
  return [
    ...promised(index),
    ...left(index, "message.send.v1", "message.encrypted.v1"),
    ...left(index, "message.encrypted.v1", "message.queued.v1"),
    ...left(index, "message.queued.v1", "message.delivered.v1", isToReader),
    ...left(index, "message.queued.v1", "message.acknowledged.v1", isToReader),
  ];
}

function promised(index: Indexed): readonly string[] {
  return [...index.sends].flatMap(([message, operations]) => {
    const accepted = operations.find(({ outcome }) => outcome === "ok");
    if (accepted === undefined || isRead(index, message, accepted)) return [];
    const code = index.of("message.discarded.v1", message)[0]?.item.code;
    const stands = code === undefined ? "no record says what became of it" : `it was discarded as ${code}`;
    return [`${message} (${labelName(accepted)}) was accepted, and nobody has read it; ${stands}`];
  });
}

/** Under its own id, or said anew under another. */
function isRead(index: Indexed, message: string, sent: Operation): boolean {
  if (index.receipts.has(message)) return index.of("message.acknowledged.v1", message).length > 0;
  return index.of("message.discarded.v1", message).length > 0 && index.receiptsByLabel.has(labelName(sent));
}

/** Messages that stand in the one topic, and neither in the other nor among the discarded. */
function left(
  index: Indexed,
  from: string,
  to: string,
  isWanted: (item: LogItem) => boolean = () => true,
): readonly string[] {
  const isGone = ({ item }: ItemRecord) => {
    const message = nameOf(item);
    return index.of(to, message).length === 0 && index.of("message.discarded.v1", message).length === 0;
  };
  return index
    .inTopic(from)
    .filter((record) => record.item.kind === "message" && isWanted(record.item) && isGone(record))
    .map((record) => `${nameOf(record.item)} stands at ${placeOf(record)}, and nowhere in ${to}`);
}
