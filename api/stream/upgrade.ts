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
import { type AuthDeps, acceptRequest, type Caller, countCall, verifySigner } from "../auth.ts";
import { atTheFrontDoor, type FrontDoorDeps } from "../front-door.ts";
import { sayAndClose } from "../http/farewell.ts";
import { ApiRefusal, type Problem, problemOf, retryAfterSecondsOf } from "../problem.ts";
import { requestFacts } from "../request-facts.ts";
import type { Gateway } from "./gateway.ts";
import { type WebSocketDeps, WebSocketTransport } from "./web-socket.ts";

export interface UpgradeDeps extends AuthDeps, FrontDoorDeps, WebSocketDeps {
  /** As for HTTP requests (`requestFacts`). */
  readonly publicAuthority: string | undefined;
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
      (caller) =>
        sockets.handleUpgrade(request, socket, head, (stream) =>
          gateway.accept(caller, (connection) => new WebSocketTransport(stream, connection, caller, deps)),
        ),
      (error: unknown) => {
        const problem = problemOf(error, deps.now());
        if (problem.code === "internal") deps.onBug(error);
        refuse(socket, problem);
      },
    );
  });
}

async function admit(request: IncomingMessage, gateway: Gateway, deps: UpgradeDeps): Promise<Caller> {
  if (request.url?.split("?", 1)[0] !== STREAM_PATH) throw new ApiRefusal("not-found");
  // Before the signature's nonce is used up: the client may try the same elsewhere.
  if (!gateway.takes()) throw new Unavailable("service");
  const facts = requestFacts(request, deps.publicAuthority);
  const { caller } = await atTheFrontDoor(deps, request, "agent", async () => {
    const signer = await verifySigner(deps, facts);
    await countCall(deps, signer);
    return { caller: await acceptRequest(deps, facts, signer, null) };
  });
  return caller;
}

function refuse(socket: Duplex, problem: Problem): void {
  const body = JSON.stringify(problem);
  const retryAfter = retryAfterSecondsOf(problem);
  const lines = [
    `HTTP/1.1 ${problem.status} Refused`,
    "Content-Type: application/problem+json",
    `Content-Length: ${Buffer.byteLength(body)}`,
    "Connection: close",
    ...(retryAfter === null ? [] : [`Retry-After: ${retryAfter}`]),
  ];
  sayAndClose(socket, `${lines.join("\r\n")}\r\n\r\n${body}`);
}
