/**
 * The fetching side of a consumer: one kafkajs consumer, from its connection to its crash, and all we know about it.
 *
 * - A fetch brings batches of several partitions; `eachBatch` is called for each at once, and the next fetch begins when all have ended.
 *   A batch that is not resolved is fetched again from the same offset.
 * - GROUP_JOIN is emitted before the first fetch but does not hold it up: `onAssigned` comes before the batches of its assignment, and
 *   whatever it starts may end after.
 * - A seek counts from the next fetch on, and without auto-commit it costs nothing.
 * - Nothing heartbeats while `eachBatch` works, so it is done here; what a heartbeat throws (a rebalance, most often) must leave
 *   `eachBatch`, nothing else may: anything thrown ends the whole fetch and in the end the consumer.
 * - An offset out of range is answered by a silent jump to the log's start: `fetchedOffset` tells (see `log-range.ts`).
 */
import type { Consumer, EachBatchPayload } from "kafkajs";
import { Unavailable } from "../protocol/refusal.ts";
import type { Pace, PartitionId } from "./consumer.ts";
import type { KafkaDoor, KafkaMessage } from "./kafka.ts";

/** What a fetch brought of one partition. */
export interface FetchedBatch extends PartitionId {
  /** Where the fetch started. */
  readonly fetchedOffset: number;
  /** In order; never empty. */
  readonly messages: readonly KafkaMessage[];
  /** The offset behind the batch, control records at its end included. */
  readonly nextOffset: number;
  /** The offset behind the partition's last record. */
  readonly highWatermark: number;
}

export interface SubscriptionEvents {
  /** The group has met: these partitions are ours until the next call. Must not throw. */
  onAssigned(partitions: readonly PartitionId[]): void;
  /**
   * Resolves to true when the batch is done with, to false when its records shall be fetched again (from where a seek says). The signal
   * tells that the partition is about to be taken away: end what runs, begin nothing. Must not reject.
   */
  onBatch(batch: FetchedBatch, lost: AbortSignal): Promise<boolean>;
  /** Everything up to `nextOffset` was fetched and held no data. */
  onSkipped(partition: PartitionId, nextOffset: number): void;
  /** The consumer has ended by itself and will not come back. */
  onCrash(error: unknown): void;
}

/** Orders are for the next fetch. One that comes after the consumer's end, of which `onCrash` tells a little later, does nothing. */
export interface Subscription {
  seek(partition: PartitionId, offset: number): void;
  pause(partition: PartitionId): void;
  resume(partition: PartitionId): void;
  /** Offsets for the coordinator, and a note beside each; resolves when it has them. Rejects with `Unavailable("kafka")`. */
  commit(offsets: readonly (PartitionId & { readonly nextOffset: number })[], note?: string): Promise<void>;
  /** Leaves the group; waits for batches under way. Never rejects. */
  close(): Promise<void>;
}

export interface SubscriptionOptions {
  readonly group: string;
  readonly topics: readonly string[];
  readonly pace?: Pace | undefined;
  readonly sessionMs: number;
}

const heartbeatMs = 1_000;
const consumerSettings = {
  heartbeatInterval: heartbeatMs,
  // How long a rebalance waits for a step under way.
  rebalanceTimeout: 30_000,
  // Small batches: a step takes what it can, and nothing is fetched twice when the partitions move.
  maxBytesPerPartition: 256 * 1024,
  allowAutoTopicCreation: false,
  retry: { initialRetryTime: 100, maxRetryTime: 2_000, retries: 5, restartOnFailure: async () => false },
};
/** A seek and a resume count from the next fetch on: it must not be far. */
const unpaced: Pace = { bytesMin: 1, waitMsMax: 250 };

/** Joins the group. Rejects with `Unavailable("kafka")`; after that every end comes through `onCrash`. */
export async function subscribe(
  kafka: KafkaDoor,
  { group, topics, sessionMs, pace = unpaced }: SubscriptionOptions,
  events: SubscriptionEvents,
): Promise<Subscription> {
  const consumer = kafka.client.consumer({
    ...consumerSettings,
    groupId: group,
    sessionTimeout: sessionMs,
    minBytes: pace.bytesMin,
    maxWaitTimeInMs: pace.waitMsMax,
  });
  let running: Promise<void>;
  try {
    const { topics: described } = await kafka.ask((admin) => admin.fetchTopicMetadata({ topics: [...topics] }));
    const partitionCount = described.reduce((sum, { partitions }) => sum + partitions.length, 0);
    await consumer.connect();
    await consumer.subscribe({ topics: [...topics], fromBeginning: true });
    listen(consumer, events);
    // Resolves when the group was joined or the consumer has crashed, so it is not waited for.
    running = consumer
      .run({
        autoCommit: false,
        eachBatchAutoResolve: false,
        partitionsConsumedConcurrently: partitionCount,
        eachBatch: (payload) => handle(payload, events),
      })
      .catch(events.onCrash);
  } catch (error) {
    await consumer.disconnect().catch(() => undefined);
    throw new Unavailable("kafka", error);
  }
  return over(consumer, running);
}

function listen(consumer: Consumer, events: SubscriptionEvents): void {
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    const assigned = Object.entries(payload.memberAssignment);
    events.onAssigned(assigned.flatMap(([topic, partitions]) => partitions.map((partition) => ({ topic, partition }))));
  });
  consumer.on(consumer.events.END_BATCH_PROCESS, ({ payload }) => {
    if (payload.batchSize === 0) events.onSkipped(payload, Number(payload.lastOffset) + 1);
  });
  consumer.on(consumer.events.CRASH, ({ payload }) => events.onCrash(payload.error));
}

async function handle(payload: EachBatchPayload, events: SubscriptionEvents): Promise<void> {
  const { batch, heartbeat, resolveOffset } = payload;
  const last = batch.messages.at(-1);
  if (last === undefined) return;
  const lost = new AbortController();
  const outcome = events.onBatch(
    {
      topic: batch.topic,
      partition: batch.partition,
      fetchedOffset: Number((batch as typeof batch & { readonly fetchedOffset: string }).fetchedOffset),
      messages: batch.messages,
      nextOffset: Number(batch.lastOffset()) + 1,
      highWatermark: Number(batch.highWatermark),
    },
    lost.signal,
  );
  let reason: { readonly error: unknown } | null = null;
  const beat = setInterval(() => {
    heartbeat().catch((error: unknown) => {
      reason ??= { error };
      lost.abort();
    });
  }, heartbeatMs);
  const done = await outcome.finally(() => clearInterval(beat));
  // kafkajs knows what follows the last record of a batch without being data.
  if (done) resolveOffset(last.offset);
  if (reason !== null) throw (reason as { readonly error: unknown }).error;
}

/** `joined` resolves when the consumer has joined its group or has crashed. */
function over(consumer: Consumer, joined: Promise<void>): Subscription {
  const paused = new Set<string>();
  let isOver = false;
  consumer.on(consumer.events.STOP, () => {
    isOver = true;
  });
  // An ended consumer would throw, at timers and at others whom the crash does not concern.
  const order = (give: () => void) => {
    if (!isOver) give();
  };
  const nameOf = ({ topic, partition }: PartitionId) => `${topic} ${partition}`;
  return {
    seek: ({ topic, partition }, offset) => order(() => consumer.seek({ topic, partition, offset: String(offset) })),
    pause: (id) => {
      paused.add(nameOf(id));
      order(() => consumer.pause([{ topic: id.topic, partitions: [id.partition] }]));
    },
    resume: (id) => {
      if (paused.delete(nameOf(id))) order(() => consumer.resume([{ topic: id.topic, partitions: [id.partition] }]));
    },
    commit: async (offsets, note) => {
      // A consumer that has ended resolves all the same: only the event says that the coordinator has them.
      let isCommitted = false;
      const unhear = consumer.on(consumer.events.COMMIT_OFFSETS, () => {
        isCommitted = true;
      });
      try {
        await consumer.commitOffsets(
          offsets.map(({ topic, partition, nextOffset }) => {
            return { topic, partition, offset: String(nextOffset), metadata: note ?? null };
          }),
        );
      } catch (error) {
        throw new Unavailable("kafka", error);
      } finally {
        unhear();
      }
      if (!isCommitted) throw new Unavailable("kafka");
    },
    close: async () => {
      // kafkajs does not end a consumer that is joining: it would keep its partitions from everybody for ever.
      await joined;
      await consumer.disconnect().catch(() => undefined);
    },
  };
}
