/**
 * One open connection of an agent, whatever its door: what it is sent. What is sent when is decided in delivery.ts; this file carries it
 * out, and the transport takes it to the client.
 *
 * Promise: memory is bounded, whatever the client does or does not: by the window for items, and for a client that does not take what it is
 * sent by sending nothing more but the reads that are out; hints (receipts, notices) are left out for it.
 */

import { type ProtocolCode, type Refusal, Unavailable } from "../../protocol/refusal.ts";
import {
  CLOSE_NOT_ALLOWED,
  type ItemFrame,
  itemFrameBytes,
  type NoticeKind,
  type ReceiptFrame,
  type ServerFrame,
  type StreamItemId,
} from "../../protocol/stream-frames.ts";
import type { Caller } from "../auth.ts";
import type { Answer } from "../operations/acknowledge.ts";
import { ApiRefusal, problemOf } from "../problem.ts";
import type { Fall } from "../standing.ts";
import { type DeliveryEffect, type DeliveryEvent, deliver, openDelivery, type Page, sweptSeqs } from "./delivery.ts";
import type { Reporter } from "./reporter.ts";
import type { Transport } from "./transport.ts";

/** Bytes of items in one write: large enough that writes cost little, small enough that a slow link shows its progress. */
const WRITE_BYTES_SOFT_MAX = 256 * 1024;

/**
 * Written and not taken by the network: from here on a client is behind. More than any window of a TCP connection that is worth the name needs in
 * advance, and with two reads and a publication on top (1 MiB each at most) the most that a client that does not read can make us hold.
 */
const BEHIND_BYTES = 1024 * 1024;

/** And from here on it is not: half, so that a slow one is not read for row by row. */
const DRAINED_BYTES = BEHIND_BYTES / 2;

export interface ConnectionDeps {
  readonly reporter: Reporter;
  /** At most so many at a time over all connections. Throws `Unavailable`. */
  readonly readMailbox: (
    recipientId: string,
    range: { readonly afterSeq: number; readonly limit: number; readonly maxBytes: number },
  ) => Promise<Omit<Page, "type">>;
  /** ms since the epoch. */
  readonly now: () => number;
  /** This item was the first of a connection that ended over it, as far as one can tell. */
  readonly onUnanswered: (agentId: string, item: StreamItemId) => void;
  readonly onBug: (error: unknown) => void;
  readonly onClosed: (connection: Connection) => void;
}

/** Makes the wire of a connection, which tells the connection what comes from the client. */
export type Attach = (connection: Connection) => Transport;

export class Connection {
  readonly agentId: string;
  /** The key that it was opened by, where it was not the agent's own. */
  readonly signingKeyId: string | undefined;
  /** Unique in this gateway. */
  readonly id: string;
  readonly #deps: ConnectionDeps;
  readonly #transport: Transport;
  readonly #delivery = openDelivery();
  #out: ServerFrame[] = [];
  /** An item has left for the client. */
  #hasSentItems = false;
  /** Of every item that has left so far it is told; when it could not be of one, none is told of any more: its answer implies it. */
  #tellsDeliveries = true;

  /** Reads nothing from the mailbox before `open`. */
  constructor({ agentId, signingKeyId }: Caller, id: string, deps: ConnectionDeps, attach: Attach) {
    this.agentId = agentId;
    this.signingKeyId = signingKeyId;
    this.id = id;
    this.#deps = deps;
    this.#transport = attach(this);
  }

  /** The presence is set: from now on nothing can be stored unnoticed for longer than a sweep. */
  open(): void {
    this.deliver({ type: "opened" });
  }

  deliver(event: DeliveryEvent): void {
    for (const effect of deliver(this.#delivery, event)) this.#carryOut(effect);
  }

  /** What a sweep should ask about this connection. */
  question(): { recipientId: string; lastSent: number; seqs: number[] } {
    return { recipientId: this.agentId, lastSent: this.#delivery.lastSent, seqs: sweptSeqs(this.#delivery) };
  }

  /** The client has opened and kept these. */
  acknowledge(items: readonly StreamItemId[]): void {
    this.#report(items.map(acknowledgedAnswer));
    this.deliver({ type: "answered", items });
  }

  /** The client can never open this one. */
  refuse({ senderId, itemId }: StreamItemId, code: ProtocolCode): void {
    this.#report([{ senderId, messageId: itemId, outcome: "refused", code }]);
    this.deliver({ type: "answered", items: [{ senderId, itemId }] });
  }

  receipt(receipt: Omit<ReceiptFrame, "type">): void {
    if (!this.#delivery.stalled) this.write({ type: "receipt", ...receipt });
  }

  notice(kind: NoticeKind): void {
    if (!this.#delivery.stalled) this.write({ type: "notice", kind });
  }

  goAway(reason: string): void {
    this.write({ type: "goaway", reason });
  }

  /** It may not act any more, and this is why. */
  expel(code: Fall): void {
    this.endWith(new ApiRefusal(code), CLOSE_NOT_ALLOWED, "not allowed any more");
  }

  /** Says what is wrong, and closes. */
  endWith(refusal: Refusal, closeCode: number, reason: string): void {
    this.write({ type: "problem", problem: { ...problemOf(refusal, this.#deps.now()) } });
    this.close(closeCode, reason);
  }

  /** Leaves with everything else that is written in the same turn, in few writes. */
  write(frame: ServerFrame): void {
    if (this.isClosed()) return;
    if (this.#out.length === 0) queueMicrotask(() => this.#flush());
    this.#out.push(frame);
  }

  /** Sends what is written, and closes. */
  close(code: number, reason: string): void {
    if (this.isClosed()) return;
    this.#flush();
    // That we end it is no fault of what was sent.
    deliver(this.#delivery, { type: "closed" });
    this.#transport.close(code, reason);
  }

  /** The close was decided: nothing more is sent, and nothing that comes is looked at. */
  isClosed(): boolean {
    return this.#delivery.closed;
  }

  /** Without a word: for a client that does not answer a close. */
  terminate(): void {
    this.#transport.terminate();
  }

  /** Asks for a sign of life; ends a connection that gave none since the last time. */
  beat(): void {
    this.#transport.beat();
  }

  /** For the transport: it has ended, in good order (or nobody can tell), or because something broke. */
  onClosed(end: "in order" | "broken"): void {
    const effects = deliver(this.#delivery, { type: "closed" });
    if (this.#hasSentItems && end === "broken") for (const effect of effects) this.#carryOut(effect);
    this.#out = [];
    this.#deps.onClosed(this);
  }

  #report(answers: readonly Answer[]): void {
    this.#deps.reporter.answered(this.agentId, answers);
  }

  #carryOut(effect: DeliveryEffect): void {
    switch (effect.type) {
      case "send":
        for (const item of effect.items) this.write({ type: "item", ...item });
        break;
      case "read":
        void this.#read(effect);
        break;
      case "queue-empty":
        this.write({ type: "queue-empty", lastSeq: effect.lastSeq });
        break;
      case "acknowledge":
        this.#report(effect.items.map(acknowledgedAnswer));
        break;
      case "unanswered":
        this.#deps.onUnanswered(this.agentId, effect.item);
    }
  }

  async #read({ afterSeq, limit, bytesMax }: Extract<DeliveryEffect, { type: "read" }>): Promise<void> {
    try {
      const page = await this.#deps.readMailbox(this.agentId, { afterSeq, limit, maxBytes: bytesMax });
      this.deliver({ type: "page", ...page });
    } catch (error) {
      if (!(error instanceof Unavailable)) this.#deps.onBug(error);
      this.deliver({ type: "read-failed" });
    }
  }

  #flush(): void {
    const frames = this.#out;
    this.#out = [];
    let start = 0;
    let bytes = 0;
    frames.forEach((frame, index) => {
      bytes += frame.type === "item" ? itemFrameBytes(frame) : 0;
      if (bytes < WRITE_BYTES_SOFT_MAX && index < frames.length - 1) return;
      this.#send(frames.slice(start, index + 1));
      start = index + 1;
      bytes = 0;
    });
    if (!this.#delivery.stalled && this.#transport.bufferedBytes() > BEHIND_BYTES) this.deliver({ type: "stalled" });
  }

  #send(frames: readonly ServerFrame[]): void {
    this.#transport.write(frames, () => {
      this.#reportDelivered(frames);
      if (this.#delivery.stalled && this.#transport.bufferedBytes() <= DRAINED_BYTES) this.deliver({ type: "drained" });
    });
  }

  #reportDelivered(frames: readonly ServerFrame[]): void {
    const items: StreamItemId[] = frames.filter(isItem).map(({ senderId, itemId }) => ({ senderId, itemId }));
    if (items.length === 0) return;
    this.#hasSentItems = true;
    this.#tellsDeliveries = this.#tellsDeliveries && this.#deps.reporter.delivered(this.agentId, items);
  }
}

function acknowledgedAnswer({ senderId, itemId }: StreamItemId): Answer {
  return { senderId, messageId: itemId, outcome: "acknowledged" };
}

function isItem(frame: ServerFrame): frame is ItemFrame {
  return frame.type === "item";
}
