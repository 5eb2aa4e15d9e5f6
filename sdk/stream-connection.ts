/**
 * One WebSocket connection of the message stream (docs/stream.md), from its signed upgrade to its close.
 *
 * It is given up when the other side has been silent for half a minute, pings included.
 */
import type { IncomingMessage } from "node:http";
import { WebSocket } from "ws";
import { Refusal } from "../protocol/refusal.ts";
import {
  type ClientFrame,
  decodeServerFrames,
  encodeClientFrames,
  type ServerFrame,
  STREAM_MESSAGE_BYTES_MAX,
} from "../protocol/stream-frames.ts";
import { ServiceUnavailable } from "./errors.ts";
import { readProblem, refusedBy } from "./problem.ts";
import type { StreamConnection, StreamHandlers } from "./service.ts";

const HANDSHAKE_MS_MAX = 10_000;
/** A server that does not answer a goodbye is left without one. */
const GOODBYE_MS_MAX = 2_000;
const PING_INTERVAL_MS = 15_000;

/** Answers to an upgrade are problem documents; what is longer is none. */
const REFUSAL_BYTES_MAX = 65_536;

/** RFC 6455: the policy of this side, for a message it does not understand. */
const CLOSE_PROTOCOL_ERROR = 1002;

class WebSocketConnection implements StreamConnection {
  readonly #socket: WebSocket;
  #isAlive = true;

  constructor(socket: WebSocket, handlers: StreamHandlers) {
    this.#socket = socket;
    socket.on("message", (data: Buffer, isBinary: boolean) => this.#receive(data, isBinary, handlers));
    socket.on("pong", () => {
      this.#isAlive = true;
    });
    const heart = setInterval(() => this.#beat(), PING_INTERVAL_MS);
    socket.on("close", (code: number) => {
      clearInterval(heart);
      handlers.onClose(code);
    });
  }

  send(frames: readonly ClientFrame[]): void {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(encodeClientFrames(frames), ignoreError);
  }

  close(): void {
    this.#socket.close(1000);
    setTimeout(() => this.#socket.terminate(), GOODBYE_MS_MAX).unref();
  }

  terminate(): void {
    this.#socket.terminate();
  }

  #receive(data: Buffer, isBinary: boolean, handlers: StreamHandlers): void {
    this.#isAlive = true;
    let frames: ServerFrame[];
    try {
      if (!isBinary) throw new Refusal("malformed");
      frames = decodeServerFrames(data);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.#socket.close(CLOSE_PROTOCOL_ERROR);
      return;
    }
    handlers.onFrames(frames);
  }

  #beat(): void {
    if (!this.#isAlive) {
      this.terminate();
      return;
    }
    this.#isAlive = false;
    this.#socket.ping(ignoreError);
  }
}

/** Resolves when it is open. Throws what `Service` throws for the same answers, and the signal's reason. */
export function openStream(
  { url, headers }: { readonly url: URL; readonly headers: Record<string, string> },
  handlers: StreamHandlers,
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const socket = new WebSocket(url, {
      headers,
      handshakeTimeout: HANDSHAKE_MS_MAX,
      maxPayload: STREAM_MESSAGE_BYTES_MAX,
      perMessageDeflate: false,
    });
    const abort = () => socket.terminate();
    signal.addEventListener("abort", abort, { once: true });
    const settled = () => signal.removeEventListener("abort", abort);
    socket.on("error", (error) => {
      settled();
      reject(signal.aborted ? signal.reason : new ServiceUnavailable({ cause: error }));
    });
    socket.on("unexpected-response", (request, response) => {
      settled();
      void readRefusal(response).then((error) => {
        request.destroy();
        reject(error);
      });
    });
    // Frames may follow the upgrade's answer in the same packet: the handlers are there before the event returns.
    socket.once("open", () => {
      settled();
      handlers.onOpen(new WebSocketConnection(socket, handlers));
      resolve();
    });
  });
}

async function readRefusal(response: IncomingMessage): Promise<Error> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > REFUSAL_BYTES_MAX) break;
      chunks.push(chunk);
    }
  } catch (error) {
    return new ServiceUnavailable({ cause: error });
  }
  const status = response.statusCode ?? 500;
  const { date = null, "retry-after": retryAfter = null } = response.headers;
  return refusedBy(readProblem(parse(Buffer.concat(chunks).toString("utf8")), status), { status, date, retryAfter });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** A connection that fails while something is written reports it as its close. */
function ignoreError(): void {}
