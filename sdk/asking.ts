/**
 * Repair (protocol.md §4), the recipient's side: asks the senders of messages that did not open for their content.
 *
 * A request is in the store until the service has taken it; then the failed message is refused, and its successor takes its place. So neither a
 * crash, nor a service that is away, nor one that has had enough requests for now, loses a content.
 */
import type { Identity } from "../protocol/identity.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { makeMessageId, messageIdTime } from "../protocol/message-id.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { makeRetryRequest } from "../protocol/retry-request.ts";
import { AgentError, ServiceRefused, ServiceUnavailable, StoreError } from "./errors.ts";
import { Backoff, Watch } from "./patience.ts";
import type { Service } from "./service.ts";
import type { FailedMessage, PendingRequest } from "./store/failed.ts";
import type { Store } from "./store/store.ts";

const RETRY_MS = { firstMs: 1_000, lastMs: 5 * 60_000 };

/** The service takes item ids of up to seven days. */
const REQUEST_AGE_MS_MAX = 6 * DAY_MS;

/** Nobody is left to ask, or the service never had the message. Any other refusal may pass: an agent that is registered again, a proxy that is mended. */
const FINAL_CODES: ReadonlySet<string> = new Set(["recipient-unknown", "message-unknown"]);

/** In place of a sender: the service cannot be reached. */
const ANYBODY = "";

interface AskingPorts {
  readonly store: Store;
  readonly service: Service;
  readonly me: Identity;
  /** Its successor was asked for: the failed message is to be refused. */
  readonly onAsked: (message: FailedMessage) => void;
  /** It will never come: the failed message is to be refused. */
  readonly onLost: (message: FailedMessage) => void;
  readonly onTrouble: (error: AgentError) => void;
  /** For what nobody awaits. */
  readonly background: (work: Promise<unknown>) => void;
}

export class Asking {
  readonly #ports: AskingPorts;
  readonly #watch: Watch;
  readonly #backoff = new Backoff(RETRY_MS);
  /** Senders about whom nothing is asked before, milliseconds: the service has had enough requests about them for now, or is away. */
  readonly #notBefore = new Map<string, number>();

  constructor(ports: AskingPorts) {
    this.#ports = ports;
    this.#watch = new Watch(() => this.#askAll(), ports.background);
  }

  /** There may be requests that are not made, or the service may be back. */
  wake(): void {
    this.#notBefore.delete(ANYBODY);
    this.#watch.wake();
  }

  stop(): void {
    this.#watch.stop();
  }

  async #askAll(): Promise<number> {
    const { failed } = this.#ports.store;
    let waitMs = Number.POSITIVE_INFINITY;
    for (let sender = failed.nextAsking(null); sender !== null; sender = failed.nextAsking(sender)) {
      for (let pending = failed.pending(sender); pending !== null; pending = failed.pending(sender)) {
        const senderWaitMs = this.#waitMs(sender);
        waitMs = Math.min(waitMs, senderWaitMs > 0 ? senderWaitMs : waitMs);
        if (senderWaitMs > 0 || this.#watch.isStopped) break;
        await this.#askFor(pending);
      }
    }
    return waitMs;
  }

  #waitMs(sender: string): number {
    return Math.max(...[sender, ANYBODY].map((name) => this.#notBefore.get(name) ?? 0)) - Date.now();
  }

  /** Either the request ends, or its sender is postponed. */
  async #askFor(pending: PendingRequest): Promise<void> {
    const { store, service, onAsked, onLost, onTrouble } = this.#ports;
    const { senderId, itemId, code } = pending;
    let isTaken = true;
    try {
      const { requestId, request } = await this.#fresh(pending);
      await service.requestRetry(requestId, request);
      this.#backoff.reset();
      this.#notBefore.delete(senderId);
    } catch (error) {
      if (!(error instanceof AgentError) || error instanceof StoreError) throw error;
      onTrouble(error);
      isTaken = false;
      if (!FINAL_CODES.has(error.code)) {
        this.#postpone(senderId, error);
        return;
      }
    }
    await store.commit(() => store.failed.endRequest(senderId, itemId));
    (isTaken ? onAsked : onLost)({ senderId, itemId, code });
  }

  #postpone(senderId: string, error: AgentError): void {
    const askedMs = error instanceof ServiceUnavailable ? (error.retryAfterMs ?? 0) : 0;
    const isAnswered = error instanceof ServiceRefused || error.cause instanceof ServiceRefused;
    this.#notBefore.set(isAnswered ? senderId : ANYBODY, Date.now() + this.#backoff.next(askedMs));
  }

  /** A request that waited for days is made anew: the service would not take its id. */
  async #fresh(pending: PendingRequest): Promise<PendingRequest> {
    const { store, me } = this.#ports;
    const now = Date.now();
    if (now - (messageIdTime(pending.requestId) ?? 0) < REQUEST_AGE_MS_MAX) return pending;
    const request = makeRetryRequest(nodePrimitives, me, pending.request, now);
    const fresh = { ...pending, requestId: makeMessageId(now, nodeRandom), request };
    await store.commit(() => store.failed.renew(fresh));
    return fresh;
  }
}
