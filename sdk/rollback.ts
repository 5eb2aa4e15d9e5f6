/**
 * Finds out whether the store of this agent was rolled back: copied back from a backup, on a volume that was, or by a disk that lost what it
 * had confirmed.
 *
 * The service has seen the latest message of this agent in each of its sessions. One that the store does not know was sent by a later state
 * of it; what this state would send in that session was sent before, under the same keys. Such a session only receives from now on.
 */
import { decodeEnvelope } from "../protocol/envelope.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { retireSessions } from "../protocol/peer.ts";
import { SendRejected } from "./errors.ts";
import type { Sealing } from "./sealing.ts";
import type { SentSession, Service } from "./service.ts";
import type { PendingEnvelope } from "./store/outbox.ts";
import type { Store } from "./store/store.ts";

/** The outbox forgets a message 40 days after its end; a day for clocks that differ. */
const KNOWN_MS = 39 * DAY_MS;

/** Pending envelopes looked at together. */
const PAGE_MAX = 100;

interface RollbackPorts {
  readonly store: Store;
  readonly service: Service;
  readonly sealing: Pick<Sealing, "sealAnew">;
}

/**
 * How many messages the service has seen that this store has lost, and had not found missing before. Whoever is interrupted begins again: what was
 * lost counts as found when nothing waits any more that was sealed in a session of it. Throws what `Service` throws.
 */
export async function findRollback({ store, service, sealing }: RollbackPorts): Promise<number> {
  const lost = await findLost(store, service);
  if (lost.length === 0) return 0;
  await store.commit(() => {
    for (const [peerId, sessionIds] of sessionsByPeer(lost)) {
      store.peers.put(retireSessions(store.peers.get(peerId), sessionIds));
    }
  });
  const retired = new Set(lost.map(({ sessionId }) => hex(sessionId)));
  for (const { recipientId, messageId } of pendingIn(store, retired)) {
    await sealing.sealAnew(recipientId, messageId, null).catch(leaveRejected);
  }
  await store.commit(() => {
    for (const { messageId } of lost) store.accounts.markLost(messageId);
  });
  return lost.length;
}

/** The newest first: where a page brings nothing that is lost, nothing older was. */
async function findLost(store: Store, service: Service): Promise<SentSession[]> {
  const lost: SentSession[] = [];
  const since = Date.now() - KNOWN_MS;
  let cursor: string | null = null;
  do {
    const page = await service.sentSessions(cursor);
    const found = page.sessions.filter(
      ({ lastAt, messageId }) =>
        lastAt > since && store.outbox.status(messageId) === null && !store.accounts.isLost(messageId),
    );
    lost.push(...found);
    cursor = found.length === 0 ? null : page.cursor;
  } while (cursor !== null);
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
    const page = store.outbox.pending(afterN, PAGE_MAX, Number.POSITIVE_INFINITY);
    found.push(...page.filter(({ envelope }) => sessions.has(hex(decodeEnvelope(envelope).sessionId))));
    const last = page.at(-1);
    if (last === undefined || page.length < PAGE_MAX) return found;
    afterN = last.n;
  }
}

/** Who cannot be written to any more is sent the envelope as it is, and the service says so. */
function leaveRejected(error: unknown): void {
  if (!(error instanceof SendRejected) || error.retryable) throw error;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
