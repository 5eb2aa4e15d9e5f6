/**
 * `GET /messaging/stream`: from a signed HTTP request to an open stream.
 *
 * Promise: only a request that `authenticate` takes is upgraded; every other is answered with the problem, as over HTTP, and nothing is
 * kept of it. Upgrades of other paths are refused here: there are none.
 */
import type { IncomingMessage, Server } from "node:http";
import type { Duplex } from "node:stream";
import { WebSocketServer } from "ws";
import { Unavailable } from "../../protocol/refusal.ts";
import { STREAM_MESSAGE_BYTES_MAX } from "../../protocol/stream-frames.ts";
import { type AuthDeps, authenticate } from "../auth.ts";
import { ApiRefusal, type Problem, problemOf, RETRY_AFTER_SECONDS } from "../problem.ts";
import { requestFacts } from "../request-facts.ts";
import type { Gateway } from "./gateway.ts";

export interface UpgradeDeps extends AuthDeps {
  /** As for HTTP requests (`requestFacts`). */
  readonly publicAuthority: string | undefined;
  readonly onBug: (error: unknown) => void;
}

const STREAM_PATH = "/messaging/stream";

/** Lets the server's upgrade requests become streams of the gateway. */
export function serveStreams(server: Server, gateway: Gateway, deps: UpgradeDeps): void {
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: STREAM_MESSAGE_BYTES_MAX,
    // Ciphertext does not get smaller.
    perMessageDeflate: false,
    clientTracking: false,
  });
  server.on("upgrade", (request, socket: Duplex, head) => {
    // Until the WebSocket is there nobody else listens, and an error without a listener ends the process.
    socket.on("error", () => socket.destroy());
    admit(request, gateway, deps).then(
      (agentId) => sockets.handleUpgrade(request, socket, head, (stream) => gateway.accept(stream, agentId)),
      (error: unknown) => {
        const problem = problemOf(error, deps.now());
        if (problem.code === "internal") deps.onBug(error);
        refuse(socket, problem);
      },
    );
  });
}

async function admit(request: IncomingMessage, gateway: Gateway, deps: UpgradeDeps): Promise<string> {
  if (request.url?.split("?", 1)[0] !== STREAM_PATH) throw new ApiRefusal("not-found");
  // Before the signature's nonce is used up: the client may try the same elsewhere.
  if (!gateway.takes()) throw new Unavailable("service");
  const { agentId } = await authenticate(deps, requestFacts(request, deps.publicAuthority, null));
  return agentId;
}

function refuse(socket: Duplex, problem: Problem): void {
  const body = JSON.stringify(problem);
  const lines = [
    `HTTP/1.1 ${problem.status} Refused`,
    "Content-Type: application/problem+json",
    `Content-Length: ${Buffer.byteLength(body)}`,
    "Connection: close",
    ...(problem.status === 503 ? [`Retry-After: ${RETRY_AFTER_SECONDS}`] : []),
  ];
  socket.end(`${lines.join("\r\n")}\r\n\r\n${body}`);
}
