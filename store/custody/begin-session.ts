/**
 * Begins a session of an agent of server custody ahead of its first message.
 *
 * Promises: a pair that has a session to send in keeps it, so that asking again changes nothing; a new one is committed under the pair's row lock, as
 * *encryption* would have done with the first message. Nothing is sent: the peer learns of it with that message.
 *
 * The bundle is claimed before the row is locked: a claim has a transaction of its own.
 */
import { decodeInitiation } from "../../protocol/initiation.ts";
import { initiate, type Peer, sendingSession } from "../../protocol/peer.ts";
import type { Bundle } from "../../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { Refusal } from "../../protocol/refusal.ts";
import type { Session } from "../../protocol/session.ts";
import { findSealedIdentities } from "../agents.ts";
import { inTransaction, type Postgres } from "../postgres.ts";
import { type CustodyKeys, openStateOrLost } from "./custody-keys.ts";
import { findStates, lockStates, type Pair, writeStates } from "./states.ts";

export interface BeginSessionDeps {
  readonly postgres: Postgres;
  readonly keys: Pick<CustodyKeys, "openIdentity" | "openState" | "sealState">;
  /** A bundle for one initiation; null when the target has none. Throws `Unavailable`. */
  readonly claim: (claim: {
    readonly claimerId: string;
    readonly targetId: string;
    readonly requestId: string;
  }) => Promise<Bundle | null>;
}

/** The session that the next message would be sent in. */
export interface BegunSession {
  /** 16 bytes. */
  readonly sessionId: Uint8Array;
  /** Was it begun by this call? */
  readonly isNew: boolean;
  /** As far as it is a start of the agent's own that the peer has not answered. `startedAt`: ms since the epoch. */
  readonly unanswered: { readonly suite: number; readonly startedAt: number } | null;
}

/**
 * Null when the peer has no bundle to begin with, or one that does not hold.
 *
 * @throws Unavailable; Refusal of `SealedCode` when the agent's keys are gone
 */
export async function beginSession(
  { postgres, keys, claim }: BeginSessionDeps,
  pair: Pair,
  requestId: string,
  now: number,
): Promise<BegunSession | null> {
  const { ownerId, peerId } = pair;
  const sealed = (await findSealedIdentities(postgres, [ownerId])).get(ownerId);
  if (sealed === undefined) throw new Refusal("key-unknown");
  const me = keys.openIdentity(ownerId, sealed);
  const [seen] = await findStates(postgres, [pair]);
  const before = seen === undefined ? null : sendingSession(openStateOrLost(keys, seen), now);
  if (before !== null) return factsOf(before, false);
  const bundle = await claim({ claimerId: ownerId, targetId: peerId, requestId });
  if (bundle === null) return null;
  return inTransaction(postgres, async (client) => {
    const [stored] = await lockStates(client, [pair], { areThere: seen !== undefined });
    if (stored === undefined) throw new Error("a row was locked and is not there");
    const peer = openStateOrLost(keys, stored);
    const meanwhile = sendingSession(peer, now);
    if (meanwhile !== null) return factsOf(meanwhile, false);
    const next = begun(() => initiate(nodePrimitives, me, peer, bundle, { now, random: nodeRandom }));
    const session = next === null ? null : sendingSession(next, now);
    if (next === null || session === null) return null;
    const { version: readVersion, generation } = stored;
    const state = keys.sealState(ownerId, next, readVersion + 1);
    await writeStates(client, [{ ...pair, readVersion, generation, state }]);
    return factsOf(session, true);
  });
}

function begun(work: () => Peer): Peer | null {
  try {
    return work();
  } catch (error) {
    // The bundle does not hold.
    if (error instanceof Refusal) return null;
    throw error;
  }
}

function factsOf({ id, unanswered }: Session, isNew: boolean): BegunSession {
  if (unanswered === null) return { sessionId: id, isNew, unanswered };
  const { suite } = decodeInitiation(unanswered.initiation);
  return { sessionId: id, isNew, unanswered: { suite, startedAt: unanswered.startedAt } };
}
