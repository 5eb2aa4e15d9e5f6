/**
 * What one agent says to another stays in order: as it was accepted, so it is numbered, told of, and read.
 *
 * What had to be said anew is left out where readers are asked: it comes when it comes.
 */
import type { Operation } from "./history.ts";
import { firsts, grouped, type Indexed, type ItemRecord, labelName, nameOf, pairName, placeOf } from "./indexed.ts";

export function reordered(index: Indexed): readonly string[] {
  return [...numbering(index), ...deliveries(index), ...acceptances(index), ...readings(index)];
}

/** A mailbox counts 1, 2, 3 … without a gap, in the order of the log, on one partition. */
function numbering(index: Indexed): readonly string[] {
  const mailboxes = grouped(firsts(index.inTopic("message.queued.v1")), ({ item }) => item.recipientId);
  return [...mailboxes].flatMap(([recipientId, records]) => {
    if (new Set(records.map(({ partition }) => partition)).size > 1) {
      return [`the mailbox of ${recipientId} is spread over partitions`];
    }
    const wrong = records.findIndex(({ item }, place) => item.seq !== place + 1);
    const record = records[wrong];
    if (record === undefined) return [];
    return [`the mailbox of ${recipientId} counts ${record.item.seq} as its number ${wrong + 1}, ${placeOf(record)}`];
  });
}

/**
 * The deliveries of one session are told in the order of its messages (docs/decisions/0043-the-order-of-deliveries.md): none is told when the report of a later
 * message has been. Only an answer, which implies the delivery, may come before the report of an earlier message, and what was set aside comes when it is handed
 * out again. Agents of server custody go on from a cursor before their answers are taken: where the report of a page was lost, its deliveries come with them.
 */
function deliveries(index: Indexed): readonly string[] {
  const wasAside = new Set(index.inTopic("message.set-aside.v1").map(({ item }) => nameOf(item)));
  const sessions = grouped(
    firsts(index.inTopic("message.delivered.v1")).filter(({ item }) => !wasAside.has(nameOf(item))),
    ({ item }) => `${item.senderId} ${item.sessionId}`,
  );
  return [...sessions].flatMap(([session, records]) => {
    let reported: ItemRecord | null = null;
    return records.flatMap((record) => {
      const before: ItemRecord | null = reported;
      const isLate = before !== null && (record.item.seq ?? 0) <= (before.item.seq ?? 0);
      if (!isLate && !isImplied(index, record)) reported = record;
      return before !== null && isLate && !(isImplied(index, record) && index.held.has(record.item.recipientId))
        ? [`session ${session}: ${placeOf(record)} comes behind ${placeOf(before)}, its seq before`]
        : [];
    });
  });
}

/** The answer told it: it has the answer's time. A report of the same millisecond counts for one as well. */
export function isImplied(index: Indexed, { item }: ItemRecord): boolean {
  return index
    .of("message.acknowledged.v1", nameOf(item))
    .some((answer) => answer.item.acknowledgedAt === item.deliveredAt);
}

/** Messages whose delivery was told only with their answer. */
export function impliedDeliveries(index: Indexed): number {
  return firsts(index.inTopic("message.delivered.v1")).filter((record) => isImplied(index, record)).length;
}

/** Where the answer to one send came before the next began, the first has the lower number. */
function acceptances(index: Indexed): readonly string[] {
  const accepted = [...index.sends].flatMap(([message, operations]) => {
    const seq = index.of("message.queued.v1", message)[0]?.item.seq ?? null;
    const answered = operations.find(({ outcome }) => outcome === "ok");
    const [begun] = operations;
    if (seq === null || answered === undefined || begun === undefined) return [];
    return [{ message, pair: pairName(begun), seq, startMs: begun.startMs, endMs: answered.endMs }];
  });
  return [...grouped(accepted, ({ pair }) => pair).values()].flatMap((sends) => {
    const ends = sends.toSorted((a, b) => a.endMs - b.endMs);
    let before = 0;
    let highest: (typeof sends)[number] | null = null;
    return sends
      .toSorted((a, b) => a.startMs - b.startMs)
      .flatMap((send) => {
        for (let one = ends[before]; one !== undefined && one.endMs < send.startMs; one = ends[before]) {
          if (highest === null || one.seq > highest.seq) highest = one;
          before += 1;
        }
        if (highest === null || highest.seq < send.seq) return [];
        return [`${send.message} was sent when ${highest.message} had been accepted, and has a lower number`];
      });
  });
}

/**
 * Each reader sees what a sender says to it for the first time in the order in which it was said. A plain client that went on without an answer has said so
 * itself: a try that it gave up may come later than what it said then.
 */
function readings(index: Indexed): readonly string[] {
  const anew = new Set(
    index.inTopic("message.discarded.v1").flatMap(({ item }) => (index.sends.get(nameOf(item)) ?? []).map(labelName)),
  );
  const isInOrder = (label: string) =>
    index.sendsByLabel.get(label)?.some(({ by, outcome }) => by === "sdk" || outcome === "ok");
  const seen = [...index.receiptsByLabel]
    .filter(([label]) => !anew.has(label) && isInOrder(label))
    .map(([, operations]) => operations.reduce((first, one) => (one.startMs < first.startMs ? one : first)));
  return [...grouped(seen, pairName)].flatMap(([pair, operations]) =>
    descents(
      operations.toSorted((a, b) => a.startMs - b.startMs),
      ({ n }: Operation) => n ?? 0,
    ).map(([before, after]) => `${pair}: number ${after.n} was read behind number ${before.n}`),
  );
}

/** Neighbours of which the second is not above the first. */
function descents<Item extends Operation | ItemRecord>(
  items: readonly Item[],
  numberOf: (item: Item) => number,
): readonly (readonly [Item, Item])[] {
  return items.flatMap((item, place) => {
    const before = items[place - 1];
    return before === undefined || numberOf(before) < numberOf(item) ? [] : [[before, item] as const];
  });
}
