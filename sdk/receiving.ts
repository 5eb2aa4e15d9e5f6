/**
 * What arrives on the stream, up to the application and back as an answer.
 *
 * A message is acknowledged when the application is done with it, and only then; until that it lies in the store, and the mailbox keeps
 * it too. The service sends at most 256 unanswered ones: an application that is slow slows the stream and fills nothing.
 */

import { ACK_ITEMS_MAX, type ItemFrame, type StreamItemId } from "../protocol/stream-frames.ts";
import { HandingOut } from "./handing-out.ts";
import type { InboxMessage } from "./message.ts";
import type { Opener, Opening } from "./opening.ts";
import type { StreamConnection } from "./service.ts";
import type { FailedMessage } from "./store/failed.ts";
import type { ReceivedMessage } from "./store/inbox.ts";
import type { Store } from "./store/store.ts";

/**
 * Time for the application to say something itself, which answers a rekey request as well. Longer, and a fast sender reaches the end of
 * its chain (1,000 messages) before the answer has turned it.
 */
const REKEY_ANSWER_MS = 250;

/** Half of what the service was given: it is asked how many are left. */
const PREKEYS_USED_MAX = 50;

/**
 * Items that are left in the mailbox, per connection: half of the stream's window. Anybody can send what does not open; were all of it
 * left, 256 such items would keep everything else out until they expire.
 */
const LEFT_ITEMS_MAX = 128;
const LEFT_BYTES_MAX = 2 * 1024 * 1024;

export interface NotOpened {
  readonly senderId: string;
  readonly itemId: string;
  /** Its place in the mailbox; null where that is not known any more. */
  readonly seq: number | null;
  /** A code of the protocol. */
  readonly code: string;
  /** Will it never come? Otherwise its sender is asked to say it anew. */
  readonly isRefused: boolean;
}

interface ReceivingPorts {
  readonly store: Store;
  readonly opener: Opener;
  readonly answerRekey: (peerId: string, sessionId: Uint8Array) => Promise<void>;
  readonly onNotOpened: (item: NotOpened) => void;
  /** A request to say a message anew is stored. */
  readonly onFailed: () => void;
  /** A peer's request to say a message anew is stored. */
  readonly onRetryRequest: () => void;
  /** So many one-time prekeys were used that the service may need more. */
  readonly onPrekeysUsed: () => void;
  /** For what nobody awaits. */
  readonly background: (work: Promise<unknown>) => void;
}

export class Receiving {
  readonly #ports: ReceivingPorts;
  readonly #rekeyTimers = new Map<string, NodeJS.Timeout>();
  readonly #handingOut: HandingOut;
  #acks: StreamItemId[] = [];
  #ackScheduled: NodeJS.Immediate | null = null;
  #connection: StreamConnection | null = null;
  /** Items left unanswered on this connection. */
  #left = { items: 0, bytes: 0 };

  constructor(ports: ReceivingPorts) {
    this.#ports = ports;
    this.#handingOut = new HandingOut((message) => this.#handled(message), ports.store.inbox.waiting());
  }

  onOpen(connection: StreamConnection): void {
    this.#connection = connection;
    this.#left = { items: 0, bytes: 0 };
    this.flush();
  }

  /** What was answered, and did not arrive, is sent again on the next connection, and answered there. */
  onClose(): void {
    this.#connection = null;
  }

  /** Items of one message of the stream: opened in one transaction, or in few. */
  async onItems(items: readonly ItemFrame[]): Promise<void> {
    const { store, opener } = this.#ports;
    const opened = items.map((item) => store.commit(() => opener.open(item)));
    // All are awaited before any failure counts: what was opened before it is in the store and must reach the application.
    const results = await Promise.allSettled(opened);
    for (const [index, result] of results.entries()) {
      const item = items[index] as ItemFrame;
      if (result.status === "fulfilled") this.#settle(item, result.value);
    }
    if (opener.takeUsedPrekeys(PREKEYS_USED_MAX)) this.#ports.onPrekeysUsed();
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  /** Messages one after the other; what the caller leaves unfinished comes again, first. Several iterators share the messages. */
  messages(signal?: AbortSignal): AsyncGenerator<InboxMessage, void, undefined> {
    return this.#handingOut.messages(signal);
  }

  /** Iterators end; with an error they throw it. */
  stop(error: unknown): void {
    for (const timer of this.#rekeyTimers.values()) clearTimeout(timer);
    this.#rekeyTimers.clear();
    this.#handingOut.stop(error);
  }

  /** This message will not open. */
  refuse({ senderId, itemId, code }: FailedMessage): void {
    this.#connection?.send([{ type: "refuse", code, senderId, itemId }]);
  }

  /** Sends the answers that are ready without waiting for more. */
  flush(): void {
    if (this.#ackScheduled !== null) clearImmediate(this.#ackScheduled);
    this.#ackScheduled = null;
    const connection = this.#connection;
    if (connection === null) return;
    while (this.#acks.length > 0) connection.send([{ type: "ack", items: this.#acks.splice(0, ACK_ITEMS_MAX) }]);
  }

  #settle(item: ItemFrame, opening: Opening): void {
    const { senderId, itemId, seq } = item;
    if (opening.rekeyIn !== null) this.#answerRekeyLater(senderId, opening.rekeyIn);
    switch (opening.type) {
      case "message":
        this.#handingOut.add(opening.message);
        break;
      case "answered":
        this.#ack({ senderId, itemId });
        break;
      case "refused":
        this.refuse({ senderId, itemId, code: opening.code });
        if (!opening.isKnown) this.#ports.onNotOpened({ senderId, itemId, seq, code: opening.code, isRefused: true });
        break;
      case "failed":
        // Its request is stored: the item is not needed for it.
        if (!this.#leave(item)) this.refuse({ senderId, itemId, code: opening.code });
        if (!opening.isKnown) this.#ports.onNotOpened({ senderId, itemId, seq, code: opening.code, isRefused: false });
        this.#ports.onFailed();
        break;
      case "retry-request":
        this.#ack({ senderId, itemId });
        this.#ports.onRetryRequest();
        break;
      case "waiting":
        break;
    }
  }

  /** False when too many were left on this connection already. */
  #leave({ body }: ItemFrame): boolean {
    const items = this.#left.items + 1;
    const bytes = this.#left.bytes + body.length;
    if (items > LEFT_ITEMS_MAX || bytes > LEFT_BYTES_MAX) return false;
    this.#left = { items, bytes };
    return true;
  }

  async #handled({ senderId, messageId }: ReceivedMessage): Promise<void> {
    await this.#ports.store.commit(() => this.#ports.store.inbox.markHandled(senderId, messageId));
    this.#ack({ senderId, itemId: messageId });
  }

  /** Those of one turn of the event loop leave together. */
  #ack(item: StreamItemId): void {
    this.#acks.push(item);
    this.#ackScheduled ??= setImmediate(() => this.flush());
  }

  #answerRekeyLater(peerId: string, sessionId: Uint8Array): void {
    const name = `${peerId}/${Buffer.from(sessionId).toString("hex")}`;
    if (this.#rekeyTimers.has(name)) return;
    const timer = setTimeout(() => {
      this.#rekeyTimers.delete(name);
      this.#ports.background(this.#ports.answerRekey(peerId, sessionId));
    }, REKEY_ANSWER_MS);
    this.#rekeyTimers.set(name, timer);
  }
}
