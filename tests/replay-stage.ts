/** The stage of a replay's tests: a topic of its own in the real Kafka, a log that signs, and a folder. */
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import pino from "pino";
import { afterAll, beforeAll } from "vitest";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import type { ReplayDeps } from "../replay/replay.ts";
import type { AuditRecord } from "../schemas/values.ts";
import { auditRecord } from "../streams/catalogue.ts";
import { type Codec, openCodec } from "../streams/codec.ts";
import { toOutgoing } from "../streams/headers.ts";
import { type KafkaDoor, openKafka } from "../streams/kafka.ts";
import { openProducer, type Producer } from "../streams/producer.ts";
import type { Topic } from "../streams/topic.ts";
import { applyTopics, declaredTopics } from "../streams/topics.ts";
import { RECORDS_BEGIN } from "./audit-records.ts";
import { SignedLog } from "./signed-log.ts";
import { uniqueName, useStack } from "./stack.ts";

const PARTITIONS = 4;
const log = pino({ level: "silent" });

export interface ReplayStage {
  readonly kafka: KafkaDoor;
  readonly producer: Producer;
  /** A new folder, which is not there yet. */
  readonly newFolder: () => string;
}

export function useReplayStage(): () => ReplayStage {
  let stage: (ReplayStage & { readonly root: string }) | null = null;
  let folders = 0;
  beforeAll(async () => {
    const kafka = openKafka({ brokers: useStack().kafkaBrokers, clientId: "replay-test", log });
    const root = await mkdtemp(path.join(os.tmpdir(), "sealpost-replay-"));
    const newFolder = () => path.join(root, String(++folders));
    stage = { kafka, root, newFolder, producer: openProducer({ kafka, log }) };
  });
  afterAll(async () => {
    await stage?.producer.close();
    await stage?.kafka.close();
    if (stage !== null) await rm(stage.root, { recursive: true, force: true });
  });
  return () => {
    if (stage === null) throw new Error("the stage opens before all tests");
    return stage;
  };
}

export interface ReplayScene {
  readonly topic: Topic<AuditRecord>;
  readonly codec: Codec;
  readonly signed: SignedLog;
  readonly deps: ReplayDeps;
  /** Into Kafka, in this order. */
  publish(records: readonly AuditRecord[]): Promise<void>;
  /** As if they had been appended at these times (`hasOwnTimes`); each in the partition of its place. */
  publishAt(records: readonly AuditRecord[], appendedMs: (record: AuditRecord) => number): Promise<void>;
}

/** A topic and a log that nobody else uses. The clock stands far behind every record. */
export async function openReplayScene({ kafka, producer }: ReplayStage, hasOwnTimes = false): Promise<ReplayScene> {
  const topic: Topic<AuditRecord> = { ...auditRecord, name: uniqueName("audit"), schema: auditRecord.name };
  if (hasOwnTimes) await makeWithOwnTimes(kafka, topic);
  else await applyTopics(kafka, { topics: [topic], partitions: PARTITIONS });
  const codec = await openCodec({ registryUrl: useStack().registryUrl, register: true, topics: [topic] });
  const signed = new SignedLog();
  const outgoing = (value: AuditRecord) => {
    const { eventId: id, agentId: key, occurredAt: time } = value;
    return toOutgoing(codec, { topic, key, id, source: "/sealpost/audit", subject: key, time, value });
  };
  return {
    ...{ topic, codec, signed },
    deps: {
      ...{ kafka, codec, topic, log: signed, proving: nodePrimitives },
      signal: new AbortController().signal,
      progress: () => undefined,
      now: () => Date.UTC(2200, 0, 1),
    },
    async publish(records) {
      await producer.append(records.map(outgoing));
    },
    async publishAt(records, appendedMs) {
      const messages = records.map((record) => {
        const { key, value, headers } = outgoing(record);
        const partition = record.logIndex % PARTITIONS;
        const timestamp = String(Math.floor(appendedMs(record)));
        return { key: Buffer.from(key), value: Buffer.from(value), headers: { ...headers }, partition, timestamp };
      });
      const sender = kafka.client.producer();
      await sender.connect();
      await sender.send({ topic: topic.name, messages }).finally(() => sender.disconnect());
    },
  };
}

/** The topic's times are what its records say, and not when they came: a test cannot wait for hours. From the beginning: brokers learn of a change late. */
async function makeWithOwnTimes(kafka: KafkaDoor, topic: Topic<AuditRecord>): Promise<void> {
  const declared = declaredTopics({ topics: [{ ...topic, deadLetters: false }], partitions: PARTITIONS });
  const topics = declared.map(({ name, partitions, replicas, config }) => ({
    ...{ topic: name, numPartitions: partitions, replicationFactor: replicas },
    configEntries: Object.entries({ ...config, "message.timestamp.type": "CreateTime" }).map(([key, value]) => {
      return { name: key, value };
    }),
  }));
  await kafka.ask((admin) => admin.createTopics({ waitForLeaders: false, topics }));
}

/** Every record that was published lies in the window of such a request: their times are of another year than their appends. */
export const LATE_FOR_EVER = Date.UTC(2100, 0, 1) - RECORDS_BEGIN;
