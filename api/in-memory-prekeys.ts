/**
 * Prekeys in memory, for tests: stored, handed out and counted as the store does it, without ages, retirement or facts.
 */

import { prekeyStockDigest } from "../protocol/prekey-stock.ts";
import type { KemPrekey, OneTimePrekey, SignedPrekey } from "../protocol/prekeys.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { Refusal } from "../protocol/refusal.ts";
import type { Allowance, LimitsDoor } from "../store/limits.ts";
import type { ClaimedBundle } from "../store/prekey-claims.ts";
import type { Agent } from "./agents.ts";
import type { ClaimBundleDeps } from "./operations/claim-bundle.ts";
import type { OwnPrekeysDeps } from "./operations/own-prekeys.ts";
import type { UploadPrekeysDeps, UploadPrekeysInput } from "./operations/upload-prekeys.ts";

export interface InMemoryStock {
  readonly signedPrekey: SignedPrekey | null;
  readonly lastResortKemPrekey: KemPrekey | null;
  readonly oneTimePrekeys: readonly OneTimePrekey[];
  readonly kemPrekeys: readonly KemPrekey[];
}

type PrekeyPorts = Pick<UploadPrekeysDeps, "storePrekeys"> &
  Pick<ClaimBundleDeps, "findClaim" | "takeBundle"> &
  Pick<OwnPrekeysDeps, "ownStock">;

const nothing: InMemoryStock = { signedPrekey: null, lastResortKemPrekey: null, oneTimePrekeys: [], kemPrekeys: [] };

/** @param need throws `Unavailable` while PostgreSQL is said to be away */
export function inMemoryPrekeys(
  stocks: Map<string, InMemoryStock>,
  agents: ReadonlyMap<string, Agent>,
  need: () => void,
): PrekeyPorts {
  const claims = new Map<string, ClaimedBundle["bundle"]>();
  const known = new Map<string, Uint8Array>();
  const stockOf = (agentId: string) => stocks.get(agentId) ?? nothing;
  const remainingOf = (agentId: string) => ({
    oneTimePrekeysRemaining: stockOf(agentId).oneTimePrekeys.length,
    kemPrekeysRemaining: stockOf(agentId).kemPrekeys.length,
  });
  const nameOf = (claim: Parameters<ClaimBundleDeps["findClaim"]>[0]) =>
    `${claim.claimerId} ${claim.requestId} ${claim.targetId}`;

  const findClaim: PrekeyPorts["findClaim"] = async (claim) => {
    need();
    const bundle = claims.get(nameOf(claim));
    return bundle === undefined ? null : { bundle, ...remainingOf(claim.targetId) };
  };
  return {
    findClaim,
    storePrekeys: async (agentId, upload) => {
      need();
      const all = prekeysOf(upload).map((prekey) => ({ ...prekey, name: `${agentId} ${prekey.id}` }));
      const isNew = ({ name }: { readonly name: string }) => !known.has(name);
      if (
        all.some(
          ({ name, publicKey }) => known.has(name) && !Buffer.from(publicKey).equals(known.get(name) ?? publicKey),
        )
      )
        throw new Refusal("prekey-conflict");
      const fresh = new Set(all.filter(isNew).map(({ id }) => id));
      for (const { name, publicKey } of all) known.set(name, publicKey);
      const before = stockOf(agentId);
      const kept = new Set(all.map(({ id }) => id));
      const merged = <Prekey extends { readonly id: string }>(waiting: readonly Prekey[], more: readonly Prekey[]) => [
        ...waiting.filter(({ id }) => !upload.replace || kept.has(id)),
        ...more.filter(({ id }) => fresh.has(id)),
      ];
      stocks.set(agentId, {
        signedPrekey: upload.signedPrekey ?? before.signedPrekey,
        lastResortKemPrekey: upload.lastResortKemPrekey ?? before.lastResortKemPrekey,
        oneTimePrekeys: merged(before.oneTimePrekeys, upload.oneTimePrekeys),
        kemPrekeys: merged(before.kemPrekeys, upload.kemPrekeys),
      });
      return remainingOf(agentId);
    },
    takeBundle: async (claim, { oneTime }) => {
      const earlier = await findClaim(claim);
      if (earlier !== null) return { ...earlier, repeated: true };
      const { signedPrekey, lastResortKemPrekey, oneTimePrekeys, kemPrekeys } = stockOf(claim.targetId);
      const agent = agents.get(claim.targetId);
      if (signedPrekey === null || agent === undefined) return null;
      const [oneTimePrekey = null, ...otherOneTime] = oneTime ? oneTimePrekeys : [];
      const [kemPrekey = lastResortKemPrekey, ...otherKem] = oneTime ? kemPrekeys : [];
      if (oneTime) {
        const others = { oneTimePrekeys: otherOneTime, kemPrekeys: otherKem };
        stocks.set(claim.targetId, { signedPrekey, lastResortKemPrekey, ...others });
      }
      const { agentId, identityKey } = agent;
      const bundle = { agentId, identityKey, signedPrekey, oneTimePrekey, kemPrekey };
      claims.set(nameOf(claim), bundle);
      return { bundle, ...remainingOf(claim.targetId), repeated: false };
    },
    ownStock: async (agentId) => {
      need();
      const { signedPrekey, lastResortKemPrekey, oneTimePrekeys, kemPrekeys } = stockOf(agentId);
      const stock = { signed: signedPrekey, lastResort: lastResortKemPrekey, oneTime: oneTimePrekeys, kem: kemPrekeys };
      const digest = prekeyStockDigest(nodePrimitives, stock);
      return { signedPrekey, lastResortKemPrekey, ...remainingOf(agentId), digest };
    },
  };
}

function prekeysOf(upload: UploadPrekeysInput): readonly OneTimePrekey[] {
  return [upload.signedPrekey ?? [], upload.lastResortKemPrekey ?? [], upload.oneTimePrekeys, upload.kemPrekeys].flat();
}

/** Windows that never end. */
export function inMemoryLimits(need: () => void): LimitsDoor {
  const counts = new Map<string, number>();
  return {
    consume: async ({ name, points, seconds }, key, cost = 1): Promise<Allowance> => {
      need();
      const count = (counts.get(`${name} ${key}`) ?? 0) + cost;
      counts.set(`${name} ${key}`, count);
      return { allowed: count <= points, retryAfterMs: seconds * 1000 };
    },
    giveBack: async ({ name }, key) => {
      counts.set(`${name} ${key}`, (counts.get(`${name} ${key}`) ?? 0) - 1);
    },
    forget: async ({ name }, key) => void counts.delete(`${name} ${key}`),
  };
}
