/**
 * One session with a peer: a ratchet and what the protocol must know of how it began (protocol.md §3 and §4).
 *
 * Seals and opens in exactly this session; which session is used is decided in `peer.ts`.
 */
import { EMPTY } from "./bytes.ts";
import { type Envelope, type EnvelopeHeader, envelopeAad, NONCE_BYTES } from "./envelope.ts";
import { decodeFrame, encodeFrame, type Frame, type FrameFault } from "./frame.ts";
import type { Identity } from "./identity.ts";
import { encodeInitiation, type Initiation } from "./initiation.ts";
import { agreedSecret, initiatorOutputs, responderOutputs, sessionIdOf } from "./key-agreement.ts";
import { REKEY_AFTER_MESSAGES, REKEY_AFTER_MESSAGES_UNANSWERED, REKEY_AFTER_MS } from "./limits.ts";
import { messageIdTime } from "./message-id.ts";
import type { Bundle, KemPrekey } from "./prekeys.ts";
import {
  type Encapsulated,
  generateX25519,
  type KeyPair,
  type Primitives,
  type Random,
} from "./primitives/primitives.ts";
import {
  answerRatchet,
  findMessageKey,
  isOfCurrentChain,
  nextMessageKey,
  type Ratchet,
  startRatchet,
} from "./ratchet.ts";
import { Refusal } from "./refusal.ts";
import { splitRepairParameter } from "./repair-parameter.ts";

/** Flag bit 0 (§4). */
export const REKEY_REQUESTED = 1;

/** The content type of an empty control message, which does nothing but turn the ratchets (§4). */
export const REKEY_CONTENT_TYPE = "application/vnd.sealpost.rekey";

/** Content types that only the protocol itself uses; an application's message has none of them. */
export function isProtocolsOwn(contentType: string): boolean {
  return contentType === REKEY_CONTENT_TYPE || splitRepairParameter(contentType).inRepairOf !== null;
}

/** Bytes of m, from which ML-KEM makes the shared secret (FIPS 203 §7.2). */
const KEM_RANDOMNESS_BYTES = 32;

export interface Session {
  /** 16 bytes. */
  readonly id: Uint8Array;
  /** The own start that the peer has not answered; null once it has, and when the peer began. */
  readonly unanswered: UnansweredStart | null;
  /** It still receives, and never sends again: a repair has put another in its place, or its store was rolled back. */
  readonly replaced: boolean;
  readonly ratchet: Ratchet;
}

export interface UnansweredStart {
  readonly startedAt: number;
  /** The header that every message carries until the answer. */
  readonly initiation: Uint8Array;
}

/** The private prekeys that one initiation used. */
export interface UsedPrekeys {
  readonly signedPrekey: KeyPair;
  readonly oneTimePrekey: KeyPair | null;
  /** Null in suite 1. */
  readonly kem: UsedKemPrekey | null;
}

export interface UsedKemPrekey {
  readonly pair: KeyPair;
  readonly ciphertext: Uint8Array;
}

/** What is said, to whom. */
export interface Outgoing extends Frame {
  readonly recipientId: string;
  /** UUIDv7; its time is the envelope's timestamp. */
  readonly messageId: string;
}

/** A frame as bytes, and the flags to send it under. */
export interface OutgoingFrame {
  readonly recipientId: string;
  readonly messageId: string;
  readonly frame: Uint8Array;
  readonly flags: number;
}

export interface Clock {
  /** Milliseconds. */
  readonly now: number;
  readonly random: Random;
}

export interface SealedInSession {
  /** To be stored before the envelope leaves. */
  readonly session: Session;
  readonly envelope: Envelope;
}

export interface OpenedInSession {
  readonly session: Session;
  /** Why the frame is refused for good, if it is. */
  readonly frame: Frame | FrameFault;
  /** Does the peer wait for an answer that turns the ratchets? */
  readonly rekeyAnswerDue: boolean;
}

/** A's new session from a checked bundle: of suite 2 whenever that has a KEM prekey (§3). Refuses `bad-key`. */
export function startSession(primitives: Primitives, me: Identity, bundle: Bundle, { now, random }: Clock): Session {
  const ephemeral = generateX25519(primitives, random);
  const outputs = initiatorOutputs(primitives, me, ephemeral, {
    identityKey: bundle.identityKey,
    signedPrekey: bundle.signedPrekey.publicKey,
    oneTimePrekey: bundle.oneTimePrekey?.publicKey ?? null,
  });
  const names = { identityKey: me.signing.publicKey, ephemeralKey: ephemeral.publicKey };
  const ids = { signedPrekeyId: bundle.signedPrekey.id, oneTimePrekeyId: bundle.oneTimePrekey?.id ?? null };
  const { kemPrekey } = bundle;
  const kem = kemPrekey === null ? null : { id: kemPrekey.id, ...encapsulate(primitives, kemPrekey, random) };
  const initiation = encodeInitiation(
    kem === null
      ? { suite: 1, ...names, ...ids }
      : { suite: 2, ...names, ...ids, kemPrekeyId: kem.id, kemCiphertext: kem.ciphertext },
  );
  const secret = agreedSecret(primitives, outputs, kem?.sharedSecret ?? null);
  const ratchet = startRatchet(primitives, secret, bundle.signedPrekey.publicKey, random);
  secret.fill(0);
  return {
    id: sessionIdOf(primitives, names, bundle.identityKey),
    unanswered: { startedAt: now, initiation },
    replaced: false,
    ratchet,
  };
}

/** B's side of a checked initiation; it is kept only when its first message opens. Refuses `bad-key`. */
export function answerSession(
  primitives: Primitives,
  me: Identity,
  prekeys: UsedPrekeys,
  id: Uint8Array,
  initiation: Initiation,
): Session {
  const outputs = responderOutputs(primitives, me, prekeys, initiation);
  const { kem } = prekeys;
  const kemSecret = kem === null ? null : primitives.mlKem768Decapsulate(kem.pair, kem.ciphertext);
  const secret = agreedSecret(primitives, outputs, kemSecret);
  return { id: id.slice(), unanswered: null, replaced: false, ratchet: answerRatchet(secret, prekeys.signedPrekey) };
}

/** Refuses (`malformed`) only a content type that has no encoding. */
export function sealInSession(
  primitives: Primitives,
  me: Identity,
  session: Session,
  outgoing: Outgoing,
  clock: Clock,
): SealedInSession {
  const isControl = outgoing.contentType === REKEY_CONTENT_TYPE;
  const flags = !isControl && asksForRekey(session, clock.now) ? REKEY_REQUESTED : 0;
  return sealFrame(primitives, me, session, { ...outgoing, frame: encodeFrame(outgoing), flags }, clock);
}

/** Seals a frame as it is, under the flags given. `messageId` is a UUIDv7. */
export function sealFrame(
  primitives: Primitives,
  me: Identity,
  session: Session,
  { recipientId, messageId, frame, flags }: OutgoingFrame,
  { now, random }: Clock,
): SealedInSession {
  const timestamp = messageIdTime(messageId);
  if (timestamp === null) throw new Error("a message id is a UUIDv7");
  const step = nextMessageKey(primitives, session.ratchet, now);
  const header: EnvelopeHeader = {
    messageId,
    senderId: me.agentId,
    recipientId,
    sessionId: session.id,
    sendCounter: step.header.sendCounter,
    previousCounter: step.header.previousCounter,
    dhPublicKey: step.header.dhPublicKey,
    nonce: random(NONCE_BYTES),
    timestamp,
    flags,
    initiation: session.unanswered?.initiation ?? EMPTY,
  };
  const sealed = primitives.chacha20Poly1305Seal(step.messageKey, header.nonce, frame, envelopeAad(header));
  step.messageKey.fill(0);
  return {
    session: { ...session, ratchet: step.ratchet },
    envelope: { ...header, ciphertext: sealed.ciphertext, authTag: sealed.tag },
  };
}

/** Refuses `message-key-gone`, `counter-too-far`, `bad-key`, `auth-failed`; once the tag has verified it gives the session after it. */
export function openInSession(
  primitives: Primitives,
  session: Session,
  envelope: Envelope,
  { now, random }: Clock,
): OpenedInSession {
  const step = findMessageKey(primitives, session.ratchet, envelope, now);
  const sealed = { ciphertext: envelope.ciphertext, tag: envelope.authTag };
  const plaintext = primitives.chacha20Poly1305Open(step.messageKey, envelope.nonce, sealed, envelopeAad(envelope));
  step.messageKey.fill(0);
  if (plaintext === null) throw new Refusal("auth-failed");
  const ratchet = step.advance(random);
  const frame = decodeFrame(plaintext);
  return {
    session: { ...session, unanswered: null, ratchet },
    frame,
    rekeyAnswerDue: isRekeyAnswerDue(ratchet, envelope, frame),
  };
}

function encapsulate(primitives: Primitives, { publicKey }: KemPrekey, random: Random): Encapsulated {
  const randomness = random(KEM_RANDOMNESS_BYTES);
  const encapsulated = primitives.mlKem768Encapsulate(publicKey, randomness);
  randomness.fill(0);
  return encapsulated;
}

/** When bit 0 of the flags is set on the next message (§4). */
function asksForRekey({ unanswered, ratchet: { sending } }: Session, now: number): boolean {
  if (sending === null) return false;
  const counterMax = unanswered === null ? REKEY_AFTER_MESSAGES : REKEY_AFTER_MESSAGES_UNANSWERED;
  return sending.counter >= counterMax || (sending.firstSentAt !== null && now - sending.firstSentAt >= REKEY_AFTER_MS);
}

/**
 * At most once per receiving chain, and never for a control message. The own sending chain begins with the peer's receiving
 * chain, so whatever was sent in it since is the answer. A chain that is closed has had its answer.
 */
function isRekeyAnswerDue(ratchet: Ratchet, envelope: Envelope, frame: Frame | FrameFault): boolean {
  const asked = (envelope.flags & REKEY_REQUESTED) !== 0;
  if (!asked || typeof frame === "string" || frame.contentType === REKEY_CONTENT_TYPE) return false;
  return isOfCurrentChain(ratchet, envelope) && ratchet.sending?.counter === 0;
}
