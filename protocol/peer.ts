/**
 * All that an agent keeps about one peer, and the rules of protocol.md §4 and §7 over it: which session sends, which receives,
 * which becomes active, what a retry request leads to.
 *
 * A `Peer` is plain data that never changes: each function gives the next one, or throws a `Refusal` and nothing has
 * happened. `peer-record.ts` makes bytes of it. Whoever calls stores the next peer before an envelope leaves, and with
 * what was opened and the deletion of used prekeys in one atomic write.
 */
import { compareBytes, EMPTY, equalBytes } from "./bytes.ts";
import type { Envelope } from "./envelope.ts";
import type { Frame, FrameFault } from "./frame.ts";
import { checkIdentity, type Identity } from "./identity.ts";
import { decodeInitiation, type Initiation } from "./initiation.ts";
import { sessionIdOf } from "./key-agreement.ts";
import {
  ARCHIVED_SESSIONS_MAX,
  CHAIN_MESSAGES_MAX,
  INITIATIONS_PER_PREKEY_MAX,
  REPAIR_SESSION_INTERVAL_MS_MIN,
  UNANSWERED_SESSION_AGE_MS_MAX,
} from "./limits.ts";
import { type Bundle, type BundleLimits, checkBundle } from "./prekeys.ts";
import type { KeyPair, Primitives } from "./primitives/primitives.ts";
import { Refusal } from "./refusal.ts";
import { checkRetryRequest, type RetryRequest } from "./retry-request.ts";
import {
  answerSession,
  type Clock,
  type Outgoing,
  openInSession,
  REKEY_CONTENT_TYPE,
  type Session,
  sealInSession,
  startSession,
  type UsedPrekeys,
} from "./session.ts";

export interface Peer {
  readonly agentId: string;
  /** Checked against the id; null until a bundle or an initiation has shown it. */
  readonly identityKey: Uint8Array | null;
  /** The session that sends. */
  readonly active: Session | null;
  /** These still receive. The one archived first stands first. */
  readonly archived: readonly Session[];
  /** Sessions that the peer began: an initiation of one of them is never accepted again. */
  readonly remembered: readonly RememberedSession[];
  /** The latest timestamp of all messages received; kept when sessions go. */
  readonly latestTimestamp: number | null;
  /** When this agent last began a session because of a repair. */
  readonly repairedAt: number | null;
}

export interface RememberedSession {
  readonly sessionId: Uint8Array;
  /** It is remembered for as long as this prekey's private half exists. */
  readonly signedPrekeyId: string;
}

/** The agent's private prekeys that are still there, by id. */
export interface PrekeyLookup {
  readonly signedPrekey: (id: string) => KeyPair | null;
  readonly oneTimePrekey: (id: string) => KeyPair | null;
  /** One-time ones and those of last resort. */
  readonly kemPrekey: (id: string) => OwnKemPrekey | null;
  /** Has this agent ever published a KEM prekey, or does it require suite 2? Then it refuses suite 1. */
  readonly kemPublished: boolean;
}

export interface OwnKemPrekey {
  readonly pair: KeyPair;
  /** It may be used again; a one-time prekey is used up. */
  readonly lastResort: boolean;
}

/** What a caller says; the rest of the envelope follows from the state. */
export interface Message {
  /** UUIDv7; its time is the envelope's timestamp. */
  readonly messageId: string;
  readonly contentType: string;
  readonly body: Uint8Array;
}

export interface Sealed {
  /** To be stored, with the envelope, before the envelope leaves. */
  readonly peer: Peer;
  readonly envelope: Envelope;
}

/** The tag has verified: whatever the frame is, `peer` is to be stored and `usedPrekeys` to be deleted. */
export interface Opened {
  readonly peer: Peer;
  /** The content, or why the message is refused for good. */
  readonly frame: Frame | FrameFault;
  /** Ids of one-time prekeys, X25519 and KEM, whose private halves are used up. */
  readonly usedPrekeys: readonly string[];
  /** Does the peer wait for an answer? If there is none to give: `sealRekeyAnswer`. */
  readonly rekeyAnswerDue: boolean;
}

/** not-yet: only a new session would help, and the last repair began one less than an hour ago. */
export type RepairPlan = "new-session" | "active-session" | "not-yet";

/** A peer of whom nothing is known yet. */
export function unknownPeer(agentId: string): Peer {
  return {
    agentId,
    identityKey: null,
    active: null,
    archived: [],
    remembered: [],
    latestTimestamp: null,
    repairedAt: null,
  };
}

/** The session that would send now; null when the next message needs a bundle and `initiate`. */
export function sendingSession(peer: Peer, now: number): Session | null {
  const session = lastingSession(peer, now);
  return (session?.ratchet.sending?.counter ?? 0) >= CHAIN_MESSAGES_MAX ? null : session;
}

/** The session that goes on sending when `sendingSession` has none and no bundle can be had; null when nothing can be sent without one. */
export function lastingSession({ active }: Peer, now: number): Session | null {
  if (active === null) return null;
  const { unanswered } = active;
  const isStale = unanswered !== null && now - unanswered.startedAt > UNANSWERED_SESSION_AGE_MS_MAX;
  return isStale ? null : active;
}

/**
 * Begins a session from a bundle, after all its checks; it becomes the active one.
 *
 * `repaired`: the session that it takes the place of, when a repair asked for it. `requirePq`: nothing below suite 2. Refuses what
 * `checkBundle` refuses, `identity-mismatch` for another agent's bundle, `suite-refused`, `bad-key`.
 */
export function initiate(
  primitives: Primitives,
  me: Identity,
  peer: Peer,
  bundle: Bundle,
  options: Clock & BundleLimits & { readonly repaired?: Uint8Array; readonly requirePq?: boolean },
): Peer {
  checkBundle(primitives, bundle, options.now, options);
  if (bundle.agentId !== peer.agentId || bundle.agentId === me.agentId) throw new Refusal("identity-mismatch");
  if (options.requirePq === true && bundle.kemPrekey === null) throw new Refusal("suite-refused");
  const session = startSession(primitives, me, bundle, options);
  const known = { ...peer, identityKey: bundle.identityKey.slice() };
  const { repaired } = options;
  return activate(repaired === undefined ? known : markReplaced(known, repaired, options.now), session);
}

/** Seals in the active session. Throws when there is none to use: ask `sendingSession`, or `lastingSession`, before. */
export function sealMessage(primitives: Primitives, me: Identity, peer: Peer, message: Message, clock: Clock): Sealed {
  const session = lastingSession(peer, clock.now);
  if (session === null) throw new Error("there is no session to send in");
  return sealIn(primitives, me, peer, session, message, clock);
}

/** The empty control message that answers a rekey request, in the session that asked. Null if that is gone, or does not send any more. */
export function sealRekeyAnswer(
  primitives: Primitives,
  me: Identity,
  peer: Peer,
  { sessionId, messageId }: { readonly sessionId: Uint8Array; readonly messageId: string },
  clock: Clock,
): Sealed | null {
  const session = findSession(peer, sessionId);
  if (session === null || session.replaced) return null;
  return sealIn(primitives, me, peer, session, { messageId, contentType: REKEY_CONTENT_TYPE, body: EMPTY }, clock);
}

/** Has nothing been sent in this session since the peer's chain began, so that a rekey it asked for is still to be answered? */
export function isRekeyAnswerOwed(peer: Peer, sessionId: Uint8Array): boolean {
  return findSession(peer, sessionId)?.ratchet.sending?.counter === 0;
}

/**
 * Opens an envelope of this peer: steps 2 to 7 of §7. Its shape has been checked by the decoder it came from, and that it is
 * no duplicate by the caller, who remembers what was delivered.
 *
 * Throws the `Refusal` of steps 2 to 6, and nothing has changed.
 */
export function openEnvelope(
  primitives: Primitives,
  me: Identity,
  prekeys: PrekeyLookup,
  peer: Peer,
  envelope: Envelope,
  clock: Clock,
): Opened {
  if (envelope.senderId !== peer.agentId) throw new Error("an envelope is opened with its sender's record");
  if (envelope.recipientId !== me.agentId) throw new Refusal("wrong-recipient");
  const known = findSession(peer, envelope.sessionId);
  if (known !== null) {
    const { session, frame, rekeyAnswerDue } = openInSession(primitives, known, envelope, clock);
    return { peer: receivedIn(peer, session, envelope.timestamp), frame, usedPrekeys: [], rekeyAnswerDue };
  }
  const initiation = acceptableInitiation(primitives, me, peer, envelope);
  const { found, usedUp } = findPrekeys(prekeys, initiation);
  const answer = answerSession(primitives, me, found, envelope.sessionId, initiation);
  const { session, frame, rekeyAnswerDue } = openInSession(primitives, answer, envelope, clock);
  const remembered = { sessionId: session.id, signedPrekeyId: initiation.signedPrekeyId };
  const introduced = {
    ...peer,
    identityKey: initiation.identityKey.slice(),
    remembered: [...peer.remembered, remembered],
  };
  return {
    peer: receivedIn(introduced, session, envelope.timestamp),
    frame,
    usedPrekeys: usedUp,
    rekeyAnswerDue,
  };
}

/** The peer without the remembered sessions whose signed prekey's private half is gone (`signedPrekey` answers null). */
export function forgetOldInitiations(peer: Peer, prekeys: { readonly signedPrekey: (id: string) => unknown }): Peer {
  const remembered = peer.remembered.filter(({ signedPrekeyId }) => prekeys.signedPrekey(signedPrekeyId) !== null);
  return remembered.length === peer.remembered.length ? peer : { ...peer, remembered };
}

/**
 * The peer after its store was rolled back: these sessions still receive, and never send again, since what they would send was sent before.
 * The next message begins a new one. The same peer when it has none of them, or they were retired before.
 */
export function retireSessions(peer: Peer, sessionIds: readonly Uint8Array[]): Peer {
  const isRetired = ({ id }: Session) => sessionIds.some((sessionId) => equalBytes(sessionId, id));
  const retire = (session: Session) => (isRetired(session) ? { ...session, replaced: true } : session);
  const { active, archived } = peer;
  if (active !== null && isRetired(active)) {
    return { ...peer, active: null, archived: archive(archived.map(retire), retire(active)) };
  }
  const isKnown = archived.some((session) => isRetired(session) && !session.replaced);
  return isKnown ? { ...peer, archived: archived.map(retire) } : peer;
}

/** The peer without its sessions, after state was lost. What protects against replays stays. */
export function forgetSessions(peer: Peer): Peer {
  return { ...peer, active: null, archived: [] };
}

/**
 * What a peer's retry request leads to: a new session (`initiate` with `repaired`), the active one if there is one, or waiting.
 *
 * Refuses `wrong-recipient` when the failed message is not this agent's, and what `checkRetryRequest` refuses.
 */
export function planRepair(
  primitives: Primitives,
  me: Identity,
  peer: Peer,
  request: RetryRequest,
  now: number,
): RepairPlan {
  if (request.recipientId !== peer.agentId) throw new Error("a retry request is answered with its signer's record");
  if (request.senderId !== me.agentId) throw new Refusal("wrong-recipient");
  if (peer.identityKey === null) throw new Refusal("session-unknown");
  checkRetryRequest(primitives, request, { recipientIdentityKey: peer.identityKey, now });
  const failed = findSession(peer, request.sessionId);
  const isCurrent = failed !== null && equalBytes(failed.ratchet.own.publicKey, request.dhPublicKey);
  // Several messages may have failed in one session: the first of their requests replaces it, the others use what took its place.
  if (!isCurrent || failed.replaced) return "active-session";
  const isTooSoon = peer.repairedAt !== null && now - peer.repairedAt < REPAIR_SESSION_INTERVAL_MS_MIN;
  if (!isTooSoon) return "new-session";
  // What is said anew in the session that failed fails again, until it has been said as often as it may be.
  return peer.active !== null && equalBytes(peer.active.id, failed.id) ? "not-yet" : "active-session";
}

function sealIn(
  primitives: Primitives,
  me: Identity,
  peer: Peer,
  session: Session,
  message: Message,
  clock: Clock,
): Sealed {
  const outgoing: Outgoing = { ...message, recipientId: peer.agentId };
  const sealed = sealInSession(primitives, me, session, outgoing, clock);
  return { peer: putSession(peer, sealed.session), envelope: sealed.envelope };
}

/** Step 3 of §7 for an envelope of no known session, up to the prekeys. */
function acceptableInitiation(primitives: Primitives, me: Identity, peer: Peer, envelope: Envelope): Initiation {
  if (envelope.initiation.length === 0) throw new Refusal("session-unknown");
  if (peer.remembered.some(({ sessionId }) => equalBytes(sessionId, envelope.sessionId))) {
    throw new Refusal("message-key-gone");
  }
  const initiation = decodeInitiation(envelope.initiation);
  checkIdentity(primitives, envelope.senderId, initiation.identityKey);
  const sessionId = sessionIdOf(primitives, initiation, me.signing.publicKey);
  if (!equalBytes(sessionId, envelope.sessionId)) throw new Refusal("session-mismatch");
  const { signedPrekeyId } = initiation;
  const begun = peer.remembered.filter((session) => session.signedPrekeyId === signedPrekeyId).length;
  // To this peer the prekey is used up: it may begin with the next one.
  if (begun >= INITIATIONS_PER_PREKEY_MAX) throw new Refusal("prekey-unknown");
  return initiation;
}

/** The private prekeys that an initiation names, and the ids of those that its first message uses up. */
function findPrekeys(
  prekeys: PrekeyLookup,
  initiation: Initiation,
): { readonly found: UsedPrekeys; readonly usedUp: readonly string[] } {
  if (initiation.suite === 1 && prekeys.kemPublished) throw new Refusal("suite-refused");
  const { signedPrekeyId, oneTimePrekeyId } = initiation;
  const signedPrekey = present(prekeys.signedPrekey(signedPrekeyId));
  const oneTimePrekey = oneTimePrekeyId === null ? null : present(prekeys.oneTimePrekey(oneTimePrekeyId));
  const usedUp = oneTimePrekeyId === null ? [] : [oneTimePrekeyId];
  if (initiation.suite === 1) return { found: { signedPrekey, oneTimePrekey, kem: null }, usedUp };
  const { kemPrekeyId, kemCiphertext } = initiation;
  const { pair, lastResort } = present(prekeys.kemPrekey(kemPrekeyId));
  return {
    found: { signedPrekey, oneTimePrekey, kem: { pair, ciphertext: kemCiphertext } },
    usedUp: lastResort ? usedUp : [...usedUp, kemPrekeyId],
  };
}

function present<Prekey>(prekey: Prekey | null): Prekey {
  if (prekey === null) throw new Refusal("prekey-unknown");
  return prekey;
}

/** A message of this session has opened: does the session become active? */
function receivedIn(peer: Peer, session: Session, timestamp: number): Peer {
  const { active } = peer;
  const isLatest = peer.latestTimestamp === null || timestamp > peer.latestTimestamp;
  const heard = isLatest ? { ...peer, latestTimestamp: timestamp } : peer;
  const isActive = active !== null && equalBytes(active.id, session.id);
  const isAsked = active === null || isLatest;
  if (!isActive && isAsked && !session.replaced && !prevails(active, session)) return activate(heard, session);
  return putSession(heard, session);
}

/** Of two starts that crossed, both sides keep the one with the smaller id. */
function prevails(active: Session | null, other: Session): boolean {
  return active !== null && active.unanswered !== null && compareBytes(active.id, other.id) < 0;
}

function findSession(peer: Peer, sessionId: Uint8Array): Session | null {
  if (peer.active !== null && equalBytes(peer.active.id, sessionId)) return peer.active;
  return peer.archived.find(({ id }) => equalBytes(id, sessionId)) ?? null;
}

/** Puts a session back where it was; a new one into the archive. */
function putSession(peer: Peer, session: Session): Peer {
  if (peer.active !== null && equalBytes(peer.active.id, session.id)) return { ...peer, active: session };
  const isArchived = peer.archived.some(({ id }) => equalBytes(id, session.id));
  if (!isArchived) return { ...peer, archived: archive(peer.archived, session) };
  return { ...peer, archived: peer.archived.map((other) => (equalBytes(other.id, session.id) ? session : other)) };
}

function activate(peer: Peer, session: Session): Peer {
  const others = peer.archived.filter(({ id }) => !equalBytes(id, session.id));
  return { ...peer, active: session, archived: peer.active === null ? others : archive(others, peer.active) };
}

/** Of more than may be kept, the one archived first goes. */
function archive(archived: readonly Session[], session: Session): readonly Session[] {
  return [...archived, session].slice(-ARCHIVED_SESSIONS_MAX);
}

function markReplaced(peer: Peer, sessionId: Uint8Array, now: number): Peer {
  const failed = findSession(peer, sessionId);
  const repaired = { ...peer, repairedAt: now };
  return failed === null ? repaired : putSession(repaired, { ...failed, replaced: true });
}
