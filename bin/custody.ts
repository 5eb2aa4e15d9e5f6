/**
 * The keys of server custody, joined with what needs them: the API, the encryption consumer, the rotation of prekeys.
 */
import type { CustodyDoor } from "../api/operations/custody.ts";
import type { EncryptionDeps } from "../consumers/encryption/sending.ts";
import { noServerKeys, type RotationDeps, renewNow, type ServerKeys } from "../jobs/rotation.ts";
import { encodeBase64Url } from "../protocol/base64url.ts";
import { sealIngress } from "../protocol/ingress.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { Refusal } from "../protocol/refusal.ts";
import { findAgentOfAccessKey, findSealedIdentities } from "../store/agents.ts";
import { openAtRest } from "../store/at-rest.ts";
import { beginSession } from "../store/custody/begin-session.ts";
import { type CustodyKeys, openCustodyKeys } from "../store/custody/custody-keys.ts";
import { openMailbox } from "../store/custody/open-mailbox.ts";
import { takeRequests } from "../store/custody/requests.ts";
import { type Ingress, isEpochAccepted, openIngressKeys } from "../store/ingress.ts";
import type { Keyring } from "../store/keyring/keyring.ts";
import { openKeyring } from "../store/keyring/keyring-file.ts";
import { checkKeyring } from "../store/keyring-of-database.ts";
import { openLimits } from "../store/limits.ts";
import type { MessageDays } from "../store/message-days.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { openBundles } from "../store/prekey-bundles.ts";
import { findClaim, takeBundle } from "../store/prekey-claims.ts";
import { type RedisDoor, unlessAway } from "../store/redis.ts";
import { openTurns } from "../store/turns.ts";
import type { Codec } from "../streams/codec.ts";
import { prekeyEvents } from "../streams/prekey-events.ts";
import type { Config } from "./config.ts";
import { openRootKeys } from "./root-keys.ts";

export interface HeldKeys {
  readonly keys: CustodyKeys;
  readonly ingress: Ingress;
  /** Closed with the others. */
  readonly keyring: Keyring;
  close(): void;
}

/**
 * Null without a keyring in the configuration. To be opened before anything else of a part: with a keyring that is not the database's it must not start.
 * Throws what opening it throws, and `Unavailable`.
 */
export async function openHeldKeys({ keyring: config, postgresUrl }: Config): Promise<HeldKeys | null> {
  if (config === undefined) return null;
  const roots = await openRootKeys(config);
  const keyring = openKeyring(config.file, roots);
  const postgres = openPostgres(postgresUrl, { applicationName: "sealpost-keyring", connectionsMax: 1 });
  await checkKeyring(postgres, keyring).finally(() => postgres.close());
  const atRest = openAtRest(keyring);
  const keys = openCustodyKeys(keyring, atRest);
  const ingress = openIngressKeys(keyring);
  return {
    keys,
    ingress,
    keyring,
    close: () => {
      for (const door of [ingress, keys, atRest, keyring, roots]) door.close();
    },
  };
}

/** What the rotation makes prekeys with. */
export function serverKeysOf(held: HeldKeys | null, postgres: Postgres): ServerKeys {
  if (held === null) return noServerKeys;
  const { keys } = held;
  return {
    open: async (agentId) => {
      const sealed = (await findSealedIdentities(postgres, [agentId])).get(agentId);
      if (sealed === undefined) return null;
      try {
        const identity = keys.openIdentity(agentId, sealed);
        return { identity, seal: (prekeyId, privateKey) => keys.sealPrekey(agentId, prekeyId, privateKey) };
      } catch (error) {
        // Destroyed, or another keyring's.
        if (error instanceof Refusal) return null;
        throw error;
      }
    },
  };
}

export interface CustodyParts {
  readonly postgres: Postgres;
  readonly days: MessageDays;
  readonly rotation: RotationDeps;
  readonly claim: EncryptionDeps["claim"];
}

export function custodyDoor(
  { keys, ingress }: HeldKeys,
  { postgres, days, rotation, claim }: CustodyParts,
): CustodyDoor {
  // Openings of one mailbox wait for the same rows: here, and not each on a connection that others need.
  const turns = openTurns();
  const registrations = openTurns();
  return {
    inTurn: (accessKey, work) => registrations.take(encodeBase64Url(accessKey), work),
    makeIdentity: () => keys.makeIdentity(),
    destroy: (agentId) => keys.destroy(agentId),
    findAgentOfAccessKey: (accessKey) => findAgentOfAccessKey(postgres, accessKey),
    publishPrekeys: (agentId) => renewNow(rotation, agentId, Date.now()),
    requireKeys: (agentId) => keys.require(agentId),
    ingressKey: () => ingress.currentKey(),
    isEpochAccepted: (epoch) => isEpochAccepted(epoch, Date.now()) && ingress.isKnown(epoch),
    sealContent: (command, frame) => sealIngress(nodePrimitives, nodeRandom, ingress.currentKey(), command, frame),
    beginSession: (ownerId, peerId, requestId) =>
      beginSession({ postgres, keys, claim }, { ownerId, peerId }, requestId, Date.now()),
    openMailbox: (recipientId, range) =>
      turns.take(recipientId, () => openMailbox({ postgres, days, keys }, recipientId, range, Date.now())),
    takeRequests: (ownerId) => takeRequests(postgres, ownerId, Date.now()),
  };
}

export interface ClaimParts {
  readonly codec: Codec;
  readonly postgres: Postgres;
  readonly redis: RedisDoor;
  /** `ce_source` of the facts of claims. */
  readonly source: string;
  readonly prekeyBudgetPerHour: number;
}

/**
 * Bundles for the sessions that encryption begins: out of the same budget as everybody's (api/operations/claim-bundle.ts), and while Redis cannot say
 * how much of it is left, without one-time prekeys.
 */
export function claimsOf({ codec, postgres, redis, source, prekeyBudgetPerHour }: ClaimParts): EncryptionDeps["claim"] {
  const deps = { facts: prekeyEvents(codec, source), bundles: openBundles(redis, postgres), turns: openTurns() };
  const limits = openLimits(redis);
  const budget = { name: "bundles", points: prekeyBudgetPerHour, seconds: 3_600 };
  return async (wanted) => {
    const claim = { ...wanted, now: Date.now() };
    const earlier = await findClaim(postgres, claim);
    if (earlier !== null) return earlier.bundle;
    const allowance = await unlessAway(limits.consume(budget, claim.targetId));
    const taken = await takeBundle(postgres, deps, claim, { oneTime: allowance?.allowed === true });
    return taken?.bundle ?? null;
  };
}
