/**
 * Tells an agent what the service holds of its prekeys, so that it notices when that is not what it believes to have published.
 */
import { duePrekeys } from "../../protocol/prekey-stock.ts";
import type { OwnStock } from "../../store/prekey-stock.ts";
import type { Caller } from "../auth.ts";

export interface OwnPrekeysDeps {
  /** All of one moment. Throws `Unavailable`. */
  readonly ownStock: (agentId: string, now: number) => Promise<OwnStock>;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface OwnPrekeys extends OwnStock {
  /** Whole seconds; null when there is no signed prekey. */
  readonly signedPrekeyAgeS: number | null;
  /** A new signed prekey, and KEM prekey of last resort, should be published. */
  readonly rotationDue: boolean;
}

/** @throws Unavailable */
export async function ownPrekeys(deps: OwnPrekeysDeps, caller: Caller): Promise<OwnPrekeys> {
  const now = deps.now();
  const stock = await deps.ownStock(caller.agentId, now);
  const signedCreatedAt = stock.signedPrekey?.createdAt ?? null;
  const { rotation } = duePrekeys(
    {
      signedCreatedAt,
      oneTime: stock.oneTimePrekeysRemaining,
      kem: stock.kemPrekeysRemaining,
      hasLastResort: stock.lastResortKemPrekey !== null,
    },
    now,
  );
  const ageMs = signedCreatedAt === null ? null : Math.max(0, now - signedCreatedAt);
  return { ...stock, signedPrekeyAgeS: ageMs === null ? null : Math.floor(ageMs / 1000), rotationDue: rotation };
}
