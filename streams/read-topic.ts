/**
 * What stands in a topic now, read without a consumer group that lasts: for a recovery, for jobs that look at dead letters, for tests, the demo and
 * people who look.
 */
import { randomUUID } from "node:crypto";
import type { Consumer, KafkaMessage } from "kafkajs";
import { Unavailable } from "../protocol/refusal.ts";
import { aborted } from "./backoff.ts";
import type { KafkaDoor } from "./kafka.ts";

export type ReadRecord = KafkaMessage & { readonly partition: number };

/** Everything, in order for each partition, up to what was there at the call. Rejects with `Unavailable("kafka")`. */
export async function readTopic(kafka: KafkaDoor, topic: string): Promise<ReadRecord[]> {
  const records: ReadRecord[] = [];
  await readRange(kafka, topic, new Map(), async (batch) => void records.push(...batch));
  return records.sort((a, b) => a.partition - b.partition || Number(a.offset) - Number(b.offset));
}

/**
 * Hands over what stands in each partition from the offset in `starts` on (from its first record where there is none) up to what was there at the
 * call; one batch at a time, those of a partition in order.
 *
 * Rejects with `Unavailable("kafka")`, also when the signal ends it, and with what `handle` rejects with.
 */
export async function readRange(
  kafka: KafkaDoor,
  topic: string,
  starts: ReadonlyMap<number, number>,
  handle: (records: readonly ReadRecord[]) => Promise<void>,
  signal?: AbortSignal,
): Promise<void> {
  const ends = await kafka.ask((admin) => admin.fetchTopicOffsets(topic));
  const startOf = (partition: number) => starts.get(partition) ?? 0;
  const spans = ends
    .filter(({ partition, low, high }) => Math.max(Number(low), startOf(partition)) < Number(high))
    .map(({ partition, high }): [number, Span] => [partition, { start: startOf(partition), end: Number(high) }]);
  await readSpans(kafka, topic, new Map(spans), handle, signal);
}

/** Offsets of a partition from `start` up to before `end`. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/**
 * As `readRange`, of the partitions that have a span. Each must have a record at the end of its span or behind it: until there is one it is waited for.
 * `reader` is what the consumer group's name begins with, for people who look at the broker meanwhile.
 */
export async function readSpans(
  kafka: KafkaDoor,
  topic: string,
  spans: ReadonlyMap<number, Span>,
  handle: (records: readonly ReadRecord[]) => Promise<void>,
  signal?: AbortSignal,
  reader = "read",
): Promise<void> {
  if (spans.size === 0) return;
  const startOf = (partition: number) => spans.get(partition)?.start ?? 0;
  const missing = new Map(Array.from(spans, ([partition, { end }]) => [partition, end]));
  const groupId = `${reader}-${randomUUID()}`;
  // Started again by itself, it would read on with nobody left to end it.
  const retry = { retries: 5, restartOnFailure: async () => false };
  const consumer = kafka.client.consumer({ groupId, maxWaitTimeInMs: 100, allowAutoTopicCreation: false, retry });
  try {
    await connect(consumer, topic);
    if (!signal?.aborted) await run(consumer, topic, { missing, startOf, handle }, signal);
    if (signal?.aborted) throw new Unavailable("kafka");
  } finally {
    await consumer.disconnect();
    // A group that is left behind is forgotten by the broker in its own time.
    await kafka.ask((admin) => admin.deleteGroups([groupId])).catch(() => undefined);
  }
}

async function connect(consumer: Consumer, topic: string): Promise<void> {
  try {
    await consumer.connect();
    await consumer.subscribe({ topics: [topic], fromBeginning: true });
  } catch (error) {
    throw new Unavailable("kafka", error);
  }
}

interface Reading {
  /** The ends of the partitions that are not read through. */
  readonly missing: Map<number, number>;
  readonly startOf: (partition: number) => number;
  readonly handle: (records: readonly ReadRecord[]) => Promise<void>;
}

/** Resolves when everything is read, and some time after the signal is aborted. */
async function run(
  consumer: Consumer,
  topic: string,
  { missing, startOf, handle }: Reading,
  signal: AbortSignal | undefined,
): Promise<void> {
  const over = new AbortController();
  const failures: unknown[] = [];
  const fail = (error: unknown) => {
    failures.push(error);
    over.abort();
  };
  const readUpTo = (partition: number, offset: string) => {
    if (Number(offset) + 1 >= (missing.get(partition) ?? Number.POSITIVE_INFINITY)) missing.delete(partition);
    if (missing.size === 0) over.abort();
  };
  consumer.on(consumer.events.CRASH, ({ payload }) => fail(new Unavailable("kafka", payload.error)));
  // Nobody is handed what holds no data, such as the ends of transactions at the end of a partition.
  consumer.on(consumer.events.END_BATCH_PROCESS, ({ payload }) => {
    if (payload.batchSize === 0) readUpTo(payload.partition, payload.lastOffset);
  });
  // Whatever the signal says: kafkajs does not end a consumer that is joining its group, and that one would then go on for ever.
  await consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch }) => {
      const { partition } = batch;
      const end = missing.get(partition);
      if (end === undefined || over.signal.aborted) return;
      // A fetch that was under way before the seek brings older ones.
      const isWanted = ({ offset }: KafkaMessage) => Number(offset) >= startOf(partition) && Number(offset) < end;
      try {
        await handle(batch.messages.filter(isWanted).map((message) => ({ ...message, partition })));
      } catch (error) {
        fail(error);
        return;
      }
      readUpTo(partition, batch.lastOffset());
    },
  });
  for (const partition of missing.keys()) {
    if (startOf(partition) > 0) consumer.seek({ topic, partition, offset: String(startOf(partition)) });
  }
  await aborted(signal === undefined ? over.signal : AbortSignal.any([over.signal, signal]));
  if (failures.length > 0) throw failures[0];
}
