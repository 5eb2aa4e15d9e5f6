/**
 * The API of one process: HTTP, streams and what they need, joined.
 */
import { randomUUID } from "node:crypto";
import { cachedAgents } from "../api/agents.ts";
import { CLOCK_SKEW_SECONDS } from "../api/auth.ts";
import { cachedAuthorization } from "../api/authz/authorization.ts";
import { cachedRevocations } from "../api/authz/revocations.ts";
import { openAddresses } from "../api/client-address.ts";
import { Neighbours } from "../api/front-door.ts";
import { createHttpApp } from "../api/http/app.ts";
import { BodiesHeld } from "../api/http/bodies-held.ts";
import type { HttpDeps } from "../api/http/route.ts";
import { startHttp } from "../api/http/server.ts";
import { announceWaiting } from "../api/operations/announce-waiting.ts";
import { API_SOURCE, type Appender as EventAppender } from "../api/operations/events.ts";
import { openRoom } from "../api/room.ts";
import { SendsUnderWay } from "../api/sends-under-way.ts";
import { cachedSigningKeys } from "../api/signing-keys.ts";
import { openEvents } from "../api/stream/event-stream.ts";
import { Gateway } from "../api/stream/gateway.ts";
import { serveStreams } from "../api/stream/upgrade.ts";
import { rotateNow } from "../jobs/rotation.ts";
import { changeStatus, claimAgent, listAgents } from "../store/agent-status.ts";
import { findAgents, findInactive, registerAgent } from "../store/agents.ts";
import { acceptContact, declineContact, readContacts, removeContact, requestContact } from "../store/contacts.ts";
import { findSuccessors } from "../store/custody/commands.ts";
import { findDiscarded } from "../store/custody/discarded.ts";
import { isRevoked, revokeDelegation } from "../store/delegations.ts";
import { listDevices, putDevice, removeDevice } from "../store/devices.ts";
import { openDigests } from "../store/digests.ts";
import { openHandover } from "../store/handover.ts";
import { openLimits } from "../store/limits.ts";
import { itemsBySeq, newestWaiting, readMailbox } from "../store/mailbox.ts";
import { openMessageDays } from "../store/message-days.ts";
import { findMessages } from "../store/messages.ts";
import { type NoncesDoor, openNonces } from "../store/nonces.ts";
import { openPairFacts } from "../store/pair-facts.ts";
import { findDecisions } from "../store/permissions.ts";
import { addToList, findPolicy, readList, setPolicy, takeOffList } from "../store/policies.ts";
import { openPostgres } from "../store/postgres.ts";
import { openBundles } from "../store/prekey-bundles.ts";
import { findClaim, takeBundle } from "../store/prekey-claims.ts";
import { ownStock } from "../store/prekey-stock.ts";
import { uploadPrekeys } from "../store/prekey-uploads.ts";
import { openPresence } from "../store/presence.ts";
import { openRates } from "../store/rates.ts";
import { openRedis } from "../store/redis.ts";
import { factsOfOwner } from "../store/session-facts.ts";
import {
  findEndedKeys,
  findSigningKey,
  listSigningKeys,
  putSigningKey,
  removeSigningKey,
} from "../store/signing-keys.ts";
import { sweepMailboxes } from "../store/sweep.ts";
import { openTurns } from "../store/turns.ts";
import { usageOf, usageOfHour } from "../store/usage.ts";
import { countWaiting } from "../store/waiting.ts";
import { openWakes } from "../store/wakes.ts";
import { agentEvents } from "../streams/agent-events.ts";
import { type Codec, openCodec } from "../streams/codec.ts";
import { toOutgoing } from "../streams/headers.ts";
import { type KafkaDoor, openKafka } from "../streams/kafka.ts";
import { prekeyEvents } from "../streams/prekey-events.ts";
import { openProducer, type Producer } from "../streams/producer.ts";
import type { PartContext } from "./consumer-role.ts";
import { claimsOf, custodyDoor, openHeldKeys, serverKeysOf } from "./custody.ts";
import { factOf } from "./facts.ts";
import { operatorDeps, serveOperators } from "./operators.ts";
import { ownershipFrom } from "./owners.ts";
import { kindsOf } from "./push-config.ts";
import type { Role } from "./role.ts";
import { joinRotation } from "./rotation.ts";

/** What senders see of deliveries may be a few milliseconds old; the records of many connections travel together. */
const RECEIPTS_LINGER_MS = 5;

/** Twice the skew that clocks are allowed, and a second for rounding. */
const MEMORY_BEGUN_MS_MAX = (2 * CLOCK_SKEW_SECONDS + 1) * 1000;

/** Four of the largest calls: as many as an agent sends at a time over one stream, twice. Eight such agents fill what is held by default. */
const BODY_BYTES_OF_ONE_MAX = 32 * 1024 * 1024;

/** Longer than a leader election usually takes: those who wait through one are answered 202. */
const KAFKA_AWAY_MS = 3_000;

/** With what a drain of streams (9 s) and of calls (5 s) may take it is below the 20 s that a process has to end. */
const LAST_CALLS_MS = 5_000;
const LAST_APPENDS_MS = 4_000;

/** How long a readiness check may take; longer counts as no. */
const READY_MS_MAX = 2_000;

export async function startApi({ config, metrics, log, stopping }: PartContext): Promise<Role> {
  const held = await openHeldKeys(config);
  const kafka = openKafka({ ...config.kafka, clientId: "sealpost-api", log });
  const codec = await openCodec({ registryUrl: config.registryUrl, register: false });
  const postgres = openPostgres(config.postgresUrl, {
    applicationName: "sealpost-api",
    onAway: (away) => log.warn(away ? "PostgreSQL is away: who needs it is told so at once" : "PostgreSQL is back"),
  });
  const dayMaker = openPostgres(config.postgresUrl, { applicationName: "sealpost-api-days", connectionsMax: 1 });
  const redis = openRedis(config.redisUrl);
  const items = openProducer({ kafka, log, failFastMs: KAFKA_AWAY_MS });
  const receipts = openProducer({ kafka, log, lingerMs: RECEIPTS_LINGER_MS });

  const nonces = openNonces(redis, { aheadSMax: CLOCK_SKEW_SECONDS });
  await memoryBegun(nonces);
  const now = Date.now;
  const onBug = (error: unknown) => log.error({ err: error }, "a bug: please report it");
  const agents = cachedAgents((ids) => findAgents(postgres, ids));
  const wakes = openWakes(redis);
  const shared = {
    now,
    onBug,
    counted: metrics.counted,
    findAgents: agents,
    findRevoked: cachedRevocations((links) => isRevoked(postgres, links)),
    authorize: cachedAuthorization((asks) => findDecisions(postgres, asks)),
    findInactive: (ids: readonly string[]) => findInactive(postgres, ids),
    findSigningKey: cachedSigningKeys((keyId) => findSigningKey(postgres, keyId, now())),
    findEndedKeys: (keyIds: readonly string[]) => findEndedKeys(postgres, keyIds, now()),
    nonces,
    limits: openLimits(redis),
    rates: openRates(redis),
    rateLimits: config.rateLimits,
    addressOf: openAddresses(config.trustedProxies),
    neighbours: new Neighbours(),
    sends: new SendsUnderWay(() => metrics.counted("sends_shed", 1)),
    digests: openDigests(redis),
    room: openRoom((...pairs) => countWaiting(postgres, ...pairs), config),
    items: eventAppender(codec, items),
    receipts: eventAppender(codec, receipts),
    publicAuthority: config.publicAuthority,
    readMailbox: (recipientId: string, range: Parameters<typeof readMailbox>[2]) =>
      readMailbox(postgres, recipientId, range),
  };
  const waking = {
    newestWaiting: (agentIds: readonly string[]) => newestWaiting(postgres, agentIds),
    requests: shared.receipts,
    now,
  };
  const gateway = new Gateway({
    ...shared,
    presence: openPresence(redis),
    handover: openHandover(redis),
    endWakes: (agentIds) => wakes.end(agentIds),
    announceWaiting: (agentIds) => announceWaiting(waking, agentIds),
    sweepMailboxes: (questions) => sweepMailboxes(postgres, questions),
  });
  metrics.onScrape(() => {
    const { connections, answersDropped } = gateway.status();
    metrics.streams.set(connections);
    metrics.answersDropped.set(answersDropped);
    metrics.sendsUnderWay.set(shared.sends.count);
  });
  const rotation = joinRotation({ codec, postgres, redis, keys: serverKeysOf(held, postgres), metrics, log });
  const prekeys = { facts: prekeyEvents(codec, API_SOURCE), bundles: openBundles(redis, postgres), turns: openTurns() };
  const claim = claimsOf({
    codec,
    postgres,
    redis,
    source: API_SOURCE,
    prekeyBudgetPerHour: config.prekeyBudgetPerHour,
  });
  const agentFact = agentEvents(codec, API_SOURCE);
  const deps: HttpDeps = {
    ...shared,
    storeAgent: ({ fact, ...agent }) => registerAgent(postgres, { ...agent, fact: factOf(codec, fact) }),
    ownership: ownershipFrom(config.owners, log),
    claimAgent: (claim, at) => claimAgent(postgres, agentFact, claim, at),
    changeStatus: (change, at) => changeStatus(postgres, agentFact, change, at),
    listAgents: (filter, after, limit) => listAgents(postgres, filter, after, limit),
    putSigningKey: (key, at) => putSigningKey(postgres, agentFact, key, at),
    removeSigningKey: (key, at) => removeSigningKey(postgres, agentFact, key, at),
    listSigningKeys: (agentId, at) => listSigningKeys(postgres, agentId, at),
    storePrekeys: (agentId, upload, at) =>
      prekeys.turns.take(agentId, () => uploadPrekeys(postgres, prekeys, agentId, upload, at)),
    findClaim: (claim) => findClaim(postgres, claim),
    takeBundle: (claim, options) => takeBundle(postgres, prekeys, claim, options),
    ownStock: (agentId, at) => ownStock(postgres, agentId, at),
    prekeyBudget: { name: "bundles", points: config.prekeyBudgetPerHour, seconds: 3_600 },
    openEvents: (caller) => openEvents(gateway, caller),
    answered: (agentId, answers) =>
      gateway.answered(
        agentId,
        answers.map(({ senderId, messageId: itemId }) => ({ senderId, itemId })),
      ),
    endWakes: (agentId) => gateway.came(agentId),
    hasStream: (agentId) => gateway.hasStream(agentId),
    waitForMail: (agentId, signal, ms) => gateway.waitForMail(agentId, signal, ms),
    itemsBySeq: (recipientId, seqs) => itemsBySeq(postgres, recipientId, seqs),
    findMessages: (keys) => findMessages(postgres, keys),
    findDiscarded: (keys) => findDiscarded(postgres, keys),
    findSuccessors: (keys) => findSuccessors(postgres, keys),
    factsOfPair: openPairFacts(postgres, redis).ofPair,
    factsOfOwner: (ownerId, after, limit) => factsOfOwner(postgres, ownerId, after, limit),
    usageOf: (agentId, range, limit) => usageOf(postgres, agentId, range, limit),
    usageOfHour: (hour, after, limit) => usageOfHour(postgres, hour, after, limit),
    push: { kinds: kindsOf(config.push), anyWebhook: config.push.webhooks === "any" },
    putDevice: (device, at) => putDevice(postgres, agentFact, device, at),
    removeDevice: (device, at) => removeDevice(postgres, agentFact, device, at),
    listDevices: (agentId) => listDevices(postgres, agentId),
    storeRevocation: (revocation, fact) => revokeDelegation(postgres, revocation, factOf(codec, fact)),
    findPolicy: (agentId) => findPolicy(postgres, agentId),
    setPolicy: (setting, at) => setPolicy(postgres, agentFact, setting, at),
    addToList: (listing, at) => addToList(postgres, agentFact, listing, at),
    takeOffList: (listing, at) => takeOffList(postgres, agentFact, listing, at),
    readList: (from, limit) => readList(postgres, from, limit),
    requestContact: (pair, at) => requestContact(postgres, agentFact, pair, at),
    acceptContact: (pair, at) => acceptContact(postgres, agentFact, pair, at),
    declineContact: (pair, at) => declineContact(postgres, agentFact, pair, at),
    removeContact: (pair, at) => removeContact(postgres, agentFact, pair, at),
    readContacts: (from, limit) => readContacts(postgres, from, limit),
    custody: held === null ? null : custodyDoor(held, { postgres, days: openMessageDays(dayMaker), rotation, claim }),
    bodies: new BodiesHeld({ bytesMax: config.bodyBytesHeldMax, bytesOfOneMax: BODY_BYTES_OF_ONE_MAX }),
    opsToken: config.opsToken,
    ...operatorDeps({ postgres, kafka, producer: receipts, log }),
    rotatePrekeys: (agentId) => {
      log.info({ agentId }, "an operator asks for a rotation of prekeys");
      return rotateNow(rotation, agentId, now());
    },
    readiness: {
      kafka: () => kafkaAnswers(kafka),
      postgres: () => postgres.query({ text: "SELECT 1" }).then(() => true),
      // Asked to end: whoever sends calls here should send them elsewhere.
      serving: () => !stopping.aborted,
    },
    redisReady: () => redis.ready(),
    metrics: () => metrics.text(),
  };
  const http = await startHttp(
    createHttpApp(deps),
    { port: config.httpPort, host: config.httpHost },
    { closeMax: LAST_CALLS_MS },
  );
  serveStreams(http.server, gateway, { ...shared });
  const operators = await serveOperators(config, deps, log);
  return {
    url: http.url,
    stop: async () => {
      // Calls are taken until the streams have gone: by then whoever asks for readiness has seen that it is over.
      await gateway.drain();
      await Promise.all([http.close(), operators?.close()]);
      await Promise.all([items.close(LAST_APPENDS_MS), receipts.close(LAST_APPENDS_MS)]);
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
