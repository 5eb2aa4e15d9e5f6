/**
 * The encryption consumer: from commands that wait in message.send.v1 to envelopes that Kafka has taken into message.encrypted.v1.
 *
 * The load is made and appended before, the same for every run, so that nothing else works while the consumer does: as fast as it can, and with
 * steps as full as they get. Which pair speaks follows Zipf's law (the n-th most talkative says 1/n of what the first says).
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import pino from "pino";
import { encryption } from "../consumers/encryption/encryption.ts";
import type { EncryptionDeps, StateSource } from "../consumers/encryption/sending.ts";
import type { Stack } from "../infra/local/stack.ts";
import type { MessageSend } from "../schemas/values.ts";
import { openAtRest } from "../store/at-rest.ts";
import { openCustodyKeys } from "../store/custody/custody-keys.ts";
import { openStateCache, type StateCache } from "../store/custody/state-cache.ts";
import type { Pair } from "../store/custody/states.ts";
import { openIngressKeys } from "../store/ingress.ts";
import { createKeyring, openKeyring } from "../store/keyring/keyring-file.ts";
import { openRootFile } from "../store/keyring/root-file.ts";
import { migrate } from "../store/migrate.ts";
import { openPostgres } from "../store/postgres.ts";
import { openRedis, redisReady } from "../store/redis.ts";
import { openSteps } from "../store/steps.ts";
import { stepTx, type Tx } from "../store/tx.ts";
import { messageEncrypted } from "../streams/catalogue.ts";
import { openCodec } from "../streams/codec.ts";
import { commandEvent } from "../streams/command-events.ts";
import type { Appender, Outgoing, StepConsumer } from "../streams/consumer.ts";
import { toOutgoing } from "../streams/headers.ts";
import { openKafka } from "../streams/kafka.ts";
import { openProducer } from "../streams/producer.ts";
import { runConsumer } from "../streams/runner.ts";
import { noMetrics } from "../streams/runner-options.ts";
import { applyTopics } from "../streams/topics.ts";
import { cpuOfServers, cpuPer1000, ownCpuSeconds } from "./cpu.ts";
import { type HeldWorld, makeCommand, makeHeldWorld } from "./held-world.ts";
import { type LatencySummary, latencyHistogram, summarise } from "./open-loop.ts";

export interface EncryptionOptions {
  readonly messages: number;
  readonly pairs: number;
  /** Of content. */
  readonly bytes: number;
}

type CacheKind = "none" | "process" | "redis" | "process and redis";

export interface EncryptionRun {
  /** Where states are looked for before the row. */
  readonly cache: CacheKind;
  readonly messagesPerSecond: number;
  /** Of the states that steps needed, the share that a cache had as the row has it. */
  readonly hitRatio: number;
  readonly messagesPerStep: number;
  /** Of one message: `messaging_encryption_duration_seconds`. */
  readonly encryption: LatencySummary;
  /** CPU seconds per 1,000 messages, by process. */
  readonly cpuPer1000: Readonly<Record<string, number>>;
}

/** In this order, so that with and without are measured in turn. The first warms the machine up and is not answered. */
const kinds: readonly CacheKind[] = [
  "process and redis",
  "none",
  "process and redis",
  "process",
  "redis",
  "none",
  "process and redis",
];

const appendMax = 500;
const drainMsMax = 300_000;

export async function benchEncryption(stack: Stack, options: EncryptionOptions): Promise<readonly EncryptionRun[]> {
  const parts = await openParts(stack);
  try {
    const world = await makeHeldWorld(parts, options.pairs);
    const load = await makeLoad(parts, world.pairs, options);
    const runs: EncryptionRun[] = [];
    for (const kind of kinds) runs.push(await run(parts, world, load, kind));
    return runs.slice(1);
  } finally {
    await parts.close();
  }
}

type Parts = Awaited<ReturnType<typeof openParts>>;

async function openParts(stack: Stack) {
  const { urls } = stack;
  await migrate(urls.postgresUrl);
  const folder = mkdtempSync(path.join(tmpdir(), "sealpost-bench-"));
  const roots = openRootFile(path.join(folder, "root"));
  createKeyring(path.join(folder, "keyring"), roots);
  const keyring = openKeyring(path.join(folder, "keyring"), roots);
  const atRest = openAtRest(keyring);
  const keys = openCustodyKeys(keyring, atRest);
  const ingress = openIngressKeys(keyring);
  const postgres = openPostgres(urls.postgresUrl);
  const redis = openRedis(urls.redisUrl);
  if (!(await redisReady(redis, 5_000))) throw new Error("Redis is not there");
  const log = pino({ level: "error" }, pino.destination(2));
  const kafka = openKafka({ brokers: urls.kafkaBrokers, clientId: "bench", log });
  const codec = await openCodec({ registryUrl: urls.registryUrl, register: true });
  await applyTopics(kafka);
  const producer = openProducer({ kafka, log });
  const close = async () => {
    await producer.close();
    await kafka.close();
    redis.close();
    for (const door of [ingress, keys, atRest, keyring, roots]) door.close();
    await postgres.close();
    rmSync(folder, { recursive: true });
  };
  return { stack, keyring, keys, ingress, postgres, redis, log, kafka, codec, producer, close };
}

interface Load {
  /** Every pair has spoken once, as in the hour before; and what is hot is compiled. */
  readonly warmUp: readonly Outgoing[];
  readonly measured: readonly Outgoing[];
}

async function makeLoad(parts: Parts, pairs: readonly Pair[], options: EncryptionOptions): Promise<Load> {
  const body = Buffer.alloc(options.bytes, 0x61);
  const next = zipf(pairs.length);
  const recordOf = async (pair: Pair) =>
    toOutgoing(parts.codec, commandEvent(await makeCommand(parts, pair, body), "/bench"));
  const [warmUp, measured]: Outgoing[][] = [[], []];
  for (const pair of pairs) warmUp?.push(await recordOf(pair));
  for (let n = 0; n < options.messages; n += 1) measured?.push(await recordOf(pairs[next()] as Pair));
  return { warmUp: warmUp ?? [], measured: measured ?? [] };
}

async function run(parts: Parts, world: HeldWorld, load: Load, kind: CacheKind): Promise<EncryptionRun> {
  await parts.postgres.query({ text: "TRUNCATE messaging_commands" });
  await parts.redis.ask((client) => client.flushall());
  await world.reset();
  const cache = openCache(parts, kind);
  await drain(parts, world, load.warmUp, cache);
  const { meter, seconds, cpu } = await drain(parts, world, load.measured, cache);
  cache.close();
  const { process: inProcess, redis, stale, nowhere } = meter.found;
  const messages = load.measured.length;
  return {
    cache: kind,
    messagesPerSecond: Math.round(messages / seconds),
    hitRatio: Math.round(((inProcess + redis) / (inProcess + redis + stale + nowhere)) * 10_000) / 10_000,
    messagesPerStep: Math.round(messages / meter.steps),
    encryption: summarise(meter.durations),
    cpuPer1000: cpu,
  };
}

function openCache({ redis, keyring, keys }: Parts, kind: CacheKind): StateCache {
  if (kind === "none") {
    const nothing = () => undefined;
    return { find: async () => [], prepare: nothing, committed: nothing, close: nothing };
  }
  if (kind === "process") return openStateCache({ redis: { ...redis, ready: () => false }, keyring, keys });
  const cache = openStateCache({ redis, keyring, keys });
  if (kind === "process and redis") return cache;
  // One that is never told anything finds it all in Redis.
  const reader = openStateCache({ redis, keyring, keys });
  const close = () => {
    for (const each of [cache, reader]) each.close();
  };
  return { ...cache, find: reader.find, close };
}

interface Meter {
  readonly durations: ReturnType<typeof latencyHistogram>;
  readonly found: Record<StateSource, number>;
  steps: number;
  published: number;
  /** On the clock of `performance.now()`; null before the first step. */
  begunAt: number | null;
  failure: unknown;
}

/** Appends these, and runs the consumer until Kafka has every envelope. Joining the group does not count, except as CPU time. */
async function drain(parts: Parts, world: HeldWorld, records: readonly Outgoing[], cache: StateCache) {
  const { stack, postgres, kafka, codec, producer, log } = parts;
  for (let at = 0; at < records.length; at += appendMax) await producer.append(records.slice(at, at + appendMax));
  const meter: Meter = {
    durations: latencyHistogram(),
    found: { process: 0, redis: 0, stale: 0, nowhere: 0 },
    ...{ steps: 0, published: 0, begunAt: null, failure: null },
  };
  const appender: Appender = {
    append: async (outgoing, options) => {
      await producer.append(outgoing, options);
      meter.published += outgoing.filter(({ topic }) => topic === messageEncrypted.name).length;
    },
  };
  const before = cpuNow(stack);
  const runner = runConsumer(meteredConsumer(parts, world, cache, meter), {
    ...{ kafka, codec, appender, log, metrics: noMetrics, store: openSteps(postgres, stepTx(postgres)) },
    onCommitted: () => cache.committed(),
    onFatal: (error) => {
      meter.failure = error;
    },
  });
  const until = performance.now() + drainMsMax;
  while (meter.published < records.length && meter.failure === null && performance.now() < until) await pause(5);
  const seconds = (performance.now() - (meter.begunAt ?? 0)) / 1_000;
  const cpu = cpuPer1000(before, cpuNow(stack), records.length);
  await runner.stop();
  if (meter.failure !== null) throw meter.failure;
  if (meter.published < records.length) throw new Error(`only ${meter.published} of ${records.length} came through`);
  return { meter, seconds, cpu };
}

function meteredConsumer(
  parts: Parts,
  world: HeldWorld,
  cache: StateCache,
  meter: Meter,
): StepConsumer<MessageSend, Tx> {
  const deps: EncryptionDeps = {
    ...{ keys: parts.keys, ingress: parts.ingress, states: cache, now: Date.now },
    claim: async ({ targetId }) => world.bundles.get(targetId) ?? null,
    observeSeconds: (seconds) => meter.durations.recordValue(Math.max(1, Math.round(seconds * 1_000_000))),
    countStates: (source, pairs) => {
      meter.found[source] += pairs;
    },
  };
  const consumer = encryption(deps);
  return {
    ...consumer,
    step: (batch, tx) => {
      meter.begunAt ??= performance.now();
      meter.steps += 1;
      return consumer.step(batch, tx);
    },
  };
}

/** Numbers below `count`; n comes 1/(n + 1) times as often as 0. */
function zipf(count: number): () => number {
  const bounds: number[] = [];
  let sum = 0;
  for (let n = 1; n <= count; n += 1) {
    sum += 1 / n;
    bounds.push(sum);
  }
  return () => {
    const at = Math.random() * sum;
    return Math.max(
      0,
      bounds.findIndex((bound) => bound >= at),
    );
  };
}

function cpuNow(stack: Stack): Record<string, number> {
  return { encryption: ownCpuSeconds(process.pid), ...cpuOfServers(stack) };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
