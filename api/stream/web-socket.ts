/**
 * The WebSocket door: binary frames in and out (docs/stream.md).
 *
 * Promise: memory is bounded by not reading from a client that has too many calls open or does not read its own frames.
 */
import type { WebSocket } from "ws";
import { Refusal } from "../../protocol/refusal.ts";
import {
  CLOSE_MALFORMED,
  CLOSE_NOT_ALLOWED,
  type ClientFrame,
  decodeClientFrames,
  encodeServerFrames,
  type SendFrame,
  type ServerFrame,
} from "../../protocol/stream-frames.ts";
import type { Caller } from "../auth.ts";
import { type ProblemCode, problemOf } from "../problem.ts";
import { Calls, type CallsDeps } from "./calls.ts";
import type { Connection } from "./connection.ts";
import type { Transport } from "./transport.ts";

/** RFC 6455 §7.4.1: an unexpected condition. */
const CLOSE_FAILED = 1011;

/** Goodbyes of a client that ends in good order, or goes elsewhere; 1005 stands for one without a code (RFC 6455 §7.1.5), a plain `close()`. */
const GOODBYES: ReadonlySet<number> = new Set([1000, 1001, 1005]);

/** Written but not taken by the network: more than items alone come to (connection.ts), so that it takes answers to batches to get here. */
const BUFFERED_BYTES_MAX = 4 * 1024 * 1024;

export interface WebSocketDeps extends CallsDeps {
  readonly onBug: (error: unknown) => void;
}

export class WebSocketTransport implements Transport {
  readonly #socket: WebSocket;
  readonly #connection: Connection;
  readonly #deps: WebSocketDeps;
  readonly #calls: Calls;
  /** A sign of life since the last ping. */
  #alive = true;

  constructor(socket: WebSocket, connection: Connection, caller: Caller, deps: WebSocketDeps) {
    this.#socket = socket;
    this.#connection = connection;
    this.#deps = deps;
    this.#calls = new Calls(deps, caller);
    socket.on("message", (data, isBinary) => this.#onMessage(data as Buffer, isBinary));
    socket.on("pong", () => {
      this.#alive = true;
    });
    // The close that follows says it all.
    socket.on("error", () => undefined);
    socket.on("close", (code: number) => connection.onClosed(GOODBYES.has(code) ? "in order" : "broken"));
  }

  write(frames: readonly ServerFrame[], taken: () => void): void {
    if (this.#socket.readyState !== this.#socket.OPEN) return;
    this.#socket.send(encodeServerFrames(frames), (error) => {
      if (error) return;
      this.#alive = true;
      taken();
      this.#regulate();
    });
    this.#regulate();
  }

  bufferedBytes(): number {
    return this.#socket.bufferedAmount;
  }

  close(code: number, reason: string): void {
    // A paused socket would not hear the client's close.
    if (this.#socket.isPaused) this.#socket.resume();
    this.#socket.close(code, reason);
  }

  terminate(): void {
    this.#socket.terminate();
  }

  beat(): void {
    // Nothing can be heard of a client that we do not read from because we are slow ourselves.
    if (!this.#alive && !this.#calls.areTooMany()) {
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
      this.#connection.close(CLOSE_FAILED, "internal");
    }
  }

  #framesOf(data: Buffer, isBinary: boolean): ClientFrame[] {
    // What still arrives after the close was decided is not looked at.
    if (this.#connection.isClosed()) return [];
    try {
      if (!isBinary) throw new Refusal("malformed", { fix: "Send frames in binary messages." });
      return decodeClientFrames(data);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.#connection.endWith(error, CLOSE_MALFORMED, "malformed frame");
      return [];
    }
  }

  #onFrame(frame: ClientFrame): void {
    switch (frame.type) {
      case "send":
        this.#onSend(frame);
        break;
      case "ack":
        this.#connection.acknowledge(frame.items);
        break;
      case "ack-up-to":
        this.#connection.deliver({ type: "answered-up-to", seq: frame.seq });
        break;
      case "refuse":
        this.#connection.refuse(frame, frame.code);
    }
  }

  #onSend({ batch, envelopes }: SendFrame): void {
    void this.#calls
      .send(envelopes)
      .then(
        () => this.#connection.write({ type: "accepted", batch }),
        (error: unknown) => this.#reject(batch, error),
      )
      .finally(() => this.#regulate());
    this.#regulate();
  }

  #reject(batch: number, error: unknown): void {
    const problem = problemOf(error, this.#deps.now());
    if (problem.code === "internal") this.#deps.onBug(error);
    this.#connection.write({ type: "rejected", batch, problem: { ...problem } });
    if (endsStream(problem.code)) this.#connection.close(CLOSE_NOT_ALLOWED, "not allowed any more");
  }

  /** Reads from the socket unless there is too much to do, or the client does not read what it is sent. */
  #regulate(): void {
    if (this.#socket.readyState !== this.#socket.OPEN) return;
    const behind = this.#calls.areTooMany() || this.#socket.bufferedAmount > BUFFERED_BYTES_MAX;
    if (behind && !this.#socket.isPaused) this.#socket.pause();
    else if (!behind && this.#socket.isPaused) this.#socket.resume();
  }
}

/** A stream lives longer than the checks of its upgrade. */
function endsStream(code: ProblemCode): boolean {
  return code === "agent-suspended" || code === "agent-unknown" || code === "delegation-refused";
}
