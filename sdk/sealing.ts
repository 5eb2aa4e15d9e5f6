/**
 * From content to a stored envelope: which session, the claim of a bundle when there is none, and the one transaction in which the ratchet
 * moves on and the envelope is kept.
 *
 * Messages to one peer are sealed in the order in which they were asked for, also while a bundle is on its way; peers do not wait for
 * each other. Nothing is encrypted twice: what a failed transaction has sealed never existed, and its ratchet neither.
 */
import { encodeEnvelope } from "../protocol/envelope.ts";
import { type Identity, isAgentId } from "../protocol/identity.ts";
import { BUNDLE_AGE_MS_MAX, CIPHERTEXT_BYTES_MAX } from "../protocol/limits.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import {
  initiate,
  lastingSession,
  type Peer,
  planRepair,
  type Sealed,
  sealMessage,
  sealRekeyAnswer,
  sendingSession,
} from "../protocol/peer.ts";
import type { Bundle } from "../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { Refusal } from "../protocol/refusal.ts";
import { fitsAnew, withRepairParameter } from "../protocol/repair-parameter.ts";
import type { RetryRequest } from "../protocol/retry-request.ts";
import { isProtocolsOwn, REKEY_CONTENT_TYPE } from "../protocol/session.ts";
import { encodeUtf8 } from "../protocol/utf8.ts";
import { AgentStopped, SendRejected, ServiceRefused, ServiceUnavailable, STOPPING_CODES } from "./errors.ts";
import { Backoff, delay } from "./patience.ts";
import type { Service } from "./service.ts";
import type { Content } from "./store/content.ts";
import type { RepairOf } from "./store/outbox.ts";
import type { Store } from "./store/store.ts";

const CLAIM_RETRY_MS = { firstMs: 250, lastMs: 10_000 };

/** A long chain whose peer has no bundle to give goes on for so long before another is asked for: a claim for every message would double its way. */
const NO_BUNDLE_MS = 60_000;

const REKEY: Content = { contentType: REKEY_CONTENT_TYPE, body: new Uint8Array(0) };

interface SealingPorts {
  readonly store: Store;
  readonly service: Service;
  readonly me: Identity;
  /** Nothing below suite 2. */
  readonly requirePq: boolean;
  /** Ends the waiting for bundles. */
  readonly signal: AbortSignal;
  /** The service has refused this agent itself. */
  readonly onStopped: (error: AgentStopped) => void;
}

/** What is said, and in whose place. */
interface Saying {
  readonly content: Content;
  readonly isControl: boolean;
  readonly repairs: RepairOf | null;
  /** The message that ends with it. */
  readonly replaces: string | null;
}

/** A session is wanted, ahead of what will be said in it. */
const NOTHING_YET = "nothing-yet";

interface Job {
  readonly recipientId: string;
  /** Asked in the transaction that seals; null: there is nothing to say (any more). */
  readonly say: () => Saying | typeof NOTHING_YET | null;
  /** The peer's request that it answers. */
  readonly retry: RetryRequest | null;
  readonly signal: AbortSignal | undefined;
  /** The message id; null when there was nothing to say. */
  readonly resolve: (messageId: string | null) => void;
  readonly reject: (error: unknown) => void;
}

interface ClaimedBundle {
  readonly bundle: Bundle;
  /** Milliseconds. */
  readonly claimedAt: number;
}

export class Sealing {
  readonly #ports: SealingPorts;
  /** Claimed, and not used yet. */
  readonly #bundles = new Map<string, ClaimedBundle>();
  /** What waits for a bundle, by peer, in order. */
  readonly #waiting = new Map<string, Job[]>();
  /** Peers of whom no bundle could be had, until when (milliseconds). */
  readonly #noBundleUntil = new Map<string, number>();

  constructor(ports: SealingPorts) {
    this.#ports = ports;
  }

  /**
   * Resolves to the message id when the envelope is stored. Rejects with `SendRejected`, `StoreError`, or the reason of a signal that aborted before.
   */
  seal(recipientId: string, content: Content, { signal }: { signal?: AbortSignal } = {}): Promise<string> {
    return new Promise((resolve, reject) => {
      checkSendable(this.#ports.me, recipientId, content);
      const saying: Saying = { content, isControl: false, repairs: null, replaces: null };
      const sealed = (messageId: string | null) => {
        if (messageId !== null) resolve(messageId);
      };
      this.#take({ recipientId, say: () => saying, retry: null, signal, resolve: sealed, reject });
    });
  }

  /**
   * Says the content of a message that has not ended under a new id, and ends the old one (protocol.md §4): because its recipient asks for it, in a new
   * session if the request is about the current one, or (`retry` null) because the service may not take the old id any more.
   *
   * Resolves to the new id; to null when there is nothing to say (any more). Rejects as `seal` does.
   */
  sealAnew(recipientId: string, messageId: string, retry: RetryRequest | null): Promise<string | null> {
    return new Promise((resolve, reject) => {
      const say = () => this.#anew(recipientId, messageId);
      this.#take({ recipientId, say, retry, signal: undefined, resolve, reject });
    });
  }

  /** Begins a session with a peer, unless there is one to send in: the id of that. Rejects as `seal` does. */
  async beginSession(recipientId: string): Promise<Uint8Array> {
    const { store, me } = this.#ports;
    checkRecipient(me, recipientId);
    await new Promise((resolve, reject) => {
      this.#take({ recipientId, say: () => NOTHING_YET, retry: null, signal: undefined, resolve, reject });
    });
    const session = lastingSession(store.peers.get(recipientId), Date.now());
    if (session === null) throw new Error("a session that was begun is not there");
    return session.id;
  }

  /** Answers a rekey request, unless something was said in that session meanwhile. True when there is a control message to send. */
  answerRekey(peerId: string, sessionId: Uint8Array): Promise<boolean> {
    const { store, me } = this.#ports;
    return store.commit(() => {
      const peer = store.peers.get(peerId);
      if (!isAnswerMissing(peer, sessionId)) return false;
      const now = Date.now();
      const messageId = makeMessageId(now, nodeRandom);
      const sealed = sealRekeyAnswer(nodePrimitives, me, peer, { sessionId, messageId }, { now, random: nodeRandom });
      if (sealed === null) return false;
      this.#keep(sealed, { content: REKEY, isControl: true, repairs: null, replaces: null }, now);
      return true;
    });
  }

  #take(job: Job): void {
    const waiting = this.#waiting.get(job.recipientId);
    if (waiting === undefined) this.#store(job);
    else waiting.push(job);
  }

  #store(job: Job): void {
    this.#ports.store
      .commit(() => this.#sealNow(job))
      .then(
        (messageId) => {
          if (messageId === undefined) this.#awaitBundle(job);
          else job.resolve(messageId);
        },
        (error) => this.#refuse(job, error),
      );
  }

  /** In a transaction. Null when there is nothing to say; undefined when a bundle is needed first. */
  #sealNow(job: Job): string | null | undefined {
    const { recipientId, signal } = job;
    signal?.throwIfAborted();
    const saying = job.say();
    if (saying === null) return null;
    const { store, me } = this.#ports;
    const now = Date.now();
    const clock = { now, random: nodeRandom };
    const known = store.peers.get(recipientId);
    const start = this.#startFor(job, known, now);
    // A control message is said anew only to tell the peer of a new session.
    if (saying !== NOTHING_YET && saying.isControl && start === null) return null;
    let peer = known;
    if (start !== null) {
      const claimed = this.#bundles.get(recipientId);
      this.#bundles.delete(recipientId);
      if (claimed === undefined || now - claimed.claimedAt > BUNDLE_AGE_MS_MAX) return undefined;
      peer = initiate(nodePrimitives, me, known, claimed.bundle, {
        ...clock,
        ...start,
        requirePq: this.#ports.requirePq,
      });
      store.accounts.endClaim(recipientId);
    }
    if (saying === NOTHING_YET) {
      if (start !== null) store.peers.put(peer);
      return null;
    }
    const messageId = makeMessageId(now, nodeRandom);
    this.#keep(sealMessage(nodePrimitives, me, peer, { messageId, ...saying.content }, clock), saying, now);
    return messageId;
  }

  /** How to begin a session first; null where there is one to send in. */
  #startFor({ recipientId, retry }: Job, peer: Peer, now: number): { readonly repaired?: Uint8Array } | null {
    if (retry !== null && planRepair(nodePrimitives, this.#ports.me, peer, retry, now) === "new-session") {
      return { repaired: retry.sessionId };
    }
    if (sendingSession(peer, now) !== null) return null;
    const isWithout = now < (this.#noBundleUntil.get(recipientId) ?? 0);
    return isWithout && lastingSession(peer, now) !== null ? null : {};
  }

  #anew(recipientId: string, messageId: string): Saying | null {
    const found = this.#ports.store.outbox.repairable(messageId);
    if (found === null || found.recipientId !== recipientId) return null;
    if (found.isControl) return { content: REKEY, isControl: true, repairs: null, replaces: messageId };
    const { firstId, count } = found.repairs ?? { firstId: messageId, count: 0 };
    const contentType = withRepairParameter(found.content.contentType, firstId);
    return {
      content: { contentType, body: found.content.body },
      isControl: false,
      repairs: { firstId, count: count + 1 },
      replaces: messageId,
    };
  }

  #keep({ peer, envelope }: Sealed, { content, isControl, repairs, replaces }: Saying, now: number): void {
    const { store } = this.#ports;
    const { messageId, recipientId } = envelope;
    store.peers.put(peer);
    store.outbox.add({
      messageId,
      recipientId,
      createdAt: now,
      envelope: encodeEnvelope(envelope),
      content,
      isControl,
      repairs,
    });
    if (replaces === null) return;
    store.outbox.replaceBy(replaces, messageId, now);
    store.requests.end(recipientId, replaces);
  }

  /** A refusal here is one of the bundle: it is not used again. */
  #refuse(job: Job, error: unknown): void {
    if (!(error instanceof Refusal)) {
      job.reject(error);
      return;
    }
    const { recipientId } = job;
    const rejected = new SendRejected(error.code, { messageId: null, recipientId, cause: error });
    this.#ports.store
      .commit(() => this.#ports.store.accounts.endClaim(recipientId))
      .then(() => this.#goOnWithout([job], rejected), job.reject);
  }

  #awaitBundle(job: Job): void {
    const waiting = this.#waiting.get(job.recipientId);
    if (waiting !== undefined) {
      waiting.push(job);
      return;
    }
    const jobs = [job];
    this.#waiting.set(job.recipientId, jobs);
    this.#claim(job.recipientId, jobs).then(
      (bundle) => {
        this.#bundles.set(job.recipientId, { bundle, claimedAt: Date.now() });
        this.#waiting.delete(job.recipientId);
        for (const waiter of jobs) this.#store(waiter);
      },
      (error) => {
        this.#waiting.delete(job.recipientId);
        const rejection = rejectionBy(error, job.recipientId);
        this.#goOnWithout(jobs, rejection);
        if (rejection instanceof AgentStopped) this.#ports.onStopped(rejection);
      },
    );
  }

  /** No bundle can be had: a long chain goes on (protocol.md §4); whatever has no session to go on in is rejected. */
  #goOnWithout(jobs: readonly Job[], rejection: unknown): void {
    const now = Date.now();
    for (const job of jobs) {
      const { recipientId, retry } = job;
      const canGoOn = retry === null && lastingSession(this.#ports.store.peers.get(recipientId), now) !== null;
      if (canGoOn) this.#noBundleUntil.set(recipientId, now + NO_BUNDLE_MS);
      if (canGoOn) this.#store(job);
      else job.reject(rejection);
    }
  }

  /** While the service is away, tries again for as long as somebody waits who has no session to go on in. */
  async #claim(recipientId: string, jobs: readonly Job[]): Promise<Bundle> {
    const { store, service, signal } = this.#ports;
    const backoff = new Backoff(CLAIM_RETRY_MS);
    const requestId = await store.commit(() => store.accounts.claim(recipientId, Date.now()));
    for (;;) {
      try {
        return await service.claimBundle(recipientId, requestId);
      } catch (error) {
        if (!(error instanceof ServiceUnavailable)) throw error;
        if (lastingSession(store.peers.get(recipientId), Date.now()) !== null) throw error;
        await delay(backoff.next(error.retryAfterMs ?? 0), signal);
        const aborted = jobs.every((job) => job.signal?.aborted);
        if (aborted) throw error;
      }
    }
  }
}

/** Has nothing been said in the chain that the peer's request began? */
function isAnswerMissing({ active, archived }: Peer, sessionId: Uint8Array): boolean {
  const sessions = active === null ? archived : [active, ...archived];
  const session = sessions.find(({ id }) => Buffer.compare(id, sessionId) === 0);
  return session?.ratchet.sending?.counter === 0;
}

/** Throws a `SendRejected` for what no service would take. */
export function checkSendable(me: { readonly agentId: string }, recipientId: string, { contentType, body }: Content) {
  checkRecipient(me, recipientId);
  const reject = (code: string) => new SendRejected(code, { messageId: null, recipientId });
  const type = encodeUtf8(contentType);
  if (type === null || type.length > 0xffff || isProtocolsOwn(contentType)) throw reject("content-type-malformed");
  if (!fitsAnew({ contentType, body }, CIPHERTEXT_BYTES_MAX)) throw reject("content-too-large");
}

/** Throws a `SendRejected` for who is nobody to send to. */
export function checkRecipient(me: { readonly agentId: string }, recipientId: string): void {
  const reject = (code: string) => new SendRejected(code, { messageId: null, recipientId });
  if (!isAgentId(recipientId)) throw reject("recipient-malformed");
  if (recipientId === me.agentId) throw reject("recipient-is-self");
}

/** What a refusal means for what was to be sent to this agent; `AgentStopped` where it is not about that agent. */
export function rejectionBy(error: unknown, recipientId: string): unknown {
  if (!(error instanceof ServiceRefused)) return error;
  if (STOPPING_CODES.has(error.code)) return new AgentStopped(error.code, error);
  // Other refusals have rules as well, which are not the recipient's.
  return new SendRejected(error.code === "not-allowed" ? (error.rule ?? error.code) : error.code, {
    messageId: null,
    recipientId,
    retryable: error.retryable,
    cause: error,
  });
}
