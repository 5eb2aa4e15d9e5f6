/**
 * Repair (protocol.md §4), the sender's side: says anew what peers could not open.
 *
 * A peer's request is in the store, one for each message, until its answer is; the mailbox does not wait for it. Each peer is answered by itself: one to
 * whom nothing can be said now keeps nobody else waiting.
 */
import type { Identity } from "../protocol/identity.ts";
import { planRepair } from "../protocol/peer.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { Refusal } from "../protocol/refusal.ts";
import type { RetryRequest } from "../protocol/retry-request.ts";
import { AgentError, StoreError } from "./errors.ts";
import { Backoff, Watch } from "./patience.ts";
import type { Sealing } from "./sealing.ts";
import type { Store } from "./store/store.ts";

/** For a peer that has no bundle to give, or has had its new session of this hour. */
const RETRY_MS = { firstMs: 5_000, lastMs: 10 * 60_000 };

interface AnsweringPorts {
  readonly store: Store;
  readonly me: Identity;
  readonly sealing: Pick<Sealing, "sealAnew">;
  /** Something was stored that is to be sent. */
  readonly pump: () => void;
  readonly onTrouble: (error: AgentError) => void;
  /** For what nobody awaits. */
  readonly background: (work: Promise<unknown>) => void;
}

interface Postponed {
  readonly backoff: Backoff;
  /** Milliseconds. */
  readonly notBefore: number;
}

export class Answering {
  readonly #ports: AnsweringPorts;
  readonly #watch: Watch;
  readonly #postponed = new Map<string, Postponed>();
  /** Peers who are being answered: a claim may take its time. */
  readonly #underWay = new Set<string>();

  constructor(ports: AnsweringPorts) {
    this.#ports = ports;
    this.#watch = new Watch(() => this.#answerAll(), ports.background);
  }

  /** There may be requests that are not answered. */
  wake(): void {
    this.#watch.wake();
  }

  stop(): void {
    this.#watch.stop();
  }

  /** Begins with every peer whose time has come; when one is done with, it looks again. */
  async #answerAll(): Promise<number> {
    const { requests } = this.#ports.store;
    let waitMs = Number.POSITIVE_INFINITY;
    for (let peer = requests.nextPeer(null); peer !== null; peer = requests.nextPeer(peer)) {
      if (this.#underWay.has(peer)) continue;
      const notBefore = Math.max(this.#postponed.get(peer)?.notBefore ?? 0, requests.firstDueAt(peer) ?? 0);
      const peerWaitMs = notBefore - Date.now();
      if (peerWaitMs > 0) waitMs = Math.min(waitMs, peerWaitMs);
      else this.#begin(peer);
    }
    return waitMs;
  }

  #begin(peer: string): void {
    this.#underWay.add(peer);
    const answered = this.#answerPeer(peer).finally(() => this.#underWay.delete(peer));
    this.#ports.background(answered.then(() => this.#watch.wake()));
  }

  async #answerPeer(peer: string): Promise<void> {
    const { store, sealing, pump, onTrouble } = this.#ports;
    while (!this.#watch.isStopped) {
      const request = store.requests.due(peer, Date.now());
      if (request === null) return;
      if (this.#isTooEarly(peer, request)) return this.#postpone(peer);
      try {
        await sealing.sealAnew(peer, request.messageId, request);
      } catch (error) {
        if (this.#watch.isStopped || !(error instanceof AgentError) || error instanceof StoreError) throw error;
        onTrouble(error);
        // Grown too old in the meantime: there is nothing to wait for. Anything else may pass.
        if (!(error.cause instanceof Refusal && error.cause.code === "malformed")) return this.#postpone(peer);
      }
      await store.commit(() => store.requests.end(peer, request.messageId));
      this.#postponed.delete(peer);
      pump();
    }
  }

  #postpone(peer: string): void {
    const backoff = this.#postponed.get(peer)?.backoff ?? new Backoff(RETRY_MS);
    this.#postponed.set(peer, { backoff, notBefore: Date.now() + backoff.next() });
  }

  /** Only a new session would help, and there was one less than an hour ago; meanwhile another may become active. */
  #isTooEarly(peer: string, request: RetryRequest): boolean {
    const { store, me } = this.#ports;
    try {
      return planRepair(nodePrimitives, me, store.peers.get(peer), request, Date.now()) === "not-yet";
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      // Told where it would be answered.
      return false;
    }
  }
}
