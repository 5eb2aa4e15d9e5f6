/**
 * One open stream: frames in, frames out. What is sent when is decided in delivery.ts; this file carries it out.
 *
 * Promises: what a client sends is appended in the order in which it came, whatever the checks of it take. Memory is bounded: by the
 * window for items, by not reading from a client that has too many calls open or does not read its own frames, and by leaving out
 * receipts, which are hints, for a client that is behind.
 */
import type { WebSocket } from "ws";
import { Refusal, Unavailable } from "../../protocol/refusal.ts";
import {
  CLOSE_MALFORMED,
  CLOSE_NOT_ALLOWED,
  type ClientFrame,
  decodeClientFrames,
  encodeServerFrames,
  type ItemFrame,
  itemFrameBytes,
  type NoticeKind,
  type ReceiptFrame,
  type SendFrame,
  type ServerFrame,
  type StreamItemId,
} from "../../protocol/stream-frames.ts";
import type { Answer } from "../operations/acknowledge.ts";
import { appendSend, checkSend, type SendDeps } from "../operations/send.ts";
import { ApiRefusal, type ProblemCode, problemOf } from "../problem.ts";
import { type DeliveryEffect, type DeliveryEvent, deliver, openDelivery, type Page, sweptSeqs } from "./delivery.ts";
import type { Reporter } from "./reporter.ts";

/** RFC 6455 §7.4.1: an unexpected condition. */
const CLOSE_FAILED = 1011;

/** Calls of one connection that are not answered yet: enough to keep Kafka busy, few enough to be fair. */
const CALLS_MAX = 16;

/** Their bytes: two of the largest. */
const CALL_BYTES_MAX = 16 * 1024 * 1024;

/** Bytes of items in one WebSocket message: large enough that frames cost little, small enough that a slow link shows its progress. */
const MESSAGE_BYTES_SOFT_MAX = 256 * 1024;

/** Written but not taken by the network: more than a window of items, so that only a client that does not read gets here. */
const BUFFERED_BYTES_MAX = 6 * 1024 * 1024;

/** From here on receipts are left out: the client asks for status instead. */
const BUFFERED_BYTES_FOR_RECEIPTS = 1024 * 1024;

export interface ConnectionDeps {
  readonly send: SendDeps;
  readonly reporter: Reporter;
  /** At most so many at a time over all connections. Throws `Unavailable`. */
  readonly readMailbox: (
    recipientId: string,
    range: { readonly afterSeq: number; readonly limit: number; readonly maxBytes: number },
  ) => Promise<Omit<Page, "type">>;
  readonly onBug: (error: unknown) => void;
  readonly onClosed: (connection: Connection) => void;
}

export class Connection {
  readonly agentId: string;
  /** Unique in this gateway. */
  readonly id: string;
  readonly #socket: WebSocket;
  readonly #deps: ConnectionDeps;
  readonly #delivery = openDelivery();
  #out: ServerFrame[] = [];
  /** A sign of life since the last ping. */
  #alive = true;
  #calls = 0;
  #callBytes = 0;
  /** Settles when all calls so far were handed to the appender. */
  #handedOn: Promise<void> = Promise.resolve();

  /** Reads nothing from the mailbox before `open`. */
  constructor(socket: WebSocket, agentId: string, id: string, deps: ConnectionDeps) {
    this.agentId = agentId;
    this.id = id;
    this.#socket = socket;
    this.#deps = deps;
    socket.on("message", (data, isBinary) => this.#onMessage(data as Buffer, isBinary));
    socket.on("pong", () => {
      this.#alive = true;
    });
    // The close that follows says it all.
    socket.on("error", () => undefined);
    socket.on("close", () => this.#onClose());
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

  receipt(receipt: Omit<ReceiptFrame, "type">): void {
    if (this.#socket.bufferedAmount < BUFFERED_BYTES_FOR_RECEIPTS) this.#write({ type: "receipt", ...receipt });
  }

  notice(kind: NoticeKind): void {
    this.#write({ type: "notice", kind });
  }

  /** The agent was suspended or is gone. */
  expel(): void {
    this.#endWith(new ApiRefusal("agent-suspended"), CLOSE_NOT_ALLOWED, "not allowed any more");
  }

  goAway(reason: string): void {
    this.#write({ type: "goaway", reason });
  }

  /** Sends what is written, and closes. */
  close(code: number, reason: string): void {
    this.#flush();
    this.deliver({ type: "closed" });
    // A paused socket would not hear the client's close.
    if (this.#socket.isPaused) this.#socket.resume();
    this.#socket.close(code, reason);
  }

  /** Without a word: for a client that does not answer a close. */
  terminate(): void {
    this.#socket.terminate();
  }

  /** Asks for a sign of life; ends a connection that gave none since the last time. */
  beat(): void {
    // Nothing can be heard of a client that we do not read from because we are slow ourselves.
    const deaf = this.#isBehindWithCalls();
    if (!this.#alive && !deaf) {
      this.#socket.terminate();
      return;
    }
    this.#alive = false;
    if (this.#socket.readyState === this.#socket.OPEN) this.#socket.ping();
  }

  #onMessage(data: Buffer, isBinary: boolean): void {
    this.#alive = true;
    try {
      for (const frame of this.#framesOf(data, isBinary)) this.#onFrame(frame);
    } catch (error) {
      // One connection's bug is not every connection's end.
      this.#deps.onBug(error);
      this.close(CLOSE_FAILED, "internal");
    }
  }

  #framesOf(data: Buffer, isBinary: boolean): ClientFrame[] {
    // What still arrives after the close was decided is not looked at.
    if (this.#delivery.closed) return [];
    try {
      if (!isBinary) throw new Refusal("malformed", { fix: "Send frames in binary messages." });
      return decodeClientFrames(data);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.#endWith(error, CLOSE_MALFORMED, "malformed frame");
      return [];
    }
  }

  #endWith(refusal: Refusal, closeCode: number, reason: string): void {
    this.#write({ type: "problem", problem: { ...problemOf(refusal, this.#deps.send.now()) } });
    this.close(closeCode, reason);
  }

  #onFrame(frame: ClientFrame): void {
    switch (frame.type) {
      case "send":
        this.#onSend(frame);
        break;
      case "ack":
        this.#report(frame.items.map(acknowledgedAnswer));
        this.deliver({ type: "answered", items: frame.items });
        break;
      case "ack-up-to":
        this.deliver({ type: "answered-up-to", seq: frame.seq });
        break;
      case "refuse":
        this.#report([{ senderId: frame.senderId, messageId: frame.itemId, outcome: "refused", code: frame.code }]);
        this.deliver({ type: "answered", items: [frame] });
    }
  }

  #onSend({ batch, envelopes }: SendFrame): void {
    const bytes = envelopes.reduce((sum, envelope) => sum + envelope.length, 0);
    this.#calls++;
    this.#callBytes += bytes;
    this.#regulate();
    void this.#append(envelopes)
      .then(
        () => this.#write({ type: "accepted", batch }),
        (error: unknown) => this.#reject(batch, error),
      )
      .finally(() => {
        this.#calls--;
        this.#callBytes -= bytes;
        this.#regulate();
      });
  }

  /** Checked at once, handed to the appender after all calls before it. */
  async #append(envelopes: readonly Uint8Array[]): Promise<void> {
    const { send } = this.#deps;
    const before = this.#handedOn;
    const checked = checkSend(send, { agentId: this.agentId }, envelopes);
    const appending = Promise.allSettled([before, checked]).then(async () => ({
      done: appendSend(send, await checked),
    }));
    this.#handedOn = appending.then(
      () => undefined,
      () => undefined,
    );
    await (await appending).done;
  }

  #reject(batch: number, error: unknown): void {
    const problem = problemOf(error, this.#deps.send.now());
    if (problem.code === "internal") this.#deps.onBug(error);
    this.#write({ type: "rejected", batch, problem: { ...problem } });
    if (endsStream(problem.code)) this.close(CLOSE_NOT_ALLOWED, "not allowed any more");
  }

  #report(answers: readonly Answer[]): void {
    this.#deps.reporter.answered(this.agentId, answers);
  }

  #carryOut(effect: DeliveryEffect): void {
    switch (effect.type) {
      case "send":
        for (const item of effect.items) this.#write({ type: "item", ...item });
        break;
      case "read":
        void this.#read(effect);
        break;
      case "queue-empty":
        this.#write({ type: "queue-empty", lastSeq: effect.lastSeq });
        break;
      case "acknowledge":
        this.#report(effect.items.map(acknowledgedAnswer));
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

  /** Leaves with everything else that is written in the same turn, in few WebSocket messages. */
  #write(frame: ServerFrame): void {
    if (this.#delivery.closed) return;
    if (this.#out.length === 0) queueMicrotask(() => this.#flush());
    this.#out.push(frame);
  }

  #flush(): void {
    const frames = this.#out;
    this.#out = [];
    let start = 0;
    let bytes = 0;
    frames.forEach((frame, index) => {
      bytes += frame.type === "item" ? itemFrameBytes(frame) : 0;
      if (bytes < MESSAGE_BYTES_SOFT_MAX && index < frames.length - 1) return;
      this.#sendMessage(frames.slice(start, index + 1));
      start = index + 1;
      bytes = 0;
    });
    this.#regulate();
  }

  #sendMessage(frames: readonly ServerFrame[]): void {
    if (this.#socket.readyState !== this.#socket.OPEN) return;
    this.#socket.send(encodeServerFrames(frames), (error) => {
      if (error) return;
      this.#alive = true;
      this.#reportDelivered(frames);
      this.#regulate();
    });
  }

  #reportDelivered(frames: readonly ServerFrame[]): void {
    const items: StreamItemId[] = frames.filter(isItem).map(({ senderId, itemId }) => ({ senderId, itemId }));
    if (items.length > 0) this.#deps.reporter.delivered(this.agentId, items);
  }

  /** Reads from the socket unless there is too much to do, or the client does not read what it is sent. */
  #regulate(): void {
    if (this.#socket.readyState !== this.#socket.OPEN) return;
    const behind = this.#isBehindWithCalls() || this.#socket.bufferedAmount > BUFFERED_BYTES_MAX;
    if (behind && !this.#socket.isPaused) this.#socket.pause();
    else if (!behind && this.#socket.isPaused) this.#socket.resume();
  }

  #isBehindWithCalls(): boolean {
    return this.#calls >= CALLS_MAX || this.#callBytes >= CALL_BYTES_MAX;
  }

  #onClose(): void {
    this.deliver({ type: "closed" });
    this.#out = [];
    this.#deps.onClosed(this);
  }
}

function acknowledgedAnswer({ senderId, itemId }: StreamItemId): Answer {
  return { senderId, messageId: itemId, outcome: "acknowledged" };
}

function isItem(frame: ServerFrame): frame is ItemFrame {
  return frame.type === "item";
}

/** A stream lives longer than the check of its signature. */
function endsStream(code: ProblemCode): boolean {
  return code === "agent-suspended" || code === "agent-unknown";
}
