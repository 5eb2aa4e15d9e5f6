/** What mutants (mutants.ts) change histories with. */
import type { History, LogRecord, Operation } from "./history.ts";
import { type Indexed, type ItemRecord, nameOf } from "./indexed.ts";

/** What comes of a message that is accepted. */
export const effects = ["message.queued.v1", "message.delivered.v1", "message.acknowledged.v1"] as const;

/** A mutant of a record that the log repeats would show nothing. */
export function onceOnly(index: Indexed, topic: string): readonly ItemRecord[] {
  return index.inTopic(topic).filter(({ item }) => index.of(topic, nameOf(item)).length === 1);
}

/** The same once more, at the end of its partition. */
export function repeated<Repeated extends LogRecord>({ log }: History, record: Repeated): Repeated {
  const { topic, partition } = record;
  const isThere = (one: LogRecord) => one.topic === topic && one.partition === partition;
  const last = log.reduce((highest, one) => (isThere(one) ? Math.max(highest, one.offset) : highest), 0);
  return { ...record, offset: last + 1 };
}

export function renumbered(
  history: History,
  numbers: ReadonlyMap<string, number | null>,
  moved: (record: LogRecord) => LogRecord,
): History {
  return {
    ...history,
    log: history.log.map((record) => {
      const { item } = record;
      const seq = item === null || item.seq === null ? undefined : numbers.get(nameOf(item));
      return item === null || seq === undefined ? record : { ...moved(record), item: { ...item, seq } };
    }),
    snapshot: {
      ...history.snapshot,
      messages: history.snapshot.messages.map((row) => ({ ...row, seq: numbers.get(nameOf(row)) ?? row.seq })),
    },
  };
}

export function withoutEffects(history: History, message: string, changed: (record: LogRecord) => LogRecord): History {
  const isAbout = (one: { readonly senderId: string; readonly messageId: string | null }) => nameOf(one) === message;
  const isEffect = ({ topic, item }: LogRecord) =>
    item !== null && effects.some((effect) => effect === topic) && isAbout(item);
  const number = history.log.find(({ topic, item }) => topic === "message.queued.v1" && item && isAbout(item))?.item;
  return {
    ...history,
    operations: history.operations.filter((one: Operation) => one.kind === "send" || !isAbout(one)),
    // The mailbox counts without it, as if it had never been.
    log: history.log
      .filter((record) => !isEffect(record))
      .map((record) => {
        const { item } = record;
        const isBehind =
          item?.recipientId === number?.recipientId &&
          item?.seq != null &&
          number?.seq != null &&
          item.seq > number.seq;
        return isBehind && item?.seq != null ? { ...record, item: { ...item, seq: item.seq - 1 } } : changed(record);
      }),
    snapshot: {
      ...history.snapshot,
      messages: history.snapshot.messages
        .filter((row) => !isAbout(row))
        .map((row) =>
          row.recipientId === number?.recipientId && row.seq > (number?.seq ?? Infinity)
            ? { ...row, seq: row.seq - 1 }
            : row,
        ),
    },
  };
}

export function middle<Item>(items: readonly Item[]): Item | null {
  return items[Math.floor(items.length / 2)] ?? null;
}
