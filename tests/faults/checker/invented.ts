/** Nothing is invented: what is read was said, by this sender to this recipient in these words; what a step says of a message, the step before has said. */
import { type Indexed, type ItemRecord, labelName, nameOf, placeOf } from "./indexed.ts";

export function invented(index: Indexed): readonly string[] {
  return [...read(index), ...refused(index), ...unfounded(index)];
}

function read({ receiptsByLabel, sendsByLabel }: Indexed): readonly string[] {
  return [...receiptsByLabel].flatMap(([label, receipts]) => {
    const said = (sendsByLabel.get(label) ?? []).filter(({ outcome }) => outcome !== "fail");
    if (said.length === 0) return [`${label} was read, and never said`];
    const strange = receipts.find(({ digest }) => !said.some((one) => one.digest === digest));
    return strange === undefined ? [] : [`${label} was read in other words than it was said`];
  });
}

/** A try that was refused has not happened. */
function refused(index: Indexed): readonly string[] {
  return [...index.sends].flatMap(([message, operations]) => {
    const [record] = [...index.of("message.encrypted.v1", message), ...index.of("message.send.v1", message)];
    if (record === undefined || operations.some(({ outcome }) => outcome !== "fail")) return [];
    return [`${message} was refused, and stands at ${placeOf(record)}`];
  });
}

function unfounded(index: Indexed): readonly string[] {
  const isSameItem = (a: ItemRecord, b: ItemRecord) => a.item.recipientId === b.item.recipientId;
  const isSameBody = (a: ItemRecord, b: ItemRecord) => isSameItem(a, b) && a.item.bodyDigest === b.item.bodyDigest;
  const isSamePlace = (a: ItemRecord, b: ItemRecord) => isSameItem(a, b) && a.item.seq === b.item.seq;
  return [
    ...without(index, "message.queued.v1", "message.encrypted.v1", isSameBody),
    ...without(index, "message.delivered.v1", "message.queued.v1", isSamePlace),
    ...without(index, "message.acknowledged.v1", "message.delivered.v1", isSamePlace),
  ];
}

function without(
  index: Indexed,
  effect: string,
  cause: string,
  agrees: (effect: ItemRecord, cause: ItemRecord) => boolean,
): readonly string[] {
  return index
    .inTopic(effect)
    .filter((record) => !index.of(cause, nameOf(record.item)).some((before) => agrees(record, before)))
    .map((record) => `${nameOf(record.item)} stands at ${placeOf(record)}, and nothing in ${cause} agrees with it`);
}

/** How many messages the log has that no client knows of: what the SDK says by itself (rekeying), and what it sent when nobody waited any more. */
export function unattributed(index: Indexed): number {
  const known = (record: ItemRecord) => {
    const message = nameOf(record.item);
    return index.sends.has(message) || index.receipts.has(message);
  };
  return index.inTopic("message.encrypted.v1").filter((record) => record.item.kind === "message" && !known(record))
    .length;
}

/** Messages that had to be said anew before they could be read. */
export function saidAnew(index: Indexed): number {
  return [...index.sends].filter(
    ([message, [first]]) =>
      first !== undefined && !index.receipts.has(message) && index.receiptsByLabel.has(labelName(first)),
  ).length;
}
