/**
 * The API of one process: HTTP, streams and what they need, joined.
 */
import { randomUUID } from "node:crypto";
import type pino from "pino";
import { cachedAgents } from "../api/agents.ts";
import { CLOCK_SKEW_SECONDS } from "../api/auth.ts";
import { createHttpApp } from "../api/http/app.ts";
import type { HttpDeps } from "../api/http/route.ts";
import { startHttp } from "../api/http/server.ts";
import { API_SOURCE, type Appender as EventAppender } from "../api/operations/events.ts";
import { Gateway } from "../api/stream/gateway.ts";
import { serveStreams } from "../api/stream/upgrade.ts";
import { rotateNow } from "../jobs/rotation.ts";
import { findAgents, registerAgent } from "../store/agents.ts";
import { openDigests } from "../store/digests.ts";
import { openHandover } from "../store/handover.ts";
import { openLimits } from "../store/limits.ts";
import { itemsBySeq, readMailbox } from "../store/mailbox.ts";
import { openMessageDays } from "../store/message-days.ts";
import { findMessages } from "../store/messages.ts";
import { type NoncesDoor, openNonces } from "../store/nonces.ts";
import { openPairFacts } from "../store/pair-facts.ts";
import { openPostgres } from "../store/postgres.ts";
import { openBundles } from "../store/prekey-bundles.ts";
import { findClaim, takeBundle } from "../store/prekey-claims.ts";
import { ownStock } from "../store/prekey-stock.ts";
import { uploadPrekeys } from "../store/prekey-uploads.ts";
import { openPresence } from "../store/presence.ts";
import { openRedis } from "../store/redis.ts";
import { factsOfOwner } from "../store/session-facts.ts";
import { sweepMailboxes } from "../store/sweep.ts";
import { openTurns } from "../store/turns.ts";
import { type Codec, openCodec } from "../streams/codec.ts";
import { toOutgoing } from "../streams/headers.ts";
import { type KafkaDoor, openKafka } from "../streams/kafka.ts";
import { prekeyEvents } from "../streams/prekey-events.ts";
import { openProducer, type Producer } from "../streams/producer.ts";
import type { Config } from "./config.ts";
import { custodyDoor, openHeldKeys, serverKeysOf } from "./custody.ts";
import { factOf } from "./facts.ts";
import type { Metrics } from "./metrics.ts";
import type { Role } from "./role.ts";
import { joinRotation } from "./rotation.ts";

/** What senders see of deliveries may be a few milliseconds old; the records of many connections travel together. */
const RECEIPTS_LINGER_MS = 5;

/** Twice the skew that clocks are allowed, and a second for rounding. */
const MEMORY_BEGUN_MS_MAX = (2 * CLOCK_SKEW_SECONDS + 1) * 1000;

/** How long a readiness check may take; longer counts as no. */
const READY_MS_MAX = 2_000;

export async function startApi(config: Config, metrics: Metrics, log: pino.Logger): Promise<Role> {
  const kafka = openKafka({ brokers: config.kafkaBrokers, clientId: "sealpost-api", log });
  const codec = await openCodec({ registryUrl: config.registryUrl, register: false });
  const postgres = openPostgres(config.postgresUrl, { applicationName: "sealpost-api" });
  const dayMaker = openPostgres(config.postgresUrl, { applicationName: "sealpost-api-days", connectionsMax: 1 });
  const redis = openRedis(config.redisUrl);
  const items = openProducer({ kafka, log });
  const receipts = openProducer({ kafka, log, lingerMs: RECEIPTS_LINGER_MS });

  const nonces = openNonces(redis, { aheadSMax: CLOCK_SKEW_SECONDS });
  await memoryBegun(nonces);
  const now = Date.now;
  const onBug = (error: unknown) => log.error({ err: error }, "a bug: please report it");
  const agents = cachedAgents((ids) => findAgents(postgres, ids));
  const shared = {
    now,
    onBug,
    counted: metrics.counted,
    findAgents: agents,
    nonces,
    digests: openDigests(redis),
    items: eventAppender(codec, items),
    receipts: eventAppender(codec, receipts),
    publicAuthority: config.publicAuthority,
    readMailbox: (recipientId: string, range: Parameters<typeof readMailbox>[2]) =>
      readMailbox(postgres, recipientId, range),
  };
  const gateway = new Gateway({
    ...shared,
    presence: openPresence(redis),
    handover: openHandover(redis),
    sweepMailboxes: (questions) => sweepMailboxes(postgres, questions),
  });
  metrics.onScrape(() => {
    const { connections, answersDropped } = gateway.status();
    metrics.streams.set(connections);
    metrics.answersDropped.set(answersDropped);
  });
  const held = await openHeldKeys(config);
  const rotation = joinRotation({ codec, postgres, redis, keys: serverKeysOf(held, postgres), metrics, log });
  const prekeys = { facts: prekeyEvents(codec, API_SOURCE), bundles: openBundles(redis, postgres), turns: openTurns() };
  const deps: HttpDeps = {
    ...shared,
    storeAgent: ({ fact, ...agent }) => registerAgent(postgres, { ...agent, fact: factOf(codec, fact) }),
    storePrekeys: (agentId, upload, at) =>
      prekeys.turns.take(agentId, () => uploadPrekeys(postgres, prekeys, agentId, upload, at)),
    findClaim: (claim) => findClaim(postgres, claim),
    takeBundle: (claim, options) => takeBundle(postgres, prekeys, claim, options),
    ownStock: (agentId, at) => ownStock(postgres, agentId, at),
    limits: openLimits(redis),
    prekeyBudget: { name: "bundles", points: config.prekeyBudgetPerHour, seconds: 3_600 },
    hasStream: (agentId) => gateway.hasStream(agentId),
    waitForMail: (agentId, signal, ms) => gateway.waitForMail(agentId, signal, ms),
    itemsBySeq: (recipientId, seqs) => itemsBySeq(postgres, recipientId, seqs),
    findMessages: (keys) => findMessages(postgres, keys),
    factsOfPair: openPairFacts(postgres, redis).ofPair,
    factsOfOwner: (ownerId, after, limit) => factsOfOwner(postgres, ownerId, after, limit),
    custody: held === null ? null : custodyDoor(held, { postgres, days: openMessageDays(dayMaker), rotation }),
    opsToken: config.opsToken,
    rotatePrekeys: (agentId) => {
      log.info({ agentId }, "an operator asks for a rotation of prekeys");
      return rotateNow(rotation, agentId, now());
    },
    readiness: {
      kafka: () => kafkaAnswers(kafka),
      postgres: () => postgres.query({ text: "SELECT 1" }).then(() => true),
    },
    redisReady: () => redis.ready(),
    metrics: () => metrics.text(),
  };
  const http = await startHttp(createHttpApp(deps), { port: config.httpPort, host: config.httpHost });
  serveStreams(http.server, gateway, { ...shared });
  return {
    url: http.url,
    stop: async () => {
      await Promise.all([gateway.drain(), http.close()]);
      await Promise.all([items.close(), receipts.close()]);
      redis.close();
      held?.close();
      await Promise.all([kafka.close(), postgres.close(), dayMaker.close()]);
    },
  };
}

/**
 * A memory of nonces that begins refuses signatures made just before (`sign-again`). On an empty Redis that is a matter of seconds, which pass
 * here, before the first client could wonder.
 */
async function memoryBegun(nonces: NoncesDoor): Promise<void> {
  const until = Date.now() + MEMORY_BEGUN_MS_MAX;
  while (Date.now() < until) {
    const nowS = Math.floor(Date.now() / 1000);
    if ((await nonces.remember("service", randomUUID(), nowS, nowS + 1)) !== "sign-again") return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function eventAppender(codec: Codec, producer: Producer): EventAppender {
  return { append: (events) => producer.append(events.map((event) => toOutgoing(codec, event))) };
}

async function kafkaAnswers(kafka: KafkaDoor): Promise<boolean> {
  const late = AbortSignal.timeout(READY_MS_MAX);
  return Promise.race([
    kafka.ask((admin) => admin.describeCluster()).then(() => true),
    new Promise<boolean>((resolve) => late.addEventListener("abort", () => resolve(false), { once: true })),
  ]);
}
