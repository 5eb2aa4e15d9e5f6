/**
 * What publishing in transactions costs: the same steps' rows, published plainly and in transactions, in turn, one step after the other as a runner
 * does. A row is done when readers of committed records can read it.
 */
import { randomBytes, randomUUID } from "node:crypto";
import pino from "pino";
import type { Stack } from "../infra/local/stack.ts";
import { messageDelivered } from "../streams/catalogue.ts";
import type { OutboxRow } from "../streams/consumer.ts";
import { openKafka } from "../streams/kafka.ts";
import { openProducer } from "../streams/producer.ts";
import { type Publisher, plainPublisher } from "../streams/publisher.ts";
import { applyTopics } from "../streams/topics.ts";
import { openTransactions } from "../streams/transactions.ts";
import { cpuOfServers, cpuPer1000, ownCpuSeconds } from "./cpu.ts";
import { type LatencySummary, latencyHistogram, summarise } from "./open-loop.ts";

export interface TransactionsRun {
  readonly how: "plain" | "transactions";
  readonly rowsPerStep: number;
  readonly rowsPerSecond: number;
  /** Of a step, from its commit to what readers can read. */
  readonly latency: LatencySummary;
  /** CPU seconds per 1,000 rows: of the publisher and of Kafka. */
  readonly cpuPer1000: Readonly<Record<string, number>>;
}

/** As many as the service has by default: one transaction each in a step that has rows of all. */
const inputPartitions = 8;
const rowBytes = 300;
const rowsPerStep = [8, 80, 480];
const rounds = 2;

export async function benchTransactions(stack: Stack, seconds: number): Promise<readonly TransactionsRun[]> {
  const log = pino({ level: "silent" });
  const group = `bench-${randomUUID()}`;
  const topics = ["delivered", "acknowledged"].map((name) => ({
    ...messageDelivered,
    name: `${group}.${name}`,
    schema: messageDelivered.name,
  }));
  const input = { ...messageDelivered, name: `${group}.in`, schema: messageDelivered.name };
  const kafka = openKafka({ brokers: stack.urls.kafkaBrokers, clientId: "bench", log });
  await applyTopics(kafka, { partitions: inputPartitions, topics: [input, ...topics] });
  const producer = openProducer({ kafka, log });
  const transactions = openTransactions({ kafka, group, log, failpoints: { hit: () => undefined } });
  const ways = [
    ["plain", plainPublisher(producer)],
    ["transactions", transactions],
  ] as const;
  let offset = 0;

  function stepOf(count: number): OutboxRow[] {
    return Array.from({ length: count }, (_, index) => ({
      inputTopic: input.name,
      inputPartition: index % inputPartitions,
      inputOffset: offset++,
      n: 0,
      topic: topics[index % 2]?.name ?? "",
      key: `key-${index % 64}`,
      value: randomBytes(rowBytes),
      headers: { ce_id: randomUUID() },
    }));
  }

  async function run(how: TransactionsRun["how"], publisher: Publisher, count: number): Promise<TransactionsRun> {
    const histogram = latencyHistogram();
    // The first step opens what the others find open, and the first of all waits for Kafka to make the topic it keeps transactions in.
    const warm = stepOf(count);
    while (!(await isPublished(publisher, warm)));
    const before = cpuNow(stack);
    const startedAt = performance.now();
    let rows = 0;
    while (performance.now() - startedAt < seconds * 1_000) {
      const step = stepOf(count);
      const from = performance.now();
      await publisher.publish(step);
      histogram.recordValue(Math.max(1, Math.round((performance.now() - from) * 1_000)));
      rows += count;
    }
    const spent = performance.now() - startedAt;
    return {
      ...{ how, rowsPerStep: count, rowsPerSecond: Math.round((rows / spent) * 1_000) },
      ...{ latency: summarise(histogram), cpuPer1000: cpuPer1000(before, cpuNow(stack), rows) },
    };
  }

  const runs: TransactionsRun[] = [];
  for (const count of rowsPerStep) {
    for (let round = 0; round < rounds; round += 1) {
      for (const [how, publisher] of ways) runs.push(await run(how, publisher, count));
    }
  }
  await transactions.close();
  await producer.close();
  await kafka.close();
  return runs;
}

async function isPublished(publisher: Publisher, rows: readonly OutboxRow[]): Promise<boolean> {
  try {
    await publisher.publish(rows);
    return true;
  } catch {
    await new Promise((resolve) => setTimeout(resolve, 200));
    return false;
  }
}

function cpuNow(stack: Stack): Record<string, number> {
  return { publisher: ownCpuSeconds(process.pid), kafka: cpuOfServers(stack)["kafka"] ?? 0 };
}
