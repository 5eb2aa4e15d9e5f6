/**
 * Whether a Kafka is there, for whoever starts one.
 */
import { Kafka, logLevel } from "kafkajs";
import { quietRequestQueue } from "./kafkajs-timer.ts";

const answerMsMax = 3_000;

/**
 * `coordinator`: also wait for the one of consumer groups, so that the first consumer does not meet one that is still
 * loading. Only for a broker of ours, because the question makes the broker create its offsets topic.
 */
export async function askKafka(brokers: readonly string[], options: { coordinator: boolean }): Promise<void> {
  quietRequestQueue();
  const kafka = new Kafka({
    clientId: "sealpost-stack",
    brokers: [...brokers],
    logLevel: logLevel.NOTHING,
    connectionTimeout: answerMsMax,
    requestTimeout: answerMsMax,
    retry: { retries: 0 },
  });
  const admin = kafka.admin();
  try {
    await admin.connect();
    const cluster = await admin.describeCluster();
    if (cluster.brokers.length === 0) throw new Error("The cluster has no broker yet.");
    if (options.coordinator) await admin.describeGroups(["sealpost-stack"]);
  } finally {
    await admin.disconnect();
  }
}
