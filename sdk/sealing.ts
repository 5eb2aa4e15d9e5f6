/**
 * From content to a stored envelope: which session, the claim of a bundle when there is none, and the one transaction in which the ratchet
 * moves on and the envelope is kept.
 *
 * Messages to one peer are sealed in the order in which they were asked for, also while a bundle is on its way; peers do not wait for
 * each other. Nothing is encrypted twice: what a failed transaction has sealed never existed, and its ratchet neither.
 */
import { encodeEnvelope } from "../protocol/envelope.ts";
import { padme } from "../protocol/frame.ts";
import { type Identity, isAgentId } from "../protocol/identity.ts";
import { CIPHERTEXT_BYTES_MAX } from "../protocol/limits.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { initiate, type Peer, type Sealed, sealMessage, sealRekeyAnswer, sendingSession } from "../protocol/peer.ts";
import type { Bundle } from "../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { Refusal } from "../protocol/refusal.ts";
import { REKEY_CONTENT_TYPE } from "../protocol/session.ts";
import { encodeUtf8 } from "../protocol/utf8.ts";
import { SendRejected, ServiceRefused, ServiceUnavailable } from "./errors.ts";
import { Backoff, delay } from "./patience.ts";
import type { ServiceClient } from "./service-client.ts";
import type { Content } from "./store/content.ts";
import type { Store } from "./store/store.ts";

const CLAIM_RETRY_MS = { firstMs: 250, lastMs: 10_000 };

/** `u8(1) ‖ lp(content_type) ‖ u32(length of body)` without the content type. */
const FRAME_HEAD_BYTES = 1 + 2 + 4;

interface SealingPorts {
  readonly store: Store;
  readonly client: ServiceClient;
  readonly me: Identity;
  /** Ends the waiting for bundles. */
  readonly signal: AbortSignal;
}

interface Job {
  readonly recipientId: string;
  readonly content: Content;
  readonly signal: AbortSignal | undefined;
  /** Runs in the transaction that stores the message. */
  readonly alongside: (messageId: string) => void;
  readonly resolve: (messageId: string) => void;
  readonly reject: (error: unknown) => void;
}

export class Sealing {
  readonly #ports: SealingPorts;
  /** Claimed, and not used yet. */
  readonly #bundles = new Map<string, Bundle>();
  /** What waits for a bundle, by peer, in order. */
  readonly #waiting = new Map<string, Job[]>();

  constructor(ports: SealingPorts) {
    this.#ports = ports;
  }

  /**
   * Resolves to the message id when the envelope is stored. Rejects with `SendRejected`, `StoreError`, or the reason of a signal that aborted before.
   */
  seal(
    recipientId: string,
    content: Content,
    { signal, alongside = () => {} }: { signal?: AbortSignal; alongside?: (messageId: string) => void } = {},
  ): Promise<string> {
    return new Promise((resolve, reject) => {
      checkSendable(this.#ports.me, recipientId, content);
      const job: Job = { recipientId, content, signal, alongside, resolve, reject };
      const waiting = this.#waiting.get(recipientId);
      if (waiting === undefined) this.#store(job);
      else waiting.push(job);
    });
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
      this.#keep(sealed, { contentType: REKEY_CONTENT_TYPE, body: new Uint8Array(0) }, now);
      return true;
    });
  }

  #store(job: Job): void {
    this.#ports.store
      .commit(() => this.#sealNow(job))
      .then(
        (messageId) => {
          if (messageId === null) this.#awaitBundle(job);
          else job.resolve(messageId);
        },
        (error) => this.#refuse(job, error),
      );
  }

  /** In a transaction. Null when a bundle is needed first. */
  #sealNow({ recipientId, content, signal, alongside }: Job): string | null {
    signal?.throwIfAborted();
    const { store, me } = this.#ports;
    const now = Date.now();
    const clock = { now, random: nodeRandom };
    let peer = store.peers.get(recipientId);
    if (sendingSession(peer, now) === null) {
      const bundle = this.#bundles.get(recipientId);
      if (bundle === undefined) return null;
      this.#bundles.delete(recipientId);
      peer = initiate(nodePrimitives, me, peer, bundle, clock);
      store.accounts.endClaim(recipientId);
    }
    const messageId = makeMessageId(now, nodeRandom);
    this.#keep(sealMessage(nodePrimitives, me, peer, { messageId, ...content }, clock), content, now);
    alongside(messageId);
    return messageId;
  }

  #keep({ peer, envelope }: Sealed, content: Content, now: number): void {
    const { store } = this.#ports;
    store.peers.put(peer);
    store.outbox.add({
      messageId: envelope.messageId,
      recipientId: envelope.recipientId,
      createdAt: now,
      envelope: encodeEnvelope(envelope),
      content,
      isControl: content.contentType === REKEY_CONTENT_TYPE,
    });
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
      .then(() => job.reject(rejected), job.reject);
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
        this.#bundles.set(job.recipientId, bundle);
        this.#waiting.delete(job.recipientId);
        for (const waiter of jobs) this.#store(waiter);
      },
      (error) => {
        this.#waiting.delete(job.recipientId);
        for (const waiter of jobs) waiter.reject(rejectionBy(error, job.recipientId));
      },
    );
  }

  /** While the service is away, tries again for as long as somebody waits. */
  async #claim(recipientId: string, jobs: readonly Job[]): Promise<Bundle> {
    const { store, client, signal } = this.#ports;
    const backoff = new Backoff(CLAIM_RETRY_MS);
    const requestId = await store.commit(() => store.accounts.claim(recipientId, Date.now()));
    for (;;) {
      try {
        return await client.claimBundle(recipientId, requestId);
      } catch (error) {
        if (!(error instanceof ServiceUnavailable)) throw error;
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

function checkSendable(me: Identity, recipientId: string, { contentType, body }: Content): void {
  const reject = (code: string) => new SendRejected(code, { messageId: null, recipientId });
  if (!isAgentId(recipientId)) throw reject("recipient-malformed");
  if (recipientId === me.agentId) throw reject("recipient-is-self");
  const type = encodeUtf8(contentType);
  if (type === null || type.length > 0xffff) throw reject("content-type-malformed");
  const isTooLarge = padme(FRAME_HEAD_BYTES + type.length + body.length) > CIPHERTEXT_BYTES_MAX;
  if (isTooLarge) throw reject("content-too-large");
}

function rejectionBy(error: unknown, recipientId: string): unknown {
  if (!(error instanceof ServiceRefused)) return error;
  return new SendRejected(error.code, { messageId: null, recipientId, retryable: error.retryable, cause: error });
}
