/**
 * What waits in the mailbox of an agent whose keys the service holds: asked for when a loop wants it, and answered when the loop is done with it.
 *
 * The mailbox keeps a message until then, and nothing of it is stored here. That it was handled is stored here first, so that a repeat (its answer was lost) is answered
 * again and handed out never again.
 */
import { ACK_ITEMS_MAX, type StreamItemId } from "../protocol/stream-frames.ts";
import { AgentError, AgentStopped, StoreError } from "./errors.ts";
import { HandingOut } from "./handing-out.ts";
import type { HeldService, OpenedPage } from "./held-service.ts";
import type { Life } from "./life.ts";
import type { InboxMessage } from "./message.ts";
import { Backoff, delay, retryAfterOf } from "./patience.ts";
import type { ReceivedMessage } from "./store/inbox.ts";
import type { Store } from "./store/store.ts";

/** Less than what the service (30 s) and proxies (a minute) allow. */
const WAIT_MS = 25_000;

/** A service that does not wait is not asked more often. */
const EMPTY_MS_MIN = 500;

const RETRY_MS = { firstMs: 250, lastMs: 30_000 };

interface HeldReceivingPorts {
  readonly store: Store;
  readonly service: Pick<HeldService, "open" | "acknowledge">;
  readonly life: Life;
}

export class HeldReceiving {
  readonly #ports: HeldReceivingPorts;
  readonly #handingOut: HandingOut;
  readonly #fetchBackoff = new Backoff(RETRY_MS);
  readonly #answerBackoff = new Backoff(RETRY_MS);
  /** Handed out or about to be, and not handled. */
  readonly #held = new Set<string>();
  /** Aborts when nothing is handed out any more. */
  readonly #ending = new AbortController();
  #cursor: string | null = null;
  #isFetching = false;
  #acks: StreamItemId[] = [];
  #answering: Promise<void> | null = null;
  #answerScheduled: NodeJS.Immediate | null = null;

  constructor(ports: HeldReceivingPorts) {
    this.#ports = ports;
    this.#handingOut = new HandingOut(
      (message) => this.#handled(message),
      [],
      () => this.#fetchSoon(),
    );
  }

  messages(signal?: AbortSignal): AsyncGenerator<InboxMessage, void, undefined> {
    return this.#handingOut.messages(signal);
  }

  stop(error: unknown): void {
    this.#handingOut.stop(error);
    this.#ending.abort(error);
  }

  /** Sends the answers that are ready. */
  flush(): void {
    if (this.#answerScheduled !== null) clearImmediate(this.#answerScheduled);
    this.#answerScheduled = null;
    if (this.#answering !== null || this.#acks.length === 0) return;
    this.#answering = this.#answerAll().finally(() => {
      this.#answering = null;
    });
    this.#ports.life.background(this.#answering);
  }

  #fetchSoon(): void {
    if (this.#isFetching || this.#ending.signal.aborted) return;
    this.#isFetching = true;
    this.#ports.life.background(this.#fetch());
  }

  async #fetch(): Promise<void> {
    try {
      while (this.#handingOut.isWanted && !this.#ending.signal.aborted) await this.#fetchPage();
    } finally {
      // In the turn of the last look: nobody can have begun to wait in between.
      this.#isFetching = false;
    }
  }

  async #fetchPage(): Promise<void> {
    const { signal } = this.#ending;
    const askedAt = performance.now();
    try {
      const page = await this.#ports.service.open(this.#cursor, { waitMs: WAIT_MS, signal });
      this.#fetchBackoff.reset();
      this.#take(page);
      const isEmpty = page.messages.length + page.failed.length === 0;
      const waitMs = isEmpty ? askedAt + EMPTY_MS_MIN - performance.now() : 0;
      if (waitMs > 0) await delay(waitMs, signal);
    } catch (error) {
      if (signal.aborted) return;
      this.#mayPass(error);
      await delay(this.#fetchBackoff.next(retryAfterOf(error)), signal).catch(() => {});
    }
  }

  #take({ messages, failed, cursor }: OpenedPage): void {
    const { store, life } = this.#ports;
    for (const message of messages) {
      const { senderId, messageId } = message;
      if (store.inbox.outcome(senderId, messageId) !== null) {
        this.#ack({ senderId, itemId: messageId });
      } else if (!this.#held.has(nameOf(message))) {
        this.#held.add(nameOf(message));
        this.#handingOut.add(message);
      }
    }
    // The cursor leads past them: each is told once for each opening.
    for (const item of failed) life.notOpened({ ...item, isRefused: false });
    this.#cursor = cursor;
  }

  async #handled(message: ReceivedMessage): Promise<void> {
    const { inbox } = this.#ports.store;
    const { senderId, messageId } = message;
    await this.#ports.store.commit(() => inbox.remember(senderId, messageId, "handled", Date.now()));
    this.#held.delete(nameOf(message));
    this.#ack({ senderId, itemId: messageId });
  }

  /** Those of one turn of the event loop leave together. */
  #ack(item: StreamItemId): void {
    this.#acks.push(item);
    this.#answerScheduled ??= setImmediate(() => this.flush());
  }

  async #answerAll(): Promise<void> {
    const { service, life } = this.#ports;
    while (this.#acks.length > 0) {
      const items = this.#acks.slice(0, ACK_ITEMS_MAX);
      try {
        await service.acknowledge(items);
        this.#answerBackoff.reset();
        this.#acks.splice(0, items.length);
      } catch (error) {
        if (life.signal.aborted) return;
        this.#mayPass(error);
        // What is not answered comes again with the next opening, and is answered then.
        if (this.#ending.signal.aborted) return;
        await delay(this.#answerBackoff.next(retryAfterOf(error)), life.signal);
      }
    }
  }

  /** Tells what passes; throws everything else. */
  #mayPass(error: unknown): asserts error is AgentError {
    if (!(error instanceof AgentError) || error instanceof AgentStopped || error instanceof StoreError) throw error;
    this.#ports.life.trouble(error);
  }
}

function nameOf({ senderId, messageId }: Pick<ReceivedMessage, "senderId" | "messageId">): string {
  return `${senderId}/${messageId}`;
}
