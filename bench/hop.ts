/**
 * One hop: our producer to our runner (a consumer without state), against bare kafkajs with the same bytes in the same run.
 */
import { randomUUID } from "node:crypto";
import pino from "pino";
import type { StackUrls } from "../infra/local/stack.ts";
import type { MessageEncrypted } from "../schemas/values.ts";
import { messageEncrypted } from "../streams/catalogue.ts";
import { openCodec } from "../streams/codec.ts";
import { toOutgoing } from "../streams/headers.ts";
import { openKafka } from "../streams/kafka.ts";
import { openProducer } from "../streams/producer.ts";
import { runPlainConsumer } from "../streams/runner.ts";
import { noMetrics } from "../streams/runner-options.ts";
import type { Topic } from "../streams/topic.ts";
import { applyTopics } from "../streams/topics.ts";
import { bareKafkajsHop, payload, recordSince } from "./bare-kafkajs.ts";
import { type LatencySummary, latencyHistogram, openLoop, summarise } from "./open-loop.ts";

export interface HopOptions {
  readonly ratePerSecond: number;
  readonly seconds: number;
  readonly bytes: number;
  readonly warmUpSeconds: number;
}

export interface HopResult {
  readonly ratePerSecond: number;
  readonly seconds: number;
  /** Of the Avro value. */
  readonly bytes: number;
  readonly ours: LatencySummary;
  readonly bareKafkajs: LatencySummary;
}

const partitions = 8;
const keys = 64;
const settleMs = 2_000;

export async function benchHop(urls: StackUrls, options: HopOptions): Promise<HopResult> {
  const topic: Topic<MessageEncrypted> = {
    ...messageEncrypted,
    name: `bench-${randomUUID()}`,
    schema: messageEncrypted.name,
  };
  const log = pino({ level: "silent" });
  const kafka = openKafka({ brokers: urls.kafkaBrokers, clientId: "bench", log });
  const codec = await openCodec({ registryUrl: urls.registryUrl, register: true, topics: [topic] });
  await applyTopics(kafka, { partitions, topics: [topic] });
  const producer = openProducer({ kafka, log });
  let histogram = latencyHistogram();
  const runner = runPlainConsumer<MessageEncrypted>(
    {
      name: topic.name,
      reads: [topic],
      react: async (batch) => {
        for (const { value } of batch) recordSince(histogram, Buffer.from(value.body).readDoubleBE(0));
        return [];
      },
    },
    { kafka, codec, appender: producer, log, metrics: noMetrics, onFatal: fail },
  );
  while (!runner.ready()) await pause(20);
  const event = (index: number, intendedMs: number) => {
    const itemId = randomUUID();
    const value: MessageEncrypted = {
      kind: "message",
      itemId,
      senderId: "s".repeat(43),
      recipientId: "r".repeat(43),
      custody: "agent",
      body: payload(options.bytes, intendedMs),
    };
    const key = String(index % keys);
    return toOutgoing(codec, { topic, key, id: itemId, source: "/bench", subject: itemId, time: Date.now(), value });
  };
  const drive = async (ratePerSecond: number, seconds: number) => {
    histogram = latencyHistogram();
    const total = await openLoop(ratePerSecond, seconds, (index, intendedMs) => {
      producer.append([event(index, intendedMs)]).catch(fail);
    });
    const until = performance.now() + settleMs;
    while (histogram.totalCount < total && performance.now() < until) await pause(10);
    return histogram;
  };
  await drive(options.ratePerSecond, options.warmUpSeconds);
  const ours = summarise(await drive(options.ratePerSecond, options.seconds));
  await runner.stop();
  await producer.close();
  const bytes = event(0, 0).value.length;
  await kafka.close();
  const load = { brokers: urls.kafkaBrokers, bytes, partitions };
  await bareKafkajsHop({ ...load, ratePerSecond: options.ratePerSecond, seconds: 5 });
  const bare = await bareKafkajsHop({ ...load, ratePerSecond: options.ratePerSecond, seconds: options.seconds });
  return {
    ratePerSecond: options.ratePerSecond,
    seconds: options.seconds,
    bytes,
    ours,
    bareKafkajs: summarise(bare),
  };
}

function fail(error: unknown): never {
  throw error;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
