/**
 * The custody of an agent whose keys the service holds: it keeps its access key, its outbox and what it has handled, and calls over HTTP. Whoever runs the service's
 * encryption tier can read its messages (docs/custody.md).
 */
import { EMPTY } from "../protocol/bytes.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import type { Custody } from "./custody.ts";
import { AgentError, AgentStopped, ServiceRefused, ServiceUnavailable, StoreError } from "./errors.ts";
import { firstContact } from "./first-contact.ts";
import { HeldReceiving } from "./held-receiving.ts";
import { HeldSending } from "./held-sending.ts";
import type { HeldService } from "./held-service.ts";
import type { Life } from "./life.ts";
import type { InboxMessage } from "./message.ts";
import type { Outcomes } from "./outcomes.ts";
import { Backoff, delay, retryAfterOf, Watch } from "./patience.ts";
import { checkRecipient, checkSendable, rejectionBy } from "./sealing.ts";
import type { Content } from "./store/content.ts";
import type { Store } from "./store/store.ts";

const CONNECT_MS = { firstMs: 250, lastMs: 30_000 };

/** Nobody tells this agent what became of its messages: it asks, for as long as somebody waits to hear. */
const ASK_MS = { firstMs: 250, lastMs: 5_000 };

const STORE_RETRY_MS = 1_000;

/** What was deleted is gone from the write-ahead log as well after this time. */
const TIDY_INTERVAL_MS = 60_000;

/** Refusals that are about the agent, and stay: the service has it no more, or not its keys. */
const END_CODES: ReadonlySet<string> = new Set([
  "agent-suspended",
  "delegation-refused",
  "agent-unknown",
  "signing-key-ended",
  "keys-destroyed",
  "custody-mismatch",
]);

interface HeldKeysPorts {
  readonly store: Store;
  readonly service: HeldService;
  /** How the service is named in the store. */
  readonly origin: string;
  readonly outcomes: Outcomes;
  readonly life: Life;
}

export class HeldKeys implements Custody {
  readonly service: HeldService;
  readonly disconnected = Promise.resolve();
  readonly #store: Store;
  readonly #origin: string;
  readonly #outcomes: Outcomes;
  readonly #life: Life;
  readonly #sending: HeldSending;
  readonly #receiving: HeldReceiving;
  readonly #asking: Watch;
  readonly #askBackoff = new Backoff(ASK_MS);
  readonly #connected = Promise.withResolvers<void>();
  #agentId = "";
  #isConnected = false;

  constructor({ store, service, origin, outcomes, life }: HeldKeysPorts) {
    const watched = this.#watched(service);
    this.service = watched;
    this.#store = store;
    this.#origin = origin;
    this.#outcomes = outcomes;
    this.#life = life;
    this.#sending = new HeldSending({ agentId: () => this.#agentId, store, service: watched, outcomes, life });
    this.#receiving = new HeldReceiving({ store, service: watched, life });
    this.#asking = new Watch(
      () => this.#ask(),
      (work) => life.background(work),
    );
    this.#connected.promise.catch(() => {});
    // What the store did not take is done again.
    life.onStoreFault(() => setTimeout(() => this.#sending.pump(), STORE_RETRY_MS).unref());
    life.atEnd((error) => this.#end(error));
  }

  get agentId(): string {
    return this.#agentId;
  }

  get isConnected(): boolean {
    return this.#isConnected;
  }

  async begin(): Promise<void> {
    const { accounts } = this.#store;
    const known = accounts.heldId();
    if (known !== null && accounts.isRegistered(this.#origin)) {
      this.#actAs(known);
      return;
    }
    const agentId = await firstContact(() => this.service.register(), this.#life.signal);
    if (known !== null && known !== agentId) {
      throw new StoreError(
        "store-elsewhere",
        "another service holds the keys of this store's agent: use that one's url, or another store",
      );
    }
    await this.#store.commit(() => {
      accounts.setHeldId(agentId);
      accounts.setRegistered(this.#origin, true);
    });
    this.#actAs(agentId);
  }

  start(): void {
    this.#life.background(this.#connect());
    this.#life.every(TIDY_INTERVAL_MS, () => this.#life.background(this.#store.tidy(Date.now())));
    this.#outcomes.onAwaited(() => {
      this.#askBackoff.reset();
      this.#asking.wake();
    });
  }

  connected(): Promise<void> {
    return this.#connected.promise;
  }

  async store(recipientId: string, content: Content, signal?: AbortSignal): Promise<string> {
    checkSendable(this, recipientId, content);
    return this.#store.commit(() => {
      signal?.throwIfAborted();
      const now = Date.now();
      const messageId = makeMessageId(now, nodeRandom);
      const message = { messageId, recipientId, createdAt: now, content };
      // What leaves is made when it leaves: sealed to the key of that day.
      this.#store.outbox.add({ ...message, envelope: EMPTY, isControl: false, repairs: null });
      return messageId;
    });
  }

  pump(): void {
    this.#sending.pump();
  }

  messages(signal?: AbortSignal): AsyncGenerator<InboxMessage, void, undefined> {
    return this.#receiving.messages(signal);
  }

  async beginSession(peerId: string): Promise<Uint8Array> {
    checkRecipient(this, peerId);
    try {
      return await this.service.beginSession(peerId);
    } catch (error) {
      throw rejectionBy(error, peerId);
    }
  }

  flush(): void {
    this.#receiving.flush();
  }

  endInbox(error: unknown): void {
    this.#receiving.stop(error);
  }

  #actAs(agentId: string): void {
    this.#agentId = agentId;
    this.service.actAs(agentId);
  }

  /** Until the service has answered once. What waited from before leaves then. */
  async #connect(): Promise<void> {
    const backoff = new Backoff(CONNECT_MS);
    while (!this.#isConnected) {
      try {
        await this.service.ingressKey();
      } catch (error) {
        if (!(error instanceof AgentError) || error instanceof AgentStopped) throw error;
        this.#life.trouble(error);
        await delay(backoff.next(retryAfterOf(error)), this.#life.signal);
      }
    }
    this.#sending.pump();
    await this.#outcomes.ask(this.service);
  }

  /** In how many milliseconds to ask again. */
  async #ask(): Promise<number> {
    if (!this.#outcomes.isAwaited) return Number.POSITIVE_INFINITY;
    let askedMs = 0;
    try {
      await this.#outcomes.ask(this.service);
    } catch (error) {
      if (!(error instanceof AgentError) || error instanceof AgentStopped || error instanceof StoreError) throw error;
      this.#life.trouble(error);
      askedMs = retryAfterOf(error);
    }
    return this.#askBackoff.next(askedMs);
  }

  /** Every call tells whether the service is there; a refusal that is the agent's ends it. */
  #watched(service: HeldService): HeldService {
    const watch = async <T>(call: Promise<T>): Promise<T> => {
      try {
        const answer = await call;
        this.#isConnected = true;
        this.#connected.resolve();
        return answer;
      } catch (error) {
        if (error instanceof ServiceUnavailable) this.#isConnected = false;
        if (error instanceof ServiceRefused && END_CODES.has(error.code)) throw new AgentStopped(error.code, error);
        throw error;
      }
    };
    return {
      register: () => service.register(),
      actAs: (agentId) => service.actAs(agentId),
      ingressKey: () => watch(service.ingressKey()),
      send: (messages) => watch(service.send(messages)),
      open: (cursor, waiting) => watch(service.open(cursor, waiting)),
      acknowledge: (items) => watch(service.acknowledge(items)),
      beginSession: (peerId) => watch(service.beginSession(peerId)),
      messageOutcomes: (messageIds) => watch(service.messageOutcomes(messageIds)),
      pairSessions: (peerId) => watch(service.pairSessions(peerId)),
      usage: (question, cursor) => watch(service.usage(question, cursor)),
      policies: service.policies,
      revokeDelegation: (tokenId) => watch(service.revokeDelegation(tokenId)),
    };
  }

  #end(error: AgentStopped): void {
    this.#asking.stop();
    this.#sending.stop();
    this.#receiving.stop(error);
    this.#connected.reject(error);
  }
}
