/**
 * An agent: its identity, its mail, its connection. The whole of the SDK for most programs (docs/sdk.md).
 *
 * Content leaves this process only encrypted to its recipient. A message that `send` took is in the store until its end is known; one that
 * arrived is until the application is done with it. Neither a crash at any moment nor a service that is away loses one.
 */
import type { Identity } from "../protocol/identity.ts";
import type { ServerFrame } from "../protocol/stream-frames.ts";
import { Answering } from "./answering.ts";
import { Asking } from "./asking.ts";
import { Channel } from "./channel.ts";
import { AgentError, AgentStopped, ServiceUnavailable, StoreError } from "./errors.ts";
import { type Body, contentOf, type InboxMessage } from "./message.ts";
import { Opener } from "./opening.ts";
import { Outcomes, type Receipt } from "./outcomes.ts";
import { abandonable, Backoff, delay } from "./patience.ts";
import { type NotOpened, Receiving } from "./receiving.ts";
import { findRollback } from "./rollback.ts";
import { Sealing } from "./sealing.ts";
import { Sending } from "./sending.ts";
import type { Service, StreamConnection } from "./service.ts";
import { ServiceClient } from "./service-client.ts";
import type { StoreKey } from "./store/key.ts";
import type { OutboxStatus } from "./store/outbox.ts";
import { Store } from "./store/store.ts";
import { keepStream } from "./stream.ts";
import { UPKEEP_INTERVAL_MS, Upkeep } from "./upkeep.ts";

/** What was deleted is gone from the write-ahead log as well after this time. */
const TIDY_INTERVAL_MS = 60_000;

/** Receipts reach who is connected; one that was lost on its way is found by asking. */
const ASK_INTERVAL_MS = 5 * 60_000;

/** `close` waits this long for what is under way; the rest leaves at the next open. */
const DRAIN_MS_MAX = 5_000;

/** The service that answers the stream answers the question as well, in a moment. */
const CHECK_RETRY_MS = { firstMs: 250, lastMs: 10_000 };

const PROBLEMS = { bufferedMax: 1_000, replayedMax: 100 };

export interface AgentOptions {
  /** The service, such as `https://sealpost.example`. */
  readonly url: string;
  /** The agent's store: a file of its own, made on first use. */
  readonly storePath: string;
  /** The key the store's secrets are sealed under: 32 bytes, their base64url text, or a file. Default: the file `<storePath>.key`, made on first use. */
  readonly key?: StoreKey;
  /** No session below suite 2 (PQXDH), with nobody: a peer without KEM prekeys cannot be written to (`suite-refused`). Default false. */
  readonly requirePq?: boolean;
  /** Calls off the opening. */
  readonly signal?: AbortSignal;
}

/** @public */
export interface Waiting {
  /** Calls off the waiting, and nothing else. */
  readonly signal?: AbortSignal;
}

/** @public */
export interface SendOptions extends Waiting {
  /** Default by the body: text/plain, application/octet-stream or application/json. */
  readonly contentType?: string;
}

/** @public */
export interface OutgoingMessage extends Omit<SendOptions, "signal"> {
  readonly to: string;
  readonly body: Body;
}

/**
 * A message the service has taken.
 * @public
 */
export interface Sent {
  readonly messageId: string;
  readonly recipientId: string;
  /** It was written to a connection of the recipient. Rejects like `acknowledged`. */
  delivered(options?: Waiting): Promise<void>;
  /** The recipient has decrypted it and is done with it. Rejects with `MessageDiscarded` when that will never be, and with `AgentStopped`. */
  acknowledged(options?: Waiting): Promise<void>;
}

/** Something the application may want to know, and need not do anything about. */
export type Problem =
  | { readonly type: "not-opened"; readonly at: number; readonly item: NotOpened }
  /** The connection, an upload or a question failed; it is tried again. */
  | { readonly type: "trouble"; readonly at: number; readonly error: AgentError }
  /** The store is older than what it has sent: it was copied back from a backup. The sessions concerned were retired. */
  | { readonly type: "store-rolled-back"; readonly at: number; readonly messagesLost: number }
  /** The service held other prekeys than this store: all were replaced. */
  | { readonly type: "prekeys-replaced"; readonly at: number };

/** How to reach the service, for an agent that has its identity. */
type Connect = (me: Identity, signal: AbortSignal) => Service;

interface Circumstances {
  readonly origin: string;
  readonly requirePq: boolean;
  /** Aborts with what stopped the agent. */
  readonly ending: AbortController;
}

export class Agent {
  /** The agent's id: what others send to. */
  readonly id: string;
  readonly #store: Store;
  readonly #service: Service;
  readonly #upkeep: Upkeep;
  readonly #outcomes: Outcomes;
  readonly #sealing: Sealing;
  readonly #sending: Sending;
  readonly #receiving: Receiving;
  readonly #asking: Asking;
  readonly #answering: Answering;
  readonly #problems = new Channel<Problem>(PROBLEMS);
  /** Aborts with what stopped the agent. */
  readonly #ending: AbortController;
  readonly #timers: NodeJS.Timeout[] = [];
  readonly #underWay = new Set<Promise<unknown>>();
  #connected = Promise.withResolvers<void>();
  #connection: StreamConnection | null = null;
  #checkingStore: Promise<void> | null = null;
  #streaming: Promise<void> = Promise.resolve();
  #closing: Promise<void> | null = null;

  private constructor(store: Store, me: Identity, service: Service, { origin, requirePq, ending }: Circumstances) {
    const { signal } = ending;
    const background = (work: Promise<unknown>) => this.#background(work);
    const onTrouble = (error: AgentError) => this.#problems.emit({ type: "trouble", at: Date.now(), error });
    const onReplaced = () => this.#problems.emit({ type: "prekeys-replaced", at: Date.now() });
    const outcomes = new Outcomes(store);
    const sealing = new Sealing({ store, service, me, requirePq, signal });
    this.id = me.agentId;
    this.#store = store;
    this.#service = service;
    this.#ending = ending;
    this.#upkeep = new Upkeep({ store, service, me, origin, onReplaced, background, signal });
    this.#outcomes = outcomes;
    this.#sealing = sealing;
    this.#sending = new Sending({ store, service, sealing, outcomes, onTrouble, background });
    this.#receiving = new Receiving({
      store,
      opener: new Opener(store, me, { requirePq }),
      answerRekey: async (peerId, sessionId) => {
        if (await sealing.answerRekey(peerId, sessionId)) this.#sending.pump();
      },
      onPrekeysUsed: () => background(this.#upkeep.run()),
      onNotOpened: (item) => this.#problems.emit({ type: "not-opened", at: Date.now(), item }),
      onFailed: () => this.#asking.wake(),
      onRetryRequest: () => this.#answering.wake(),
      background,
    });
    this.#asking = new Asking({
      store,
      service,
      me,
      onAsked: (message) => this.#receiving.refuse(message),
      onLost: ({ senderId, itemId, code }) => {
        this.#receiving.refuse({ senderId, itemId, code });
        const item = { senderId, itemId, seq: null, code, isRefused: true };
        this.#problems.emit({ type: "not-opened", at: Date.now(), item });
      },
      onTrouble,
      background,
    });
    this.#answering = new Answering({ store, me, sealing, pump: () => this.#sending.pump(), onTrouble, background });
    this.#connected.promise.catch(() => {});
  }

  /**
   * Opens the agent of this store, or makes a new one: registers it with the service and gives it prekeys. An agent that was
   * registered before opens without the service as well, and connects when it can.
   *
   * Throws a `StoreError`, a `ServiceUnavailable`, `ServiceRefused` or `ClockSkew`, and the signal's reason.
   */
  static async open(options: AgentOptions): Promise<Agent> {
    options.signal?.throwIfAborted();
    const base = serviceUrl(options.url);
    const { storePath: path, key } = options;
    const store = Store.open({ path, ...(key === undefined ? {} : { key }) });
    return Agent.over(store, (me, signal) => new ServiceClient(base, me, signal), { ...options, origin: base.origin });
  }

  /**
   * The same over a store that is open, which it closes, and any service; `origin` names that in the store.
   * @internal
   */
  static async over(
    store: Store,
    connect: Connect,
    { origin, requirePq = false, signal }: Pick<AgentOptions, "requirePq" | "signal"> & { readonly origin: string },
  ): Promise<Agent> {
    const ending = new AbortController();
    try {
      const { accounts } = store;
      const me = accounts.identity() ?? (await store.commit(() => accounts.createIdentity(Date.now())));
      const agent = new Agent(store, me, connect(me, ending.signal), { origin, requirePq, ending });
      await abandonable(agent.#upkeep.begin(), signal);
      agent.#start();
      return agent;
    } catch (error) {
      ending.abort(error);
      store.close();
      throw error;
    }
  }

  /**
   * Encrypts for one agent and sends; resolves when the service has the message. From the moment it is stored here (before anything is
   * sent) it will be sent, also when this call is called off, the service is away or the process dies.
   *
   * Rejects with `SendRejected` when it will never be taken; `AgentStopped`, and it leaves at the next open if it was stored; `StoreError`; the signal's reason.
   */
  async send(to: string, body: Body, { contentType, signal }: SendOptions = {}): Promise<Sent> {
    this.#ending.signal.throwIfAborted();
    if (this.#closing !== null) throw new AgentStopped("closed");
    const stored = this.#sealing.seal(to, contentOf(body, contentType), signal === undefined ? {} : { signal });
    const messageId = await abandonable(stored, signal);
    const accepted = this.#outcomes.accepted(messageId);
    this.#sending.pump();
    await abandonable(this.#track(accepted), signal);
    return {
      messageId,
      recipientId: to,
      delivered: (options) => this.#outcomes.reached(messageId, "delivered", options?.signal),
      acknowledged: (options) => this.#outcomes.reached(messageId, "acknowledged", options?.signal),
    };
  }

  /** Many at once, each with its own outcome, in the order given. */
  sendMany(messages: readonly OutgoingMessage[], waiting: Waiting = {}): Promise<PromiseSettledResult<Sent>[]> {
    return Promise.allSettled(
      messages.map(({ to, body, ...options }) => this.send(to, body, { ...options, ...waiting })),
    );
  }

  /**
   * Messages for this agent, in the order of its mailbox. One is acknowledged when the next is asked for (or by `message.ack()`); one
   * whose loop body throws, or is left, is not: it comes again, first, in the next loop or at the next open.
   *
   * Ends when the signal aborts and when the agent is closed; throws `AgentStopped` when the agent stops otherwise.
   */
  inbox({ signal }: Waiting = {}): AsyncGenerator<InboxMessage, void, undefined> {
    return this.#receiving.messages(signal);
  }

  /** What becomes of sent messages, from now on. A listener that is 10,000 behind misses the oldest: `status` knows them. */
  receipts({ signal }: Waiting = {}): AsyncGenerator<Receipt, void, undefined> {
    return this.#outcomes.receipts.subscribe(signal);
  }

  /** Messages that did not open, and troubles that the agent gets over by itself: the last 100, and from now on. */
  problems({ signal }: Waiting = {}): AsyncGenerator<Problem, void, undefined> {
    return this.#problems.subscribe(signal);
  }

  /** What became of a message; null when it is not one of this store, or ended more than 40 days ago. */
  status(messageId: string): OutboxStatus | null {
    return this.#store.outbox.status(messageId);
  }

  /** Resolves when the stream is open. */
  connected({ signal }: Waiting = {}): Promise<void> {
    return abandonable(this.#connected.promise, signal);
  }

  /** Waits for what is on its way (up to five seconds, unless told otherwise), disconnects, and frees the store for the next. */
  close({ drainMsMax = DRAIN_MS_MAX }: { readonly drainMsMax?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(drainMsMax);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #start(): void {
    const streaming = keepStream(
      this.#service,
      {
        onOpen: (connection) => this.#onOpen(connection),
        onFrames: (frames) => this.#onFrames(frames),
        onClose: () => this.#onClose(),
        onUnknown: () => this.#upkeep.registerAgain(),
        onTrouble: (error) => this.#problems.emit({ type: "trouble", at: Date.now(), error }),
      },
      this.#ending.signal,
    );
    this.#streaming = streaming.catch((error) => this.#stop(stoppedBy(error)));
    this.#every(UPKEEP_INTERVAL_MS, () => this.#background(this.#upkeep.runIfDue()));
    this.#every(ASK_INTERVAL_MS, () => this.#background(this.#outcomes.ask(this.#service)));
    this.#every(TIDY_INTERVAL_MS, () => this.#background(this.#upkeep.tidy()));
    this.#every(ASK_INTERVAL_MS, () => this.#background(this.#outcomes.endUnrepaired()));
  }

  #every(ms: number, work: () => void): void {
    this.#timers.push(setInterval(work, ms).unref());
  }

  #onOpen(connection: StreamConnection): void {
    this.#connection = connection;
    this.#receiving.onOpen(connection);
    this.#background(this.#beginSending(connection));
    this.#connected.resolve();
    this.#asking.wake();
    this.#answering.wake();
    this.#background(this.#outcomes.ask(this.#service));
    this.#background(this.#upkeep.runIfDue());
  }

  /** Nothing leaves before it is known that it does not repeat what this agent has sent already. */
  async #beginSending(connection: StreamConnection): Promise<void> {
    this.#checkingStore ??= this.#checkStore().catch((error) => {
      // A store that failed once is asked again on the next connection.
      this.#checkingStore = null;
      throw error;
    });
    await this.#checkingStore;
    if (this.#connection === connection) this.#sending.onOpen(connection);
  }

  /** Once after each opening: only an opening can have changed it. */
  async #checkStore(): Promise<void> {
    const backoff = new Backoff(CHECK_RETRY_MS);
    for (;;) {
      try {
        const messagesLost = await findRollback(this.#store, this.#service);
        if (messagesLost > 0) this.#problems.emit({ type: "store-rolled-back", at: Date.now(), messagesLost });
        break;
      } catch (error) {
        if (!(error instanceof AgentError) || error instanceof AgentStopped || error instanceof StoreError) throw error;
        this.#problems.emit({ type: "trouble", at: Date.now(), error });
        // A service that cannot tell at all keeps no mail from leaving; one that is away takes none either.
        if (!(error instanceof ServiceUnavailable)) break;
        await delay(backoff.next(error.retryAfterMs ?? 0), this.#ending.signal);
      }
    }
    // Also what an earlier opening held and did not get to.
    this.#background(this.#sending.sayHeldAnew());
  }

  #onClose(): void {
    this.#connection = null;
    this.#receiving.onClose();
    this.#sending.onClose();
    this.#connected = Promise.withResolvers();
    this.#connected.promise.catch(() => {});
  }

  #onFrames(frames: readonly ServerFrame[]): void {
    const items = frames.filter((frame) => frame.type === "item");
    if (items.length > 0) this.#background(this.#receiving.onItems(items));
    const receipts = frames.filter((frame) => frame.type === "receipt");
    if (receipts.length > 0) {
      this.#background(
        this.#outcomes.record(receipts.map(({ status, ...receipt }) => ({ ...receipt, state: status }))),
      );
    }
    for (const frame of frames) {
      if (frame.type === "accepted") this.#background(this.#sending.onAccepted(frame));
      if (frame.type === "rejected") this.#background(this.#sending.onRejected(frame));
      if (frame.type === "notice") this.#upkeep.onNotice(frame.kind);
    }
  }

  /** What nobody awaits. A store that fails ends the connection, so that what it did not take comes again. */
  #background(work: Promise<unknown>): void {
    this.#track(work).catch((error) => {
      if (this.#ending.signal.aborted) return;
      if (!(error instanceof AgentError) || error instanceof AgentStopped) {
        this.#stop(stoppedBy(error));
        return;
      }
      this.#problems.emit({ type: "trouble", at: Date.now(), error });
      if (error instanceof StoreError) this.#connection?.terminate();
    });
  }

  #track<T>(work: Promise<T>): Promise<T> {
    this.#underWay.add(work);
    const done = () => this.#underWay.delete(work);
    work.then(done, done);
    return work;
  }

  async #close(drainMsMax: number): Promise<void> {
    this.#receiving.stop(new AgentStopped("closed"));
    if (this.#connection !== null && !this.#ending.signal.aborted) {
      // The answers of what was just handled leave as well.
      await this.#store.commit(() => {}).catch(() => {});
      this.#receiving.flush();
      const drained = new AbortController();
      const patience = delay(drainMsMax, drained.signal).catch(() => {});
      await Promise.race([Promise.allSettled(this.#underWay), patience]);
      drained.abort();
      this.#receiving.flush();
    }
    this.#stop(new AgentStopped("closed"));
    await this.#streaming;
    this.#store.close();
  }

  #stop(error: AgentStopped): void {
    if (this.#ending.signal.aborted) return;
    for (const timer of this.#timers) clearInterval(timer);
    this.#sending.stop();
    this.#asking.stop();
    this.#answering.stop();
    this.#upkeep.stop();
    this.#receiving.stop(error);
    this.#outcomes.stop(error);
    this.#problems.end();
    this.#connected.reject(error);
    this.#ending.abort(error);
  }
}

function serviceUrl(url: string): URL {
  const base = URL.canParse(url) ? new URL(url) : null;
  if (base?.protocol === "https:" || base?.protocol === "http:") return base;
  throw new AgentError("url-malformed", "the service's url is not an http or https url");
}

function stoppedBy(error: unknown): AgentStopped {
  return error instanceof AgentStopped ? error : new AgentStopped("failed", error);
}
