/**
 * Finds out whether the store of this agent was rolled back: copied back from a backup, on a volume that was, or by a disk that lost what it
 * had confirmed.
 *
 * The service has seen the latest message of this agent in each of its sessions. One that the store does not know was sent by a later state
 * of it; what this state would send in that session was sent before, under the same keys. Such a session only receives from now on, and what
 * was sealed in it and has not left is held, to be said anew.
 */
import { decodeEnvelope } from "../protocol/envelope.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { retireSessions } from "../protocol/peer.ts";
import type { SentSession, Service } from "./service.ts";
import type { PendingEnvelope } from "./store/outbox.ts";
import type { Store } from "./store/store.ts";

/** The outbox forgets a message 40 days after its end; a day for clocks that differ. */
const KNOWN_MS = 39 * DAY_MS;

/** Pending envelopes looked at together. */
const PENDING_MAX = 100;

/** Pages of the service's answer: 10,000 sessions. What is lost beyond is found at the next opening. */
const PAGES_MAX = 100;

/**
 * Retires sessions and holds envelopes, all in one transaction. How many messages the service has seen that this store has lost, and had not found
 * missing before. Throws what `Service` throws: nothing has changed.
 */
export async function findRollback(store: Store, service: Service): Promise<number> {
  const lost = await findLost(store, service);
  if (lost.length === 0) return 0;
  await store.commit(() => {
    for (const [peerId, sessionIds] of sessionsByPeer(lost)) {
      store.peers.put(retireSessions(store.peers.get(peerId), sessionIds));
    }
    const retired = new Set(lost.map(({ sessionId }) => hex(sessionId)));
    for (const { messageId } of pendingIn(store, retired)) store.outbox.hold(messageId);
    for (const { messageId } of lost) store.accounts.markLost(messageId);
  });
  return lost.length;
}

/** The newest first: where a page brings nothing that is lost, nothing older was. */
async function findLost(store: Store, service: Service): Promise<SentSession[]> {
  const lost: SentSession[] = [];
  const since = Date.now() - KNOWN_MS;
  let cursor: string | null = null;
  for (let pages = 0; pages < PAGES_MAX; pages++) {
    const page = await service.sentSessions(cursor);
    const found = page.sessions.filter(
      ({ lastAt, messageId }) =>
        lastAt > since && store.outbox.status(messageId) === null && !store.accounts.isLost(messageId),
    );
    lost.push(...found);
    cursor = page.cursor;
    if (found.length === 0 || cursor === null) break;
  }
  return lost;
}

function sessionsByPeer(sessions: readonly SentSession[]): Map<string, Uint8Array[]> {
  const byPeer = new Map<string, Uint8Array[]>();
  for (const { peerId, sessionId } of sessions) byPeer.set(peerId, [...(byPeer.get(peerId) ?? []), sessionId]);
  return byPeer;
}

function pendingIn(store: Store, sessions: ReadonlySet<string>): PendingEnvelope[] {
  const found: PendingEnvelope[] = [];
  for (let afterN = 0; ; ) {
    const page = store.outbox.pending(afterN, PENDING_MAX, Number.POSITIVE_INFINITY);
    found.push(...page.filter(({ envelope }) => sessions.has(hex(decodeEnvelope(envelope).sessionId))));
    const last = page.at(-1);
    if (last === undefined || page.length < PENDING_MAX) return found;
    afterN = last.n;
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
