/**
 * An agent that lives in memory, for tests of the protocol and of what is built on it: identity, prekeys, one record per peer, and the
 * memory of what was delivered. The rules are all in `peer.ts`; here is only the keeping.
 */
import type { Envelope } from "./envelope.ts";
import { createIdentity, type Identity } from "./identity.ts";
import { makeMessageId } from "./message-id.ts";
import {
  forgetSessions,
  initiate,
  type Opened,
  type OwnKemPrekey,
  openEnvelope,
  type Peer,
  planRepair,
  type RepairPlan,
  sealMessage,
  sealRekeyAnswer,
  sendingSession,
  unknownPeer,
} from "./peer.ts";
import { decodePeer, encodePeer } from "./peer-record.ts";
import {
  type Bundle,
  createKemPrekey,
  createOneTimePrekey,
  createSignedPrekey,
  type KemPrekey,
  type OneTimePrekey,
  type SignedPrekey,
} from "./prekeys.ts";
import type { KeyPair, Primitives, Random } from "./primitives/primitives.ts";
import { Refusal } from "./refusal.ts";
import { makeRetryRequest, type RetryRequest } from "./retry-request.ts";
import { sealFrame } from "./session.ts";

export const CONTENT_TYPE = "application/octet-stream";

/** What became of an envelope: opened, a duplicate, or refused with a code and (if it may be repaired) a request to its sender. */
export type Reception =
  | ({ readonly kind: "opened" } & Opened)
  | { readonly kind: "duplicate" }
  | { readonly kind: "refused"; readonly code: string; readonly request: RetryRequest };

export class AgentForTests {
  readonly identity: Identity;
  readonly oneTimePairs = new Map<string, KeyPair>();
  readonly kemPairs = new Map<string, OwnKemPrekey>();
  readonly #primitives: Primitives;
  readonly #random: Random;
  readonly #signedPrekey: { readonly prekey: SignedPrekey; readonly pair: KeyPair };
  readonly #oneTimePrekeys: OneTimePrekey[] = [];
  readonly #oneTimeKemPrekeys: KemPrekey[] = [];
  #lastResort: KemPrekey | null = null;
  #kemPublished = false;
  readonly #peers = new Map<string, Uint8Array>();
  readonly #delivered = new Set<string>();

  constructor(primitives: Primitives, random: Random, now: number) {
    this.#primitives = primitives;
    this.#random = random;
    this.identity = createIdentity(primitives, random);
    const id = makeMessageId(now, random);
    this.#signedPrekey = createSignedPrekey(primitives, this.identity, { id, now, random });
  }

  get id(): string {
    return this.identity.agentId;
  }

  addOneTimePrekey(now: number): void {
    const { prekey, pair } = createOneTimePrekey(this.#primitives, makeMessageId(now, this.#random), this.#random);
    this.#oneTimePrekeys.push(prekey);
    this.oneTimePairs.set(prekey.id, pair);
  }

  /** From the first of these on, whoever asks for a bundle begins with suite 2, and suite 1 is refused. */
  addKemPrekey(now: number, lastResort: boolean): void {
    const birth = { id: makeMessageId(now, this.#random), now, random: this.#random, lastResort };
    const { prekey, pair } = createKemPrekey(this.#primitives, this.identity, birth);
    if (lastResort) this.#lastResort = prekey;
    else this.#oneTimeKemPrekeys.push(prekey);
    this.kemPairs.set(prekey.id, { pair, lastResort });
    this.#kemPublished = true;
  }

  /** A bundle; each one-time prekey is handed out once. */
  bundle(): Bundle {
    return {
      agentId: this.id,
      identityKey: this.identity.signing.publicKey,
      signedPrekey: this.#signedPrekey.prekey,
      oneTimePrekey: this.#oneTimePrekeys.shift() ?? null,
      kemPrekey: this.#oneTimeKemPrekeys.shift() ?? this.#lastResort,
    };
  }

  peer(agentId: string): Peer {
    const record = this.#peers.get(agentId);
    return record === undefined ? unknownPeer(agentId) : decodePeer(record);
  }

  putPeer(peer: Peer): void {
    this.#peers.set(peer.agentId, encodePeer(peer));
  }

  /** Begins a session, whether or not there is one. */
  start(other: Pick<AgentForTests, "id" | "bundle">, now: number, repaired?: Uint8Array): void {
    const options = { now, random: this.#random, ...(repaired !== undefined && { repaired }) };
    this.putPeer(initiate(this.#primitives, this.identity, this.peer(other.id), other.bundle(), options));
  }

  /** Seals, beginning a session if there is none to send in. */
  send(other: AgentForTests, body: Uint8Array, now: number, contentType = CONTENT_TYPE): Envelope {
    if (sendingSession(this.peer(other.id), now) === null) this.start(other, now);
    const clock = { now, random: this.#random };
    const message = { messageId: makeMessageId(now, this.#random), contentType, body };
    const { peer, envelope } = sealMessage(this.#primitives, this.identity, this.peer(other.id), message, clock);
    this.putPeer(peer);
    return envelope;
  }

  /** The control message in answer to a rekey request. */
  answerRekey(other: AgentForTests, sessionId: Uint8Array, now: number): Envelope | null {
    const clock = { now, random: this.#random };
    const answer = { sessionId, messageId: makeMessageId(now, this.#random) };
    const sealed = sealRekeyAnswer(this.#primitives, this.identity, this.peer(other.id), answer, clock);
    if (sealed !== null) this.putPeer(sealed.peer);
    return sealed?.envelope ?? null;
  }

  receive(envelope: Envelope, now: number): Reception {
    const messageKey = `${envelope.senderId} ${envelope.messageId}`;
    if (this.#delivered.has(messageKey)) return { kind: "duplicate" };
    try {
      const opened = this.open(envelope, now);
      this.putPeer(opened.peer);
      for (const id of opened.usedPrekeys) if (!this.oneTimePairs.delete(id)) this.kemPairs.delete(id);
      this.#delivered.add(messageKey);
      return { kind: "opened", ...opened };
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const request = makeRetryRequest(this.#primitives, this.identity, envelope, now);
      return { kind: "refused", code: error.code, request };
    }
  }

  /** Seals any frame in the active session, as no honest sender does. */
  sendFrame(other: AgentForTests, frame: Uint8Array, now: number): Envelope {
    const { active } = this.peer(other.id);
    if (active === null) throw new Error("there is no session to send in");
    const outgoing = { recipientId: other.id, messageId: makeMessageId(now, this.#random), frame, flags: 0 };
    const sealed = sealFrame(this.#primitives, this.identity, active, outgoing, { now, random: this.#random });
    this.putPeer({ ...this.peer(other.id), active: sealed.session });
    return sealed.envelope;
  }

  /** Opens without keeping anything. */
  open(envelope: Envelope, now: number): Opened {
    const prekeys = {
      signedPrekey: (id: string) => (id === this.#signedPrekey.prekey.id ? this.#signedPrekey.pair : null),
      oneTimePrekey: (id: string) => this.oneTimePairs.get(id) ?? null,
      kemPrekey: (id: string) => this.kemPairs.get(id) ?? null,
      kemPublished: this.#kemPublished,
    };
    const peer = this.peer(envelope.senderId);
    return openEnvelope(this.#primitives, this.identity, prekeys, peer, envelope, { now, random: this.#random });
  }

  /** Follows a retry request as far as the session goes: the content is then sent anew. */
  repair(other: AgentForTests, request: RetryRequest, now: number): RepairPlan {
    const plan = planRepair(this.#primitives, this.identity, this.peer(other.id), request, now);
    if (plan === "new-session") this.start(other, now, request.sessionId);
    return plan;
  }

  /** Loses the sessions, as after a restore from an old backup. */
  loseSessions(other: AgentForTests): void {
    this.putPeer(forgetSessions(this.peer(other.id)));
  }
}

/** The same bytes for the same seed, for tests that can be repeated. */
export function seededRandom(primitives: Primitives, seed: number): Random {
  let state = primitives.sha256(Uint8Array.from(String(seed), (digit) => digit.charCodeAt(0)));
  return (length) => {
    const bytes = new Uint8Array(length);
    for (let filled = 0; filled < length; filled += state.length) {
      state = primitives.sha256(state);
      bytes.set(state.subarray(0, length - filled), filled);
    }
    return bytes;
  };
}
