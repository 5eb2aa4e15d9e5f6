/**
 * The yardstick: the same bytes through kafkajs as its documentation shows it, one topic, one hop.
 *
 * One `send` for each message, as it comes; a consumer that takes batches and commits nothing while it works (its default, a commit after every
 * batch, is some twenty times slower and would only measure that).
 */
import { randomUUID } from "node:crypto";
import type { Histogram } from "hdr-histogram-js";
import { Kafka, logLevel } from "kafkajs";
import { latencyHistogram, openLoop } from "./open-loop.ts";

const keys = 64;
const settleMs = 2_000;

export interface HopLoad {
  readonly brokers: readonly string[];
  readonly ratePerSecond: number;
  readonly seconds: number;
  readonly bytes: number;
  readonly partitions: number;
}

/** Latency from the intended send to the handler, in microseconds. */
export async function bareKafkajsHop(load: HopLoad): Promise<Histogram> {
  const kafka = new Kafka({ clientId: "bare", brokers: [...load.brokers], logLevel: logLevel.NOTHING });
  const topic = `bare-${randomUUID()}`;
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic, numPartitions: load.partitions }], waitForLeaders: true });
  await admin.disconnect();

  const histogram = latencyHistogram();
  const consumer = kafka.consumer({ groupId: topic, maxWaitTimeInMs: 100 });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  const joined = new Promise<void>((resolve) => consumer.on(consumer.events.GROUP_JOIN, () => resolve()));
  await consumer.run({
    autoCommit: false,
    partitionsConsumedConcurrently: load.partitions,
    eachBatch: async ({ batch, resolveOffset }) => {
      for (const { value, offset } of batch.messages) {
        if (value !== null) recordSince(histogram, value.readDoubleBE(0));
        resolveOffset(offset);
      }
    },
  });
  await joined;
  const producer = kafka.producer({ idempotent: false, allowAutoTopicCreation: false });
  await producer.connect();
  const total = await openLoop(load.ratePerSecond, load.seconds, (index, intendedMs) => {
    const value = payload(load.bytes, intendedMs);
    void producer.send({ topic, acks: -1, messages: [{ key: String(index % keys), value }] });
  });
  const until = performance.now() + settleMs;
  while (histogram.totalCount < total && performance.now() < until) await new Promise((r) => setTimeout(r, 20));
  await Promise.all([producer.disconnect(), consumer.disconnect()]);
  return histogram;
}

/** `bytes` of noise that begin with the intended time. */
export function payload(bytes: number, intendedMs: number): Buffer {
  const value = Buffer.alloc(bytes, 0x61);
  value.writeDoubleBE(intendedMs, 0);
  return value;
}

export function recordSince(histogram: Histogram, intendedMs: number): void {
  histogram.recordValue(Math.max(1, Math.round((performance.now() - intendedMs) * 1000)));
}
