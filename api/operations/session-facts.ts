/**
 * What the service knows of sessions: the public facts that the log shows.
 *
 * Promise: an agent sees only what it sent itself and what was sent to it. Nothing here proves anything: facts are what envelopes said. They may lag
 * behind what was accepted by a second, those of a pair by some more.
 */

import type { Custody } from "../../schemas/values.ts";
import type { FactsCursor, SessionFacts } from "../../store/session-facts.ts";
import type { FindAgents } from "../agents.ts";
import type { Authenticated, Caller } from "../auth.ts";

export interface PairSessionsDeps {
  /** Of the newest sessions of two agents, the newest first; what each sent is one entry. Throws `Unavailable`. */
  readonly factsOfPair: (one: string, other: string) => Promise<readonly SessionFacts[]>;
}

export interface SentSessionsDeps {
  /** What an agent sent, newest first, after the cursor. Throws `Unavailable`. */
  readonly factsOfOwner: (
    ownerId: string,
    after: FactsCursor | null,
    limit: number,
  ) => Promise<readonly SessionFacts[]>;
}

export interface PairSession {
  readonly sessionId: Uint8Array;
  /** Who began it, as far as an initiation was seen. */
  readonly initiated: { readonly initiatorId: string; readonly suite: number; readonly at: number } | null;
  /** null: nothing yet. */
  readonly sent: SessionFacts | null;
  readonly received: SessionFacts | null;
}

/** Sessions of a page: some 30 KB of JSON. */
const SENT_SESSIONS_MAX = 100;

/** Who holds the keys of two agents. */
export interface PairCustody {
  readonly custody: Custody;
  /** Null when the peer is not known here. */
  readonly peerCustody: Custody | null;
}

/** What the two custodies mean for what is said between them. @throws Unavailable */
export async function pairCustody(
  { findAgents }: { readonly findAgents: FindAgents },
  { agentId, custody }: Authenticated,
  peerId: string,
): Promise<PairCustody> {
  const agents = await findAgents([peerId]);
  return { custody, peerCustody: peerId === agentId ? custody : (agents.get(peerId)?.custody ?? null) };
}

/** The caller's sessions with a peer, the newest first. @throws Unavailable */
export async function pairSessions(
  deps: PairSessionsDeps,
  { agentId }: Caller,
  peerId: string,
): Promise<readonly PairSession[]> {
  const sessions = new Map<string, SessionFacts[]>();
  for (const facts of await deps.factsOfPair(agentId, peerId)) {
    const name = Buffer.from(facts.sessionId).toString("hex");
    const sides = sessions.get(name) ?? [];
    sides.push(facts);
    sessions.set(name, sides);
  }
  return [...sessions.values()].flatMap((sides) => {
    const [first] = sides;
    if (first === undefined) return [];
    const of = (ownerId: string) => sides.find((facts) => facts.ownerId === ownerId) ?? null;
    return [{ sessionId: first.sessionId, initiated: initiatedBy(sides), sent: of(agentId), received: of(peerId) }];
  });
}

/** Of two that claim it, the one that was first. */
function initiatedBy(sides: readonly SessionFacts[]): PairSession["initiated"] {
  const claims = sides.flatMap(({ ownerId, initiation }) =>
    initiation === null ? [] : [{ initiatorId: ownerId, suite: initiation.suite, at: initiation.at }],
  );
  return claims.toSorted((a, b) => a.at - b.at)[0] ?? null;
}

/** A page of what the caller sent last in each of its sessions, newest first; `next` is null on the last page. @throws Unavailable */
export async function sentSessions(
  deps: SentSessionsDeps,
  { agentId }: Caller,
  after: FactsCursor | null,
): Promise<{ readonly sessions: readonly SessionFacts[]; readonly next: FactsCursor | null }> {
  const found = await deps.factsOfOwner(agentId, after, SENT_SESSIONS_MAX + 1);
  const sessions = found.slice(0, SENT_SESSIONS_MAX);
  return { sessions, next: found.length > sessions.length ? (sessions.at(-1) ?? null) : null };
}
