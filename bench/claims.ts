/**
 * Claims of bundles, as the API makes them, without HTTP: limits, cache and PostgreSQL are real. 64 claimers, each with its next claim when the last was
 * answered, so the rate is the highest there is, and latency is that of a full house.
 *
 * Once all of one agent, whose lock they share; once of 100 agents.
 */
import { randomBytes, randomUUID } from "node:crypto";
import { type ClaimBundleDeps, claimBundle } from "../api/operations/claim-bundle.ts";
import type { StackUrls } from "../infra/local/stack.ts";
import { createIdentity, type Identity } from "../protocol/identity.ts";
import { createKemPrekey, createOneTimePrekey, createSignedPrekey } from "../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { findAgents, registerAgent } from "../store/agents.ts";
import { openLimits } from "../store/limits.ts";
import { migrate } from "../store/migrate.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { openBundles } from "../store/prekey-bundles.ts";
import { findClaim, takeBundle } from "../store/prekey-claims.ts";
import { uploadPrekeys } from "../store/prekey-uploads.ts";
import { openRedis, redisReady } from "../store/redis.ts";
import { openTurns } from "../store/turns.ts";
import { openCodec } from "../streams/codec.ts";
import { prekeyEvents } from "../streams/prekey-events.ts";
import { type LatencySummary, latencyHistogram, summarise } from "./open-loop.ts";

export interface ClaimsRun {
  readonly targets: number;
  readonly claims: number;
  readonly claimsPerSecond: number;
  readonly latency: LatencySummary;
}

export interface ClaimsResult {
  readonly claimers: number;
  readonly connections: number;
  readonly oneTarget: ClaimsRun;
  readonly manyTargets: ClaimsRun;
}

const claimersMax = 64;
/** As the API has them. */
const connectionsMax = 8;
const manyTargetsMax = 100;
/** One-time prekeys of each kind that are claimed in a run: no bundle comes without. */
const oneTargetKeys = 1_000;
const manyTargetsKeys = 50;
/** An upload's share. */
const uploadKeysMax = 200;

export async function benchClaims(urls: StackUrls): Promise<ClaimsResult> {
  await migrate(urls.postgresUrl);
  const postgres = openPostgres(urls.postgresUrl, { connectionsMax });
  const redis = openRedis(urls.redisUrl);
  if (!(await redisReady(redis, 5_000))) throw new Error("Redis is not there");
  const codec = await openCodec({ registryUrl: urls.registryUrl, register: true });
  const prekeys = { facts: prekeyEvents(codec, "/bench"), bundles: openBundles(redis, postgres), turns: openTurns() };
  const deps: ClaimBundleDeps = {
    authorize: async (asks) => asks.map(() => ({ allowed: true })),
    findClaim: (claim) => findClaim(postgres, claim),
    takeBundle: (claim, options) => takeBundle(postgres, prekeys, claim, options),
    limits: openLimits(redis),
    prekeyBudget: { name: "bundles", points: 1_000_000, seconds: 3_600 },
    findAgents: (agentIds) => findAgents(postgres, agentIds),
    counted: () => undefined,
    now: Date.now,
  };
  const publish = async (targets: number, keys: number) => {
    const ids: string[] = [];
    for (let n = 0; n < targets; n++) ids.push(await target(postgres, prekeys, keys));
    return ids;
  };
  try {
    // What is hot is compiled by then.
    await drain(deps, await publish(10, manyTargetsKeys), manyTargetsKeys);
    const oneTarget = await drain(deps, await publish(1, oneTargetKeys), oneTargetKeys);
    const manyTargets = await drain(deps, await publish(manyTargetsMax, manyTargetsKeys), manyTargetsKeys);
    return { claimers: claimersMax, connections: connectionsMax, oneTarget, manyTargets };
  } finally {
    redis.close();
    await postgres.close();
  }
}

/** Claims every one-time prekey of the targets, of one after the other. */
async function drain(deps: ClaimBundleDeps, targets: readonly string[], keys: number): Promise<ClaimsRun> {
  const claims = targets.length * keys;
  const histogram = latencyHistogram();
  let next = 0;
  const claimer = async () => {
    while (next < claims) {
      const targetId = targets[next % targets.length] ?? "";
      next += 1;
      const caller = { agentId: randomBytes(32).toString("base64url") };
      const begun = performance.now();
      const { bundle } = await claimBundle(deps, caller, { targetId, requestId: `key:${randomUUID()}` });
      histogram.recordValue(Math.round((performance.now() - begun) * 1_000));
      if (bundle.oneTimePrekey === null || bundle.kemPrekey?.lastResort !== false) throw new Error("a key is missing");
    }
  };
  const begun = performance.now();
  await Promise.all(Array.from({ length: claimersMax }, claimer));
  const seconds = (performance.now() - begun) / 1_000;
  return {
    targets: targets.length,
    claims,
    claimsPerSecond: Math.round(claims / seconds),
    latency: summarise(histogram),
  };
}

async function target(postgres: Postgres, deps: Parameters<typeof uploadPrekeys>[1], keys: number): Promise<string> {
  const me: Identity = createIdentity(nodePrimitives, nodeRandom);
  const { agentId, signing } = me;
  const now = Date.now();
  const fact = { id: randomUUID(), topic: "agent.changed.v1", key: agentId, value: Uint8Array.of(1), headers: {} };
  await registerAgent(postgres, { agentId, identityKey: signing.publicKey, custody: "agent", now, fact });
  const birth = () => ({ id: randomUUID(), now, random: nodeRandom });
  for (let left = keys; left > 0; left -= uploadKeysMax) {
    const many = Array.from({ length: Math.min(left, uploadKeysMax) });
    await uploadPrekeys(
      postgres,
      deps,
      agentId,
      {
        signedPrekey: createSignedPrekey(nodePrimitives, me, birth()).prekey,
        oneTimePrekeys: many.map(() => createOneTimePrekey(nodePrimitives, randomUUID(), nodeRandom).prekey),
        kemPrekeys: many.map(() => createKemPrekey(nodePrimitives, me, { ...birth(), lastResort: false }).prekey),
      },
      now,
    );
  }
  return agentId;
}
