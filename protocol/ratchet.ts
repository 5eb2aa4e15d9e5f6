/**
 * The Double Ratchet of one session (protocol.md §4), as plain data that never changes: every step gives a new ratchet.
 *
 * Receiving has two halves, so that nothing is kept of a message that is not authentic: `findMessageKey` derives the key, and only
 * when the tag has verified under it does the caller take `advance()`. No chain key outlives its use here, and the
 * caller wipes the message key.
 */
import { asciiBytes, equalBytes } from "./bytes.ts";
import { agree } from "./key-agreement.ts";
import { JUMP_MAX, RATCHET_KEYS_REMEMBERED_MAX, SKIPPED_KEY_AGE_MS_MAX, SKIPPED_KEYS_MAX } from "./limits.ts";
import { generateX25519, type KeyPair, type Primitives, type Random } from "./primitives/primitives.ts";
import { Refusal } from "./refusal.ts";

const ROOT_INFO = asciiBytes("sealpost/v1/root");
const CHAIN_INFO = asciiBytes("message_key");
const ZERO_SALT = new Uint8Array(32);
const KEY_BYTES = 32;

export interface ReceivingChain {
  readonly key: Uint8Array;
  /** The last counter used; 0 if none. */
  readonly counter: number;
}

export interface SendingChain extends ReceivingChain {
  /** When its first message was sent; null before. */
  readonly firstSentAt: number | null;
}

/** The key of a message that has not come. */
export interface SkippedKey {
  readonly ratchetKey: Uint8Array;
  readonly counter: number;
  readonly messageKey: Uint8Array;
  readonly storedAt: number;
}

export interface Ratchet {
  readonly rootKey: Uint8Array;
  readonly own: KeyPair;
  /** The peer's current ratchet key; null before the responder's first message. */
  readonly peerKey: Uint8Array | null;
  /** Null before the responder's first message. */
  readonly sending: SendingChain | null;
  /** Null until a message has come under `peerKey`. */
  readonly receiving: ReceivingChain | null;
  /** Messages in the own previous sending chain. */
  readonly previousCounter: number;
  /** The peer's ratchet keys before the current one, oldest first, as far as they are remembered. */
  readonly earlierPeerKeys: readonly Uint8Array[];
  /** In the order in which they were stored. */
  readonly skipped: readonly SkippedKey[];
}

/** What the ratchet needs of an envelope. */
export interface RatchetHeader {
  readonly dhPublicKey: Uint8Array;
  readonly sendCounter: number;
  readonly previousCounter: number;
}

export interface SendStep {
  readonly messageKey: Uint8Array;
  readonly header: RatchetHeader;
  readonly ratchet: Ratchet;
}

export interface ReceiveStep {
  readonly messageKey: Uint8Array;
  /** The ratchet after this message. A new own pair is made here, if the message turned the ratchet. */
  readonly advance: (random: Random) => Ratchet;
}

/** A's start: a fresh pair, and a sending chain under B's signed prekey. Refuses `bad-key`. */
export function startRatchet(
  primitives: Primitives,
  secret: Uint8Array,
  signedPrekey: Uint8Array,
  random: Random,
): Ratchet {
  const own = generateX25519(primitives, random);
  const { rootKey, chainKey } = turn(primitives, secret, own, signedPrekey);
  return {
    rootKey,
    own,
    peerKey: signedPrekey.slice(),
    sending: { key: chainKey, counter: 0, firstSentAt: null },
    receiving: null,
    previousCounter: 0,
    earlierPeerKeys: [],
    skipped: [],
  };
}

/** B's start: its signed prekey is the first ratchet pair; the first message turns it. */
export function answerRatchet(secret: Uint8Array, signedPrekey: KeyPair): Ratchet {
  return {
    rootKey: secret,
    own: signedPrekey,
    peerKey: null,
    sending: null,
    receiving: null,
    previousCounter: 0,
    earlierPeerKeys: [],
    skipped: [],
  };
}

/** The key of the next message, and the ratchet after it, which must be stored before the message leaves. */
export function nextMessageKey(primitives: Primitives, ratchet: Ratchet, now: number): SendStep {
  const { sending } = ratchet;
  if (sending === null) throw new Error("a ratchet that has not received anything cannot send");
  const { chainKey, messageKey } = stepChain(primitives, sending.key);
  const counter = sending.counter + 1;
  return {
    messageKey,
    header: { dhPublicKey: ratchet.own.publicKey, sendCounter: counter, previousCounter: ratchet.previousCounter },
    ratchet: { ...ratchet, sending: { key: chainKey, counter, firstSentAt: sending.firstSentAt ?? now } },
  };
}

/** Refuses `message-key-gone`, `counter-too-far` and `bad-key`, in this order. */
export function findMessageKey(
  primitives: Primitives,
  ratchet: Ratchet,
  header: RatchetHeader,
  now: number,
): ReceiveStep {
  const stored = ratchet.skipped.find(
    (key) =>
      key.counter === header.sendCounter && equalBytes(key.ratchetKey, header.dhPublicKey) && !isExpired(key, now),
  );
  if (stored !== undefined) return takeSkipped(ratchet, stored, now);
  const { receiving, peerKey } = ratchet;
  // Before its first message A holds B's signed prekey as peer key, without a chain: a message under it is like any new key.
  if (receiving !== null && peerKey !== null && equalBytes(peerKey, header.dhPublicKey)) {
    return stepReceiving(primitives, ratchet, { receiving, peerKey }, header, now);
  }
  if (ratchet.earlierPeerKeys.some((key) => equalBytes(key, header.dhPublicKey))) throw new Refusal("message-key-gone");
  return turnReceiving(primitives, ratchet, header, now);
}

/** Is it of the chain that is being received now? */
export function isOfCurrentChain(ratchet: Ratchet, header: RatchetHeader): boolean {
  return ratchet.peerKey !== null && equalBytes(ratchet.peerKey, header.dhPublicKey);
}

/** The skipped keys that are left at this time. */
export function liveSkippedKeys(ratchet: Ratchet, now: number): readonly SkippedKey[] {
  const { skipped } = ratchet;
  return skipped.some((key) => isExpired(key, now)) ? skipped.filter((key) => !isExpired(key, now)) : skipped;
}

function takeSkipped(ratchet: Ratchet, taken: SkippedKey, now: number): ReceiveStep {
  return {
    // A copy, since the caller wipes it and this ratchet must stay as it is if the message turns out to be forged.
    messageKey: taken.messageKey.slice(),
    advance: () => ({ ...ratchet, skipped: liveSkippedKeys(ratchet, now).filter((key) => key !== taken) }),
  };
}

function stepReceiving(
  primitives: Primitives,
  ratchet: Ratchet,
  { receiving, peerKey }: { readonly receiving: ReceivingChain; readonly peerKey: Uint8Array },
  header: RatchetHeader,
  now: number,
): ReceiveStep {
  if (header.sendCounter <= receiving.counter) throw new Refusal("message-key-gone");
  checkJump(header.sendCounter - receiving.counter - 1);
  const { chain, messageKey, skipped } = receiveUpTo(primitives, receiving, peerKey, header.sendCounter, now);
  return {
    messageKey,
    advance: () => ({ ...ratchet, receiving: chain, skipped: keepSkipped(ratchet, skipped, now) }),
  };
}

/** The first message under a new key of the peer: closes its previous chain, and turns both directions. */
function turnReceiving(primitives: Primitives, ratchet: Ratchet, header: RatchetHeader, now: number): ReceiveStep {
  const { own, peerKey, receiving } = ratchet;
  if (receiving !== null) checkJump(header.previousCounter - receiving.counter);
  checkJump(header.sendCounter - 1);
  const received = turn(primitives, ratchet.rootKey, own, header.dhPublicKey);
  const closed =
    receiving === null || peerKey === null
      ? []
      : skipUpTo(primitives, receiving, peerKey, header.previousCounter, now).skipped;
  const opened = { key: received.chainKey, counter: 0 };
  const peerKeyNow = header.dhPublicKey.slice();
  const { chain, messageKey, skipped } = receiveUpTo(primitives, opened, peerKeyNow, header.sendCounter, now);
  return {
    messageKey,
    advance: (random) => {
      const next = generateX25519(primitives, random);
      const sent = turn(primitives, received.rootKey, next, peerKeyNow);
      return {
        rootKey: sent.rootKey,
        own: next,
        peerKey: peerKeyNow,
        sending: { key: sent.chainKey, counter: 0, firstSentAt: null },
        receiving: chain,
        previousCounter: ratchet.sending?.counter ?? 0,
        earlierPeerKeys: rememberPeerKey(ratchet),
        skipped: keepSkipped(ratchet, [...closed, ...skipped], now),
      };
    },
  };
}

/** Advances a chain up to and with `counter`, whose key is the message's. */
function receiveUpTo(
  primitives: Primitives,
  chain: ReceivingChain,
  ratchetKey: Uint8Array,
  counter: number,
  now: number,
) {
  const before = skipUpTo(primitives, chain, ratchetKey, counter - 1, now);
  const { chainKey, messageKey } = stepChain(primitives, before.chain.key);
  return { chain: { key: chainKey, counter }, messageKey, skipped: before.skipped };
}

/** Advances a chain up to `counter` (not at all if it is there already) and gives the keys passed by, as many as may be kept. */
function skipUpTo(primitives: Primitives, chain: ReceivingChain, ratchetKey: Uint8Array, counter: number, now: number) {
  if (chain.counter >= counter) return { chain, skipped: NONE_SKIPPED };
  const skipped: SkippedKey[] = [];
  let { key } = chain;
  for (let at = chain.counter + 1; at <= counter; at++) {
    const { chainKey, messageKey } = stepChain(primitives, key);
    key = chainKey;
    if (counter - at < SKIPPED_KEYS_MAX) skipped.push({ ratchetKey, counter: at, messageKey, storedAt: now });
  }
  return { chain: { key, counter }, skipped };
}

const NONE_SKIPPED: readonly SkippedKey[] = [];

/** Expired keys go first, then the oldest. */
function keepSkipped(ratchet: Ratchet, added: readonly SkippedKey[], now: number): readonly SkippedKey[] {
  const live = liveSkippedKeys(ratchet, now);
  return added.length === 0 ? live : [...live, ...added].slice(-SKIPPED_KEYS_MAX);
}

/** B's signed prekey is none of A's earlier keys, since no message came under it. */
function rememberPeerKey({ earlierPeerKeys, peerKey, receiving }: Ratchet): readonly Uint8Array[] {
  if (peerKey === null || receiving === null) return earlierPeerKeys;
  return [...earlierPeerKeys, peerKey].slice(-RATCHET_KEYS_REMEMBERED_MAX);
}

function checkJump(skippedCount: number): void {
  if (skippedCount > JUMP_MAX) throw new Refusal("counter-too-far");
}

function isExpired(key: SkippedKey, now: number): boolean {
  return now - key.storedAt > SKIPPED_KEY_AGE_MS_MAX;
}

/** KDF_RK (§4) over a Diffie-Hellman output, which is wiped. */
function turn(primitives: Primitives, rootKey: Uint8Array, own: KeyPair, publicKey: Uint8Array) {
  const output = agree(primitives, own, publicKey);
  const keys = primitives.hkdfSha256(output, rootKey, ROOT_INFO, 2 * KEY_BYTES);
  output.fill(0);
  const turned = { rootKey: keys.slice(0, KEY_BYTES), chainKey: keys.slice(KEY_BYTES) };
  keys.fill(0);
  return turned;
}

/** KDF_CK (§4). The two keys share no memory: one is wiped while the other lives. */
function stepChain(primitives: Primitives, key: Uint8Array) {
  const keys = primitives.hkdfSha256(key, ZERO_SALT, CHAIN_INFO, 2 * KEY_BYTES);
  const stepped = { chainKey: keys.slice(0, KEY_BYTES), messageKey: keys.slice(KEY_BYTES) };
  keys.fill(0);
  return stepped;
}
