/**
 * One repair of kafkajs 2.2.4, whose readers of committed records may be shown records of aborted transactions: it takes the list of aborted
 * transactions to be in the order of their beginnings (Kafka lists them in the order of their ends) and looks at one of them per record. A process that
 * dies with several transactions open in one partition leaves just that (`kafkajs-aborted.server.test.ts` shows it).
 *
 * Here each fetched partition is gone through as Kafka's own client does. What was aborted is marked like a control record: kafkajs then leaves it out,
 * and its offsets still count.
 */
import { createRequire } from "node:module";

export interface FetchedRecord {
  readonly offset: string;
  readonly key: Buffer | null;
  isControlRecord: boolean;
  readonly batchContext?: { readonly producerId: string; readonly inTransaction: boolean };
}

export interface FetchedPartition {
  abortedTransactions?: readonly { readonly producerId: string; readonly firstOffset: string }[] | null;
  readonly messages: readonly FetchedRecord[];
}

interface FetchAnswer {
  readonly responses: readonly { readonly partitions: readonly FetchedPartition[] }[];
}

interface Broker {
  fetch(request: unknown): Promise<FetchAnswer>;
}

/** Version 0, type 0 (abort), both of two bytes. */
const abortMarker = Buffer.alloc(4);

let isRepaired = false;

/** Idempotent. */
export function hideAborted(): void {
  if (isRepaired) return;
  isRepaired = true;
  const load = createRequire(import.meta.url);
  const broker: { readonly prototype: Broker } = load("kafkajs/src/broker");
  const { fetch } = broker.prototype;
  broker.prototype.fetch = async function (this: Broker, request) {
    const answer = await fetch.call(this, request);
    for (const { partitions } of answer.responses) partitions.forEach(markAborted);
    return answer;
  };
}

/** Marks the records of aborted transactions. */
export function markAborted(partition: FetchedPartition): void {
  const aborted = (partition.abortedTransactions ?? [])
    .map(({ producerId, firstOffset }) => ({ producerId, firstOffset: BigInt(firstOffset) }))
    .sort((a, b) => (a.firstOffset < b.firstOffset ? -1 : 1));
  if (aborted.length === 0) return;
  const open = new Set<string>();
  for (const record of partition.messages) {
    while (aborted[0] !== undefined && aborted[0].firstOffset <= BigInt(record.offset)) {
      open.add(aborted[0].producerId);
      aborted.shift();
    }
    const { producerId = "", inTransaction = false } = record.batchContext ?? {};
    if (record.isControlRecord) {
      if (record.key?.equals(abortMarker)) open.delete(producerId);
    } else if (inTransaction && open.has(producerId)) record.isControlRecord = true;
  }
  partition.abortedTransactions = [];
}
