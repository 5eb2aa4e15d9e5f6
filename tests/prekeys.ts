/**
 * What tests of prekeys in the store need: real servers with tables and keys of their own, agents, prekeys, and the facts that were told.
 */
import { randomBytes, randomUUID } from "node:crypto";
import {
  type Bundle,
  bundleFromJson,
  bundleToJson,
  type KemPrekey,
  type OneTimePrekey,
  type SignedPrekey,
} from "../protocol/prekeys.ts";
import { registerAgent } from "../store/agents.ts";
import type { Fact } from "../store/facts.ts";
import { migrate } from "../store/migrate.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { type BundlesDoor, openBundles } from "../store/prekey-bundles.ts";
import { type Claim, findClaim, takeBundle } from "../store/prekey-claims.ts";
import type { PrekeyFacts } from "../store/prekey-facts.ts";
import { type PrekeyUpload, uploadPrekeys } from "../store/prekey-uploads.ts";
import { openRedis, type RedisDoor, redisReady } from "../store/redis.ts";
import { openTurns, type Turns } from "../store/turns.ts";
import { sampleAgentId } from "./messaging.ts";
import { createDatabase, uniqueName, useStack } from "./stack.ts";

export interface PrekeyStore {
  readonly url: string;
  readonly postgres: Postgres;
  readonly redis: RedisDoor;
  readonly deps: { readonly facts: PrekeyFacts; readonly bundles: BundlesDoor; readonly turns: Turns };
  /** Registers an agent. Answers its id. */
  agent(): Promise<string>;
  upload(agentId: string, upload: PrekeyUpload, at?: number): ReturnType<typeof uploadPrekeys>;
  /** By a claimer of its own and with a request id of its own, unless told otherwise. */
  claim(targetId: string, claim?: Partial<Claim> & { oneTime?: boolean }): ReturnType<typeof takeBundle>;
  /** What a claim was answered with. */
  find(claim: Claim): ReturnType<typeof findClaim>;
  /** What was told of an agent since it was registered, in order. */
  told(agentId: string): Promise<readonly { readonly topic: string; readonly value: object }[]>;
  close(): Promise<void>;
}

/** ms since the epoch: of everything that does not say otherwise. */
export const sampleNow = 1_800_000_000_000;

export async function openPrekeyStore(): Promise<PrekeyStore> {
  const url = await createDatabase("prekeys");
  await migrate(url);
  const postgres = openPostgres(url);
  const redis = openRedis(useStack().redisUrl, { prefix: `${uniqueName("prekeys")}:` });
  if (!(await redisReady(redis, 5_000))) throw new Error("Redis is not there");
  const deps = { facts: readableFacts, bundles: openBundles(redis, postgres), turns: openTurns() };
  return {
    url,
    postgres,
    redis,
    deps,
    agent: async () => {
      const agentId = sampleAgentId();
      const fact = { id: randomUUID(), topic: "agent.changed.v1", key: agentId, value: Uint8Array.of(1), headers: {} };
      const identityKey = sampleBytes(32);
      await registerAgent(postgres, { agentId, identityKey, custody: "agent", now: sampleNow, fact });
      return agentId;
    },
    upload: (agentId, upload, at = sampleNow) => uploadPrekeys(postgres, deps, agentId, upload, at),
    claim: async (targetId, { oneTime = true, ...claim } = {}) => {
      // Turns of its own: claims at the same moment meet in PostgreSQL, as if each came from another process.
      const alone = { ...deps, turns: openTurns() };
      const taken = await takeBundle(postgres, alone, sampleClaim(targetId, claim), { oneTime });
      return taken && { ...taken, bundle: plain(taken.bundle) };
    },
    find: async (claim) => {
      const found = await findClaim(postgres, claim);
      return found && { ...found, bundle: plain(found.bundle) };
    },
    told: async (agentId) => {
      const { rows } = await postgres.query<{ topic: string; value: Uint8Array }>({
        text: "SELECT topic, value FROM facts WHERE key = $1 ORDER BY counter",
        values: [agentId],
      });
      return rows
        .filter(({ topic }) => topic.startsWith("prekey."))
        .map(({ topic, value }) => ({ topic, value: JSON.parse(Buffer.from(value).toString("utf8")) }));
    },
    close: async () => {
      redis.close();
      await postgres.close();
    },
  };
}

/** JSON instead of Avro: what is told can be read without a registry. */
const readableFacts: PrekeyFacts = {
  published: (value) => readableFact("prekey.published.v1", value),
  rotated: (value) => readableFact("prekey.rotated.v1", value),
  claimed: (value) => readableFact("prekey.claimed.v1", value),
  low: (value) => readableFact("prekey.low.v1", value),
};

function readableFact(topic: string, value: { readonly agentId: string }): Fact {
  return { id: randomUUID(), topic, key: value.agentId, value: Buffer.from(JSON.stringify(value)), headers: {} };
}

export function sampleClaim(targetId: string, claim: Partial<Claim> = {}): Claim {
  return { claimerId: sampleAgentId(), requestId: `key:${randomUUID()}`, targetId, now: sampleNow, ...claim };
}

/** No Buffer: what PostgreSQL answers and what Redis remembers compare alike. */
function sampleBytes(length: number): Uint8Array {
  return Uint8Array.from(randomBytes(length));
}

function plain(bundle: Bundle): Bundle {
  return bundleFromJson(bundleToJson(bundle));
}

export function sampleSigned(): SignedPrekey {
  const createdAt = sampleNow - 1_000;
  return { id: randomUUID(), createdAt, publicKey: sampleBytes(32), signature: sampleBytes(64) };
}

export function sampleOneTime(count: number): OneTimePrekey[] {
  return Array.from({ length: count }, () => ({ id: randomUUID(), publicKey: sampleBytes(32) }));
}

export function sampleKem(count: number): KemPrekey[] {
  return Array.from({ length: count }, () => ({ ...sampleLastResort(), lastResort: false }));
}

export function sampleLastResort(): KemPrekey {
  return { ...sampleSigned(), publicKey: sampleBytes(1_184), lastResort: true };
}
