/**
 * Topics from their declarations: made where they are missing, and compared with what is there.
 *
 * Promise: nothing that exists is ever changed or deleted here. A partition count is fixed once there is data (a key would move), and
 * a retention that somebody set on a running cluster is for a person to change back. The one exception is asked for by name: `applyRetention`, for what the
 * configuration decides.
 */
import kafkajs, { type Admin } from "kafkajs";
import { Unavailable } from "../protocol/refusal.ts";
import { backoffMs, pause } from "./backoff.ts";
import { catalogue } from "./catalogue.ts";
import type { KafkaDoor } from "./kafka.ts";
import { deadLetterTopicName, type Topic } from "./topic.ts";

export interface TopicLayout {
  /** 8 in development (kafkajs names every partition in every fetch), 64 in production. */
  readonly partitions?: number;
  /** Copies of each record: 1 in development, 3 in production. With three, two must have what is acknowledged. */
  readonly replicas?: number;
  readonly topics?: readonly Topic<unknown>[];
}

/** A topic as Kafka is told about it. */
export interface DeclaredTopic {
  readonly name: string;
  readonly partitions: number;
  readonly replicas: number;
  readonly config: Readonly<Record<string, string>>;
}

/** A dead letter is the record it came from and a few headers about it. */
const deadLetterRoomBytes = 64 * 1024;
/** A broker knows of a topic a moment after it was made, and kafkajs asks too early when several topics are made at once. */
const attemptsMax = 5;
const ledMsMax = 60_000;
const deadLettersKeptMs = 30 * 24 * 60 * 60 * 1000;

/** Every topic that must exist, dead letters included. Pure. */
export function declaredTopics(layout: TopicLayout = {}): DeclaredTopic[] {
  const { partitions = 8, replicas = 1, topics = catalogue } = layout;
  const declare = (name: string, retentionMs: number, messageBytesMax: number): DeclaredTopic => ({
    name,
    partitions,
    replicas,
    config: {
      "cleanup.policy": "delete",
      "message.timestamp.type": "LogAppendTime",
      "retention.ms": String(retentionMs),
      "max.message.bytes": String(messageBytesMax),
      ...(replicas > 2 && { "min.insync.replicas": "2" }),
    },
  });
  return topics.flatMap((topic) => {
    const retentionMs = "keptMs" in topic.retention ? topic.retention.keptMs : -1;
    const own = declare(topic.name, retentionMs, topic.messageBytesMax);
    if (!topic.deadLetters) return [own];
    return [own, declare(deadLetterTopicName(topic), deadLettersKeptMs, topic.messageBytesMax + deadLetterRoomBytes)];
  });
}

/** Makes the topics that are missing, and answers their names when each of their partitions has a leader. Rejects with `Unavailable("kafka")`. */
export async function applyTopics(kafka: KafkaDoor, layout: TopicLayout = {}): Promise<string[]> {
  const declared = declaredTopics(layout);
  const made = new Set<string>();
  for (let attempt = 0; ; attempt++) {
    try {
      await kafka.ask((admin) => createMissing(admin, declared, made));
      break;
    } catch (error) {
      if (attempt + 1 === attemptsMax) throw error;
      await pause(backoffMs(attempt));
    }
  }
  for (const name of made) await untilLed(kafka, name);
  return Array.from(made);
}

/**
 * Resolves when each partition of the topic has its leader; rejects with `Unavailable("kafka")` after a minute. Kafka knows of a topic, and of its leaders, before
 * they take their places: seconds later where many are made at once on a machine that is busy.
 */
export async function untilLed(kafka: KafkaDoor, name: string): Promise<void> {
  for (const until = performance.now() + ledMsMax; ; await pause(backoffMs(0))) {
    try {
      await kafka.ask((admin) => admin.fetchTopicOffsets(name));
      return;
    } catch (error) {
      if (performance.now() > until) throw error;
    }
  }
}

async function createMissing(admin: Admin, declared: readonly DeclaredTopic[], made: Set<string>): Promise<void> {
  const existing = new Set(await admin.listTopics());
  const missing = declared.filter(({ name }) => !existing.has(name));
  if (missing.length === 0) return;
  const { brokers } = await admin.describeCluster();
  const copies = Math.max(...missing.map(({ replicas }) => replicas));
  if (brokers.length < copies)
    throw new Error(`Kafka has ${brokers.length} brokers, and ${copies} copies of each record are asked for`);
  for (const { name } of missing) made.add(name);
  await admin.createTopics({
    waitForLeaders: true,
    topics: missing.map((topic) => ({
      topic: topic.name,
      numPartitions: topic.partitions,
      replicationFactor: topic.replicas,
      configEntries: Object.entries(topic.config).map(([name, value]) => ({ name, value })),
    })),
  });
}

/** `retention.ms` as it was and as it is declared; `left` where it would have become shorter and nobody said that it shall. */
export interface RetentionApplied {
  readonly was: string;
  readonly wanted: string;
  readonly outcome: "same" | "changed" | "left";
}

/**
 * Gives a topic that is there the retention that is declared; what else was set on it stays. Lengthens by itself. A shorter one deletes records at once, a
 * legal hold's too: only where `mayShorten`. Rejects with `Unavailable("kafka")`.
 */
export async function applyRetention(
  kafka: KafkaDoor,
  topic: Topic<unknown>,
  { mayShorten = false }: { readonly mayShorten?: boolean } = {},
): Promise<RetentionApplied> {
  const [declared] = declaredTopics({ topics: [{ ...topic, deadLetters: false }] });
  const name = "retention.ms";
  const wanted = declared?.config[name];
  if (wanted === undefined) throw new Error("a topic is declared without a retention");
  return kafka.ask(async (admin) => {
    const of = { type: kafkajs.ConfigResourceTypes.TOPIC, name: topic.name };
    const { resources } = await admin.describeConfigs({ includeSynonyms: false, resources: [of] });
    const entries = resources[0]?.configEntries ?? [];
    const was = entries.find(({ configName }) => configName === name)?.configValue ?? "";
    if (was === wanted) return { was, wanted, outcome: "same" };
    if (!mayShorten && keptMs(wanted) < keptMs(was)) return { was, wanted, outcome: "left" };
    // Kafka takes all settings of a topic at once, and forgets those that are left out.
    const kept = entries
      .filter(
        ({ configName, configSource }) => configSource === kafkajs.ConfigSource.TOPIC_CONFIG && configName !== name,
      )
      .map(({ configName, configValue }) => ({ name: configName, value: configValue }));
    await admin.alterConfigs({
      validateOnly: false,
      resources: [{ ...of, configEntries: [...kept, { name, value: wanted }] }],
    });
    return { was, wanted, outcome: "changed" };
  });
}

/** -1 is for ever. */
function keptMs(setting: string): number {
  return setting === "-1" ? Number.POSITIVE_INFINITY : Number(setting);
}

/**
 * Compares what is there with what is declared; answers every difference in words, for a person, and nothing when all is well. More
 * partitions than declared are no difference: the declaration is the least.
 *
 * Rejects with `Unavailable("kafka")`.
 */
export async function checkTopics(kafka: KafkaDoor, layout: TopicLayout = {}): Promise<string[]> {
  const declared = declaredTopics(layout);
  return kafka.ask(async (admin) => {
    const existing = new Set(await admin.listTopics());
    const present = declared.filter(({ name }) => existing.has(name));
    const differences = declared.filter(({ name }) => !existing.has(name)).map(({ name }) => `${name} is missing`);
    if (present.length === 0) return differences;
    const [{ topics }, { resources }] = await Promise.all([
      admin.fetchTopicMetadata({ topics: present.map(({ name }) => name) }),
      admin.describeConfigs({
        includeSynonyms: false,
        resources: present.map(({ name, config }) => ({
          type: kafkajs.ConfigResourceTypes.TOPIC,
          name,
          configNames: Object.keys(config),
        })),
      }),
    ]);
    for (const topic of present) {
      const found = topics.find(({ name }) => name === topic.name);
      const entries = resources.find(({ resourceName }) => resourceName === topic.name)?.configEntries ?? [];
      if (found === undefined) throw new Unavailable("kafka");
      if (found.partitions.length < topic.partitions) {
        differences.push(`${topic.name} has ${found.partitions.length} partitions, declared are ${topic.partitions}`);
      }
      const copies = Math.min(...found.partitions.map(({ replicas }) => replicas.length));
      if (copies < topic.replicas) {
        differences.push(`${topic.name} has ${copies} copies of each record, declared are ${topic.replicas}`);
      }
      for (const [name, value] of Object.entries(topic.config)) {
        const actual = entries.find(({ configName }) => configName === name)?.configValue;
        if (actual !== value) differences.push(`${topic.name} has ${name}=${actual}, declared is ${value}`);
      }
    }
    return differences;
  });
}
