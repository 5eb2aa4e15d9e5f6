/**
 * A whole house of its own for an end-to-end test: four real servers, the service in processes, agents that use the SDK.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import pino from "pino";
import { type ServiceOptions, type ServiceProcess, startService } from "../bin/service-process.ts";
import { type Stack, startStack } from "../infra/local/stack.ts";
import { Agent } from "../sdk/agent.ts";
import type { Keyring } from "../store/keyring/keyring.ts";
import { createKeyring, openKeyring } from "../store/keyring/keyring-file.ts";
import { openRootFile } from "../store/keyring/root-file.ts";
import { openPostgres } from "../store/postgres.ts";
import { openPresence } from "../store/presence.ts";
import { openRedis, redisReady } from "../store/redis.ts";
import { type Codec, openCodec } from "../streams/codec.ts";
import { type KafkaDoor, openKafka } from "../streams/kafka.ts";
import { type ReadRecord, readTopic } from "../streams/read-topic.ts";
import type { Topic } from "../streams/topic.ts";
import type { KafkaCluster } from "./kafka-cluster.ts";

export const consumerParts = [
  "encryption",
  "queuing",
  "routing",
  "acks",
  "receipts",
  "push",
  "sessions",
  "metering",
  "audit",
  "relay",
  "jobs",
];

export interface House {
  readonly stack: Stack;
  /** A folder for the agents' stores. */
  readonly folder: string;
  readonly kafka: KafkaDoor;
  readonly codec: Codec;
  /** The keyring of all its processes; the caller's to close. */
  openKeyring(): Keyring;
  /** Every service process that was started. */
  readonly services: readonly ServiceProcess[];
  start(options: ServiceOptions): Promise<ServiceProcess>;
  /** Opens the agent of this name; closed with the house if it is not before. */
  agent(name: string, url: string, custody?: "agent" | "server"): Promise<Agent>;
  /** Everything that stands in a topic now, decoded; what cannot be decoded is left out. */
  read<T>(topic: Topic<T>): Promise<readonly (ReadRecord & { readonly decoded: T })[]>;
  /** How many records of these topics this consumer has not applied yet. */
  behind(consumer: string, topics: readonly Pick<Topic<unknown>, "name">[]): Promise<number>;
  /** Until nobody counts as connected for the agent: whoever closes its connection does for a moment longer. */
  away(agentId: string): Promise<void>;
  close(): Promise<void>;
}

/** On the brokers of `cluster`, which is the caller's to stop; without it Kafka is one of the house's own servers. */
export async function openHouse({ cluster }: { readonly cluster?: KafkaCluster } = {}): Promise<House> {
  const given = cluster === undefined ? {} : { SEALPOST_KAFKA_BROKERS: cluster.brokers.join(",") };
  const stack = await startStack({ env: { ...withoutServers(process.env), ...given }, ephemeral: true });
  const folder = await mkdtemp(path.join(tmpdir(), "sealpost-house-"));
  const keyring = {
    SEALPOST_KEYRING_FILE: path.join(folder, "keyring"),
    SEALPOST_KEYRING_ROOT_FILE: path.join(folder, "root"),
  };
  createKeyring(keyring.SEALPOST_KEYRING_FILE, openRootFile(keyring.SEALPOST_KEYRING_ROOT_FILE));
  const services: ServiceProcess[] = [];
  const agents = new Set<Agent>();
  const log = pino({ level: "silent" });
  const kafka = openKafka({ brokers: stack.urls.kafkaBrokers, clientId: "house", log });
  const codec = await openCodec({ registryUrl: stack.urls.registryUrl, register: true });
  return {
    stack,
    folder,
    kafka,
    codec,
    openKeyring: () => openKeyring(keyring.SEALPOST_KEYRING_FILE, openRootFile(keyring.SEALPOST_KEYRING_ROOT_FILE)),
    services,
    start: async (options) => {
      const service = await startService(stack.urls, {
        ...options,
        env: { ...keyring, ...cluster?.env, ...options.env },
      });
      services.push(service);
      return service;
    },
    agent: async (name, url, custody = "agent") => {
      const agent = await Agent.open({ url, storePath: path.join(folder, `${name}.db`), custody });
      agents.add(agent);
      return agent;
    },
    read: async (topic) => {
      const records = await readTopic(kafka, topic.name);
      await codec.learn(records.map(({ value }) => value));
      return records.flatMap((record) => {
        try {
          return [{ ...record, decoded: codec.decode(topic, record.value) }];
        } catch {
          return [];
        }
      });
    },
    behind: async (consumer, topics) => {
      const postgres = openPostgres(stack.urls.postgresUrl, { connectionsMax: 1 });
      const { rows } = await postgres.query<{ topic: string; part: number; next_offset: number }>({
        text: "SELECT topic, part, next_offset FROM consumer_positions WHERE grp = $1",
        values: [consumer],
      });
      await postgres.close();
      const next = new Map(rows.map(({ topic, part, next_offset }) => [`${topic} ${part}`, Number(next_offset)]));
      const counts = topics.map(async ({ name }) => {
        const ends = await kafka.ask((admin) => admin.fetchTopicOffsets(name));
        return ends.map(({ partition, high }) => Number(high) - (next.get(`${name} ${partition}`) ?? 0));
      });
      return (await Promise.all(counts)).flat().reduce((sum, count) => sum + count, 0);
    },
    away: async (agentId) => {
      const redis = openRedis(stack.urls.redisUrl);
      await redisReady(redis, 30_000);
      const { lookup } = openPresence(redis);
      await eventually("it counts as away", async () => !(await lookup([agentId])).has(agentId));
      redis.close();
    },
    close: async () => {
      await Promise.allSettled([...agents].map((agent) => agent.close()));
      await Promise.allSettled(services.map((service) => service.kill()));
      await kafka.close();
      await stack.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Servers that somebody named in the environment are not ours to fill, to stop or to kill. */
function withoutServers(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !/^SEALPOST_.*_(URL|BROKERS)$/.test(name)));
}

/** Where the process serves operators, as its log says. */
export function operatorsUrlOf(service: ServiceProcess): string {
  const line = service
    .output()
    .split("\n")
    .find((one) => one.includes("operators are served"));
  if (line === undefined) throw new Error("the process serves no operators");
  return (JSON.parse(line) as { readonly url: string }).url;
}

/** Looks until `done` says so. The default is for a machine that is busy. @throws Error with `what` after `msMax`. */
export async function eventually(what: string, done: () => boolean | Promise<boolean>, msMax = 60_000): Promise<void> {
  const until = performance.now() + msMax;
  while (!(await done())) {
    if (performance.now() > until) throw new Error(`not within ${msMax} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** Takes so many messages of the inbox, and acknowledges them: what they say. Fewer when they do not come in time. */
export async function takeTexts(agent: Agent, count: number, msMax = 60_000): Promise<string[]> {
  const taken: string[] = [];
  for await (const message of agent.inbox({ signal: AbortSignal.timeout(msMax) })) {
    taken.push(message.text());
    await message.ack();
    if (taken.length === count) break;
  }
  return taken;
}
