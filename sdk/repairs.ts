/**
 * Repair (protocol.md §4), both sides: asks the senders of messages that did not open for their content, and says anew what peers could
 * not open.
 *
 * A request is in the store until the service has taken it; then the failed message is refused, and its successor takes its place. A request
 * of a peer stays in the mailbox until its answer is stored. So neither a crash nor a service that is away loses a content.
 */
import type { Identity } from "../protocol/identity.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { makeMessageId, messageIdTime } from "../protocol/message-id.ts";
import { planRepair } from "../protocol/peer.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { type ProtocolCode, Refusal } from "../protocol/refusal.ts";
import { makeRetryRequest, type RetryRequest } from "../protocol/retry-request.ts";
import type { StreamItemId } from "../protocol/stream-frames.ts";
import { AgentError, ServiceRefused, ServiceUnavailable, StoreError } from "./errors.ts";
import { Backoff, jitter } from "./patience.ts";
import type { Sealing } from "./sealing.ts";
import type { Service } from "./service.ts";
import type { PendingRequest } from "./store/failed.ts";
import type { Store } from "./store/store.ts";

/** Requests looked at together. */
const PAGE_MAX = 100;

const ASK_RETRY_MS = { firstMs: 1_000, lastMs: 5 * 60_000 };

/** The service takes item ids of up to seven days. */
const REQUEST_AGE_MS_MAX = 6 * DAY_MS;

/**
 * A peer that lost its sessions asks for many messages at once, and all its peers are asked: answers are spread over this time. Longer
 * for what failed before, so that two ends that never agree do not keep each other busy.
 */
const ANSWER_JITTER_MS = 250;
const ANYBODY = "";

const ANSWER_RETRY_MS = { firstMs: 5_000, lastMs: 10 * 60_000 };

interface RepairsPorts {
  readonly store: Store;
  readonly service: Service;
  readonly me: Identity;
  readonly sealing: Pick<Sealing, "sealAnew">;
  /** The failed message is to be refused: its successor was asked for. */
  readonly refuse: (item: StreamItemId, code: ProtocolCode) => void;
  /** The request is to be acknowledged. */
  readonly answered: (item: StreamItemId) => void;
  /** Something was stored that is to be sent. */
  readonly pump: () => void;
  readonly onTrouble: (error: AgentError) => void;
  /** For what nobody awaits. */
  readonly background: (work: Promise<unknown>) => void;
}

export class Repairs {
  readonly #ports: RepairsPorts;
  readonly #askBackoff = new Backoff(ASK_RETRY_MS);
  /** Senders of whom nothing is asked before, milliseconds: the service has had enough requests about them for now, or is away (`ANYBODY`). */
  readonly #notBefore = new Map<string, number>();
  readonly #timers = new Set<NodeJS.Timeout>();
  /** Requests of peers that are being answered: the same item may come on a new connection meanwhile. */
  readonly #answering = new Set<string>();
  #isAsking = false;
  #askAgain = false;
  #isStopped = false;

  constructor(ports: RepairsPorts) {
    this.#ports = ports;
  }

  /** Makes the requests that are stored. Call it whenever there may be some, or the service may be back. */
  ask(): void {
    this.#askAgain = true;
    if (this.#isAsking || this.#isStopped) return;
    this.#isAsking = true;
    const asked = this.#askAll().finally(() => {
      this.#isAsking = false;
    });
    // Somebody may have called between the last look and the end.
    this.#ports.background(asked.then(() => this.#askAgain && this.ask()));
  }

  /** Says anew what `request` asks for, a little later. */
  answer(request: RetryRequest, item: StreamItemId): void {
    const name = `${item.senderId}/${item.itemId}`;
    if (this.#answering.has(name)) return;
    this.#answering.add(name);
    const count = this.#ports.store.outbox.repairable(request.messageId)?.repairs?.count ?? 0;
    this.#answerAfter(jitter(ANSWER_JITTER_MS * 2 ** count), request, item, new Backoff(ANSWER_RETRY_MS));
  }

  stop(): void {
    this.#isStopped = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }

  async #askAll(): Promise<void> {
    while (this.#askAgain && !this.#isStopped) {
      this.#askAgain = false;
      let waitMs = Number.POSITIVE_INFINITY;
      for (let after: string | null = null; ; ) {
        const page: PendingRequest[] = this.#ports.store.failed.pending(after, PAGE_MAX);
        for (const pending of page) waitMs = Math.min(waitMs, await this.#askFor(pending));
        after = page.at(-1)?.requestId ?? null;
        if (page.length < PAGE_MAX || after === null) break;
      }
      if (waitMs < Number.POSITIVE_INFINITY) this.#later(waitMs, () => this.ask());
    }
  }

  /** Milliseconds after which it is to be tried again; infinite when it need not be. */
  async #askFor(pending: PendingRequest): Promise<number> {
    const { senderId, itemId, code } = pending;
    const notBefore = [senderId, ANYBODY].map((name) => this.#notBefore.get(name) ?? 0);
    const waitMs = Math.max(...notBefore) - Date.now();
    if (waitMs > 0) return waitMs;
    try {
      const { requestId, request } = await this.#fresh(pending);
      await this.#ports.service.requestRetry(requestId, request);
      this.#askBackoff.reset();
      this.#notBefore.delete(senderId);
    } catch (error) {
      if (!(error instanceof AgentError) || error instanceof StoreError) throw error;
      // One that grew too old on its way (the machine slept) is made anew.
      const isForGood = error instanceof ServiceRefused && !error.retryable && !isTooOld(pending);
      this.#ports.onTrouble(error);
      if (!isForGood) return this.#postpone(senderId, error);
    }
    // Also when the service will never take it: then nobody is asked, and the sender hears the code.
    await this.#ports.store.commit(() => this.#ports.store.failed.endRequest(senderId, itemId));
    this.#ports.refuse({ senderId, itemId }, code);
    return Number.POSITIVE_INFINITY;
  }

  #postpone(senderId: string, error: AgentError): number {
    const askedMs = error instanceof ServiceUnavailable ? (error.retryAfterMs ?? 0) : 0;
    const waitMs = this.#askBackoff.next(askedMs);
    const isAnswered = error.cause instanceof ServiceRefused;
    this.#notBefore.set(isAnswered ? senderId : ANYBODY, Date.now() + waitMs);
    return waitMs;
  }

  /** A request that waited for days is made anew: the service would not take its id. */
  async #fresh(pending: PendingRequest): Promise<PendingRequest> {
    if (!isTooOld(pending)) return pending;
    const now = Date.now();
    const request = makeRetryRequest(nodePrimitives, this.#ports.me, pending.request, now);
    const fresh = { ...pending, requestId: makeMessageId(now, nodeRandom), request };
    await this.#ports.store.commit(() => this.#ports.store.failed.renew(fresh));
    return fresh;
  }

  #answerAfter(ms: number, request: RetryRequest, item: StreamItemId, backoff: Backoff): void {
    this.#later(ms, () => this.#ports.background(this.#answer(request, item, backoff)));
  }

  async #answer(request: RetryRequest, item: StreamItemId, backoff: Backoff): Promise<void> {
    const { sealing, answered, pump, onTrouble } = this.#ports;
    if (this.#isTooEarly(request, item)) {
      this.#answerAfter(backoff.next(), request, item, backoff);
      return;
    }
    try {
      await sealing.sealAnew(item.senderId, request.messageId, request);
      this.#answering.delete(`${item.senderId}/${item.itemId}`);
      answered(item);
      pump();
    } catch (error) {
      if (!(error instanceof AgentError) || this.#isStopped) throw error;
      onTrouble(error);
      this.#answerAfter(backoff.next(), request, item, backoff);
    }
  }

  /** Meanwhile another session may have become active. */
  #isTooEarly(request: RetryRequest, { senderId }: StreamItemId): boolean {
    const { store, me } = this.#ports;
    try {
      return planRepair(nodePrimitives, me, store.peers.get(senderId), request, Date.now()) === "not-yet";
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      // It has grown too old in the meantime, which is told where it would be answered.
      return false;
    }
  }

  #later(ms: number, work: () => void): void {
    if (this.#isStopped) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
    }, ms);
    this.#timers.add(timer);
  }
}

function isTooOld({ requestId }: PendingRequest): boolean {
  return Date.now() - (messageIdTime(requestId) ?? 0) >= REQUEST_AGE_MS_MAX;
}
