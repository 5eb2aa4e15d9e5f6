/** A history made ready for questions: by message, by pair, by event. */
import type { History, LogItem, LogRecord, Operation } from "./history.ts";

/** A record that says something of a message. */
export type ItemRecord = LogRecord & { readonly item: LogItem };

export interface Indexed {
  readonly history: History;
  /** Records of a topic that could be read, partition by partition in the order of their offsets. */
  inTopic(topic: string): readonly ItemRecord[];
  /** The same about one message, by `messageName`. */
  of(topic: string, message: string): readonly ItemRecord[];
  /** By `messageName`; without those whose id is unknown. */
  readonly sends: ReadonlyMap<string, readonly Operation[]>;
  /** By `labelName`. */
  readonly sendsByLabel: ReadonlyMap<string, readonly Operation[]>;
  /** By `messageName`. */
  readonly receipts: ReadonlyMap<string, readonly Operation[]>;
  /** By `labelName`; of readers that can read. */
  readonly receiptsByLabel: ReadonlyMap<string, readonly Operation[]>;
  /** Acknowledgements that were taken, by `messageName`. */
  readonly acknowledged: ReadonlyMap<string, Operation>;
  /** Agents of server custody, as the log says of those who send: all of the load's do. */
  readonly held: ReadonlySet<string>;
}

export function indexed(history: History): Indexed {
  const byTopic = grouped(
    history.log.filter((record): record is ItemRecord => record.item !== null).toSorted(byPlace),
    ({ topic }) => topic,
  );
  const byMessage = new Map(
    Array.from(byTopic, ([topic, records]) => [topic, grouped(records, ({ item }) => nameOf(item))] as const),
  );
  const ofKind = (kind: Operation["kind"]) => history.operations.filter((operation) => operation.kind === kind);
  const withId = (operations: readonly Operation[]) => operations.filter(({ messageId }) => messageId !== null);
  const withLabel = (operations: readonly Operation[]) => operations.filter(({ n }) => n !== null);
  const sends = ofKind("send");
  const receipts = ofKind("receive");
  const answers = ofKind("acknowledge").filter(({ outcome }) => outcome === "ok");
  return {
    history,
    inTopic: (topic) => byTopic.get(topic) ?? [],
    of: (topic, message) => byMessage.get(topic)?.get(message) ?? [],
    sends: grouped(withId(sends), nameOf),
    sendsByLabel: grouped(withLabel(sends), labelName),
    receipts: grouped(withId(receipts), nameOf),
    receiptsByLabel: grouped(withLabel(receipts), labelName),
    acknowledged: new Map(answers.map((operation) => [nameOf(operation), operation])),
    held: new Set(
      (byTopic.get("message.queued.v1") ?? []).flatMap(({ item: { custody, senderId } }) =>
        custody === "server" ? [senderId] : [],
      ),
    ),
  };
}

/** A message's id is its sender's alone. */
export function nameOf({ senderId, messageId }: { readonly senderId: string; readonly messageId: string | null }) {
  return `${senderId} ${messageId}`;
}

/** What was said, under whatever id: said anew, it is the same. */
export function labelName({ senderId, recipientId, n }: Pick<Operation, "senderId" | "recipientId" | "n">): string {
  return `${senderId} to ${recipientId}, number ${n}`;
}

export function pairName({ senderId, recipientId }: Pick<Operation, "senderId" | "recipientId">): string {
  return `${senderId} to ${recipientId}`;
}

export function placeOf({ topic, partition, offset }: Pick<LogRecord, "topic" | "partition" | "offset">): string {
  return `${topic}/${partition}@${offset}`;
}

export function grouped<Item>(items: readonly Item[], nameIt: (item: Item) => string): Map<string, Item[]> {
  const groups = new Map<string, Item[]>();
  for (const item of items) {
    const name = nameIt(item);
    const group = groups.get(name);
    if (group === undefined) groups.set(name, [item]);
    else group.push(item);
  }
  return groups;
}

/** The first record of each message: what comes later under the same id is a repeat. */
export function firsts(records: readonly ItemRecord[]): readonly ItemRecord[] {
  return Array.from(grouped(records, ({ item }) => nameOf(item)).values(), ([first]) => first as ItemRecord);
}

function byPlace(a: LogRecord, b: LogRecord): number {
  return a.partition - b.partition || a.offset - b.offset;
}
