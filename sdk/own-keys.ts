/**
 * The custody of an agent that holds its keys: content leaves this process only encrypted to its recipient, over the agent's stream.
 */
import type { Identity } from "../protocol/identity.ts";
import type { ServerFrame } from "../protocol/stream-frames.ts";
import { Answering } from "./answering.ts";
import { Asking } from "./asking.ts";
import type { Custody } from "./custody.ts";
import { AgentError, AgentStopped, ServiceUnavailable, StoreError } from "./errors.ts";
import { type Life, stoppedBy } from "./life.ts";
import type { InboxMessage } from "./message.ts";
import { Opener } from "./opening.ts";
import type { Outcome, Outcomes } from "./outcomes.ts";
import { Backoff, delay } from "./patience.ts";
import { Receiving } from "./receiving.ts";
import { findRollback } from "./rollback.ts";
import { Sealing } from "./sealing.ts";
import { Sending } from "./sending.ts";
import type { Service, StreamConnection } from "./service.ts";
import type { Content } from "./store/content.ts";
import type { Store } from "./store/store.ts";
import { keepStream } from "./stream.ts";
import { UPKEEP_INTERVAL_MS, Upkeep } from "./upkeep.ts";

/** What was deleted is gone from the write-ahead log as well after this time. */
const TIDY_INTERVAL_MS = 60_000;

const ENDING_INTERVAL_MS = 5 * 60_000;

/** The service that answers the stream answers the question as well, in a moment. */
const CHECK_RETRY_MS = { firstMs: 250, lastMs: 10_000 };

interface OwnKeysPorts {
  readonly store: Store;
  readonly me: Identity;
  readonly service: Service;
  /** How the service is named in the store. */
  readonly origin: string;
  readonly requirePq: boolean;
  readonly outcomes: Outcomes;
  readonly life: Life;
}

export class OwnKeys implements Custody {
  readonly agentId: string;
  readonly service: Service;
  readonly #store: Store;
  readonly #outcomes: Outcomes;
  readonly #life: Life;
  readonly #upkeep: Upkeep;
  readonly #sealing: Sealing;
  readonly #sending: Sending;
  readonly #receiving: Receiving;
  readonly #asking: Asking;
  readonly #answering: Answering;
  #connected = Promise.withResolvers<void>();
  #connection: StreamConnection | null = null;
  #checkingStore: Promise<void> | null = null;
  #streaming: Promise<void> = Promise.resolve();

  constructor({ store, me, service, origin, requirePq, outcomes, life }: OwnKeysPorts) {
    const { signal } = life;
    const background = (work: Promise<unknown>) => life.background(work);
    const onTrouble = (error: AgentError) => life.trouble(error);
    const onReplaced = () => life.problems.emit({ type: "prekeys-replaced", at: Date.now() });
    const sealing = new Sealing({ store, service, me, requirePq, signal, onStopped: (error) => life.stop(error) });
    this.agentId = me.agentId;
    this.service = service;
    this.#store = store;
    this.#outcomes = outcomes;
    this.#life = life;
    this.#upkeep = new Upkeep({ store, service, me, origin, onReplaced, background, signal });
    this.#sealing = sealing;
    this.#sending = new Sending({ store, service, sealing, outcomes, onTrouble, background });
    this.#receiving = new Receiving({
      store,
      opener: new Opener(store, me, { requirePq }),
      answerRekey: async (peerId, sessionId) => {
        if (await sealing.answerRekey(peerId, sessionId)) this.#sending.pump();
      },
      onPrekeysUsed: () => background(this.#upkeep.run()),
      onNotOpened: (item) => life.notOpened(item),
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
        life.notOpened({ senderId, itemId, seq: null, code, isRefused: true });
      },
      onTrouble,
      background,
    });
    this.#answering = new Answering({ store, me, sealing, pump: () => this.#sending.pump(), onTrouble, background });
    this.#connected.promise.catch(() => {});
    life.onStoreFault(() => this.#connection?.terminate());
    life.atEnd((error) => this.#end(error));
  }

  get isConnected(): boolean {
    return this.#connection !== null;
  }

  get disconnected(): Promise<void> {
    return this.#streaming;
  }

  begin(): Promise<void> {
    return this.#upkeep.begin();
  }

  start(): void {
    const streaming = keepStream(
      this.service,
      {
        onOpen: (connection) => this.#onOpen(connection),
        onFrames: (frames) => this.#onFrames(frames),
        onClose: () => this.#onClose(),
        onUnknown: () => this.#upkeep.registerAgain(),
        onTrouble: (error) => this.#life.trouble(error),
      },
      this.#life.signal,
    );
    this.#streaming = streaming.catch((error) => this.#life.stop(stoppedBy(error)));
    this.#life.every(UPKEEP_INTERVAL_MS, () => this.#life.background(this.#upkeep.runIfDue()));
    this.#life.every(TIDY_INTERVAL_MS, () => this.#life.background(this.#upkeep.tidy()));
    this.#life.every(ENDING_INTERVAL_MS, () => this.#life.background(this.#outcomes.endUnrepaired()));
  }

  connected(): Promise<void> {
    return this.#connected.promise;
  }

  store(recipientId: string, content: Content, signal?: AbortSignal): Promise<string> {
    return this.#sealing.seal(recipientId, content, signal === undefined ? {} : { signal });
  }

  pump(): void {
    this.#sending.pump();
  }

  messages(signal?: AbortSignal): AsyncGenerator<InboxMessage, void, undefined> {
    return this.#receiving.messages(signal);
  }

  beginSession(peerId: string): Promise<Uint8Array> {
    return this.#sealing.beginSession(peerId);
  }

  flush(): void {
    this.#receiving.flush();
  }

  endInbox(error: unknown): void {
    this.#receiving.stop(error);
  }

  #onOpen(connection: StreamConnection): void {
    this.#connection = connection;
    this.#receiving.onOpen(connection);
    this.#life.background(this.#beginSending(connection));
    this.#connected.resolve();
    this.#asking.wake();
    this.#answering.wake();
    this.#life.background(this.#outcomes.ask(this.service));
    this.#life.background(this.#upkeep.runIfDue());
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
        const messagesLost = await findRollback(this.#store, this.service);
        if (messagesLost > 0) this.#life.problems.emit({ type: "store-rolled-back", at: Date.now(), messagesLost });
        break;
      } catch (error) {
        if (!(error instanceof AgentError) || error instanceof AgentStopped || error instanceof StoreError) throw error;
        this.#life.trouble(error);
        // A service that cannot tell at all keeps no mail from leaving; one that is away takes none either.
        if (!(error instanceof ServiceUnavailable)) break;
        await delay(backoff.next(error.retryAfterMs ?? 0), this.#life.signal);
      }
    }
    // Also what an earlier opening held and did not get to.
    this.#life.background(this.#sending.sayHeldAnew());
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
    if (items.length > 0) this.#life.background(this.#receiving.onItems(items));
    const moved: Outcome[] = [];
    for (const frame of frames) {
      if (frame.type !== "receipt") continue;
      const { status, messageId, code } = frame;
      if (status === "undeliverable") this.#outcomes.tellUndeliverable(messageId);
      else moved.push({ messageId, state: status, code });
    }
    if (moved.length > 0) this.#life.background(this.#outcomes.record(moved));
    for (const frame of frames) {
      if (frame.type === "accepted") this.#life.background(this.#sending.onAccepted(frame));
      if (frame.type === "rejected") this.#life.background(this.#sending.onRejected(frame));
      if (frame.type === "notice") this.#upkeep.onNotice(frame.kind);
    }
  }

  #end(error: AgentStopped): void {
    this.#sending.stop();
    this.#asking.stop();
    this.#answering.stop();
    this.#upkeep.stop();
    this.#receiving.stop(error);
    this.#connected.reject(error);
  }
}
