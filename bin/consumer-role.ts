/**
 * Consumers and the relay of one process, joined with what they need.
 */
import type pino from "pino";
import { acks } from "../consumers/acks/acks.ts";
import { audit } from "../consumers/audit/audit.ts";
import { encryption } from "../consumers/encryption/encryption.ts";
import { metering } from "../consumers/metering/metering.ts";
import { queuing } from "../consumers/queuing/queuing.ts";
import { receipts } from "../consumers/receipts/receipts.ts";
import { routing } from "../consumers/routing/routing.ts";
import { createShortcut, type Shortcut } from "../consumers/routing/shortcut.ts";
import { sessions } from "../consumers/sessions/sessions.ts";
import { startRelay as runRelay } from "../jobs/relay.ts";
import { openStateCache } from "../store/custody/state-cache.ts";
import { holdFacts } from "../store/facts.ts";
import { openHandover } from "../store/handover.ts";
import { openPostgres } from "../store/postgres.ts";
import { openPresence } from "../store/presence.ts";
import { openRedis } from "../store/redis.ts";
import { openSteps } from "../store/steps.ts";
import { stepTx, type Tx } from "../store/tx.ts";
import { openCodec } from "../streams/codec.ts";
import type { Emit, PlainConsumer, StepConsumer } from "../streams/consumer.ts";
import { openKafka } from "../streams/kafka.ts";
import { openProducer } from "../streams/producer.ts";
import { type Runner, runConsumer, runPlainConsumer } from "../streams/runner.ts";
import { openTransactions, type Transactions } from "../streams/transactions.ts";
import type { Config } from "./config.ts";
import { claimsOf, openHeldKeys } from "./custody.ts";
import { failpoints } from "./failpoints.ts";
import { type Metrics, runnerMetrics } from "./metrics.ts";
import type { Role } from "./role.ts";

export interface PartContext {
  readonly config: Config;
  readonly metrics: Metrics;
  readonly log: pino.Logger;
  /** The process shall end: going on would be wrong. */
  readonly fail: (error: unknown) => void;
  /** Aborts when the process is to end: from then on it is not ready. */
  readonly stopping: AbortSignal;
  /** From queuing to routing, where both run here. */
  readonly shortcut: Shortcut | undefined;
}

/** `ce_source` of the facts of its claims. */
const ENCRYPTION_SOURCE = "/sealpost/encryption";

/** A step has one connection, and queuing one more when it makes a day's partition. */
const POOL_CONNECTIONS_MAX = 4;

export function startQueuing(context: PartContext): Promise<Role> {
  const { shortcut } = context;
  return startStateful(context, queuing(context.config), shortcut && ((emits) => shortcut.committed(emits)));
}

export function startAcks(context: PartContext): Promise<Role> {
  return startStateful(context, acks);
}

export function startSessions(context: PartContext): Promise<Role> {
  return startStateful(context, sessions);
}

export function startMetering(context: PartContext): Promise<Role> {
  return startStateful(context, metering);
}

export function startAudit(context: PartContext): Promise<Role> {
  return startStateful(context, audit);
}

/** Without a keyring it does nothing: what is to be encrypted waits in the log for a process that can. */
export async function startEncryption(context: PartContext): Promise<Role> {
  const { config, metrics, log } = context;
  const held = await openHeldKeys(config);
  if (held === null) {
    log.info("server custody is off in this process: it has no keyring");
    return { stop: async () => undefined };
  }
  const redis = openRedis(config.redisUrl);
  // Claims have transactions of their own, beside the step's.
  const postgres = openPostgres(config.postgresUrl, {
    applicationName: "sealpost-encryption-claims",
    connectionsMax: POOL_CONNECTIONS_MAX,
  });
  const codec = await openCodec({ registryUrl: config.registryUrl, register: false });
  const { prekeyBudgetPerHour } = config;
  const states = openStateCache({ redis, keyring: held.keyring, keys: held.keys });
  const consumer = encryption({
    keys: held.keys,
    ingress: held.ingress,
    states,
    claim: claimsOf({ codec, postgres, redis, source: ENCRYPTION_SOURCE, prekeyBudgetPerHour }),
    observeSeconds: (seconds) => metrics.encryption.observe(seconds),
    countStates: metrics.ratchetStates,
    now: Date.now,
  });
  const role = await startStateful(context, consumer, () => states.committed());
  return {
    ...role,
    stop: async () => {
      await role.stop();
      redis.close();
      states.close();
      held.close();
      await postgres.close();
    },
  };
}

export async function startRouting(context: PartContext): Promise<Role> {
  const redis = openRedis(context.config.redisUrl);
  const consumer = routing({
    presence: openPresence(redis),
    handover: openHandover(redis),
    count: (state, items) => context.metrics.queued.inc({ state }, items),
    shortcut: context.shortcut,
  });
  return startStateless(context, consumer, () => redis.close());
}

export async function startReceipts(context: PartContext): Promise<Role> {
  const redis = openRedis(context.config.redisUrl);
  const consumer = receipts({
    presence: openPresence(redis),
    handover: openHandover(redis),
    observeDelivery: (seconds) => context.metrics.deliveryLatency.observe(seconds),
  });
  return startStateless(context, consumer, () => redis.close());
}

/** The way from queuing to routing within a process, and its end. */
export function openShortcut({ config, metrics }: Pick<PartContext, "config" | "metrics">): Shortcut & Role {
  const redis = openRedis(config.redisUrl);
  const shortcut = createShortcut({
    presence: openPresence(redis),
    handover: openHandover(redis),
    count: (state, items) => metrics.queued.inc({ state }, items),
  });
  return { ...shortcut, stop: async () => redis.close() };
}

async function startStateful<In>(
  context: PartContext,
  consumer: StepConsumer<In, Tx>,
  onCommitted?: (emits: readonly Emit[]) => void,
): Promise<Role> {
  const postgres = openPostgres(context.config.postgresUrl, {
    applicationName: `sealpost-${consumer.name}`,
    connectionsMax: POOL_CONNECTIONS_MAX,
  });
  const surroundings = await surround(context, consumer.name);
  const store = openSteps(postgres, stepTx(postgres));
  const transactions = transactionsOf(context, consumer.name, surroundings.options);
  const runner = runConsumer(consumer, { ...surroundings.options, store, onCommitted, publisher: transactions });
  return roleOf(consumer.name, runner, async () => {
    await transactions?.close();
    await surroundings.close();
    await postgres.close();
  });
}

/** Undefined: this consumer publishes at least once. */
function transactionsOf(
  { config, log }: PartContext,
  group: string,
  { kafka, failpoints }: Pick<Surroundings["options"], "kafka" | "failpoints">,
): Transactions | undefined {
  const isWanted = config.transactions.some((name) => name === group);
  return isWanted ? openTransactions({ kafka, group, log, failpoints }) : undefined;
}

export async function startStateless<In>(
  context: PartContext,
  consumer: PlainConsumer<In>,
  closeDoors: () => void | Promise<void>,
): Promise<Role> {
  const surroundings = await surround(context, consumer.name);
  const runner = runPlainConsumer(consumer, surroundings.options);
  return roleOf(consumer.name, runner, async () => {
    await surroundings.close();
    await closeDoors();
  });
}

type Surroundings = Awaited<ReturnType<typeof surround>>;

/** Each consumer has a producer of its own: none waits for what another could not send. */
async function surround({ config, metrics, log, fail }: PartContext, name: string) {
  const kafka = openKafka({ ...config.kafka, clientId: `sealpost-${name}`, log });
  const codec = await openCodec({ registryUrl: config.registryUrl, register: false });
  const appender = openProducer({ kafka, log });
  return {
    options: {
      kafka,
      codec,
      appender,
      log,
      metrics: runnerMetrics(metrics),
      onFatal: fail,
      failpoints: failpoints(config.failpoint, name),
    },
    close: async () => {
      await appender.close();
      await kafka.close();
    },
  };
}

function roleOf(name: string, runner: Runner, close: () => Promise<void>): Role {
  return {
    missing: () => (runner.ready() ? [] : [name]),
    stop: async () => {
      await runner.stop();
      await close();
    },
  };
}

/** The facts of the API and of jobs, published. */
export async function startRelay({ config, log, fail }: PartContext): Promise<Role> {
  const kafka = openKafka({ ...config.kafka, clientId: "sealpost-relay", log });
  const appender = openProducer({ kafka, log });
  const relay = runRelay({ hold: () => holdFacts(config.postgresUrl), appender, log, onFatal: fail });
  return {
    stop: async () => {
      await relay.stop();
      await appender.close();
      await kafka.close();
    },
  };
}
