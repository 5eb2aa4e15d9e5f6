/**
 * The private prekeys that an opening needs, by id, and which of them it has used up. Pure, over rows that the caller has locked.
 */
import type { PrekeyLookup } from "../../protocol/peer.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import { mlKem768PairFrom, x25519PairFrom } from "../../protocol/primitives/primitives.ts";
import { Refusal } from "../../protocol/refusal.ts";
import type { CustodyKeys } from "./custody-keys.ts";
import type { PrivatePrekey } from "./private-prekeys.ts";

export interface HeldPrekeys extends PrekeyLookup {
  /** Ids that are used up: they are not found any more. */
  readonly used: Set<string>;
}

/** What does not open is not there, and its message one that could be said anew. */
export function lookUpPrekeys(
  keys: Pick<CustodyKeys, "openPrekey">,
  agentId: string,
  rows: readonly PrivatePrekey[],
): HeldPrekeys {
  const opened = new Map(
    rows.map(({ prekeyId, keyType, privateKeyEncrypted: sealed }) => [
      prekeyId,
      { keyType, privateKey: openedOrNull(() => keys.openPrekey(agentId, prekeyId, sealed)) },
    ]),
  );
  const used = new Set<string>();
  const privateKeyOf = (id: string, ...wanted: readonly PrivatePrekey["keyType"][]) => {
    const prekey = opened.get(id);
    return prekey === undefined || used.has(id) || !wanted.includes(prekey.keyType) ? null : prekey.privateKey;
  };
  const pairOf = (id: string, keyType: PrivatePrekey["keyType"]) => {
    const privateKey = privateKeyOf(id, keyType);
    return privateKey === null ? null : x25519PairFrom(nodePrimitives, privateKey);
  };
  return {
    used,
    signedPrekey: (id) => pairOf(id, "signed"),
    oneTimePrekey: (id) => pairOf(id, "one-time"),
    kemPrekey: (id) => {
      const seed = privateKeyOf(id, "kem", "kem-last-resort");
      if (seed === null) return null;
      const lastResort = opened.get(id)?.keyType === "kem-last-resort";
      return { pair: mlKem768PairFrom(nodePrimitives, seed), lastResort };
    },
    // The service publishes KEM prekeys with an agent's very first prekeys (jobs/rotation.ts).
    kemPublished: true,
  };
}

function openedOrNull(open: () => Uint8Array): Uint8Array | null {
  try {
    return open();
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}
