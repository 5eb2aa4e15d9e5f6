/**
 * The listener: sockets, their limits and their end.
 */

import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { sayAndClose } from "./farewell.ts";

export interface HttpServer {
  /** Where it listens, such as `http://127.0.0.1:8080`. */
  readonly url: string;
  /** For the gateway, which takes its upgrades. */
  readonly server: Server;
  /** Takes no new connections, lets running requests end, and cuts what is left after `closeMax`. */
  close(): Promise<void>;
}

/** A chain of delegation has up to 8,192 bytes (protocol/delegation.ts), signature headers some 400, an owner's token a few KiB; the rest is for what proxies add. */
const HEADER_BYTES_MAX = 16 * 1024;

/** Ours are a dozen, with what proxies add. */
const HEADERS_MAX = 100;

/** More than the streams that a gateway takes; each costs some 20 KB before it has said anything. */
const CONNECTIONS_MAX = 25_000;

/** In milliseconds; tests are in more of a hurry. */
export interface HttpTimes {
  /** Slower headers than this are an attack (slow loris), not a network. */
  readonly headersMax: number;
  /** For a whole request of up to 8 MiB: 280 KB/s. */
  readonly requestMax: number;
  /** Longer than load balancers keep idle connections (60 s by default), so that it is they who close. */
  readonly keepAlive: number;
  /** A client that neither sends nor reads: longer than the longest poll waits. */
  readonly silentMax: number;
  /** How long a close waits for running requests: a third of what orchestrators grant by default, the rest is for what else must end. */
  readonly closeMax: number;
}

const TIMES: HttpTimes = {
  headersMax: 10_000,
  requestMax: 30_000,
  keepAlive: 65_000,
  silentMax: 70_000,
  closeMax: 10_000,
};

const IDLE_CHECK_MS = 20;

/** How often slow requests are looked for. */
const CHECKS_PER_TIMEOUT = 5;

/** @throws what `listen` fails with: the port is taken, or not allowed. */
export async function startHttp(
  listener: RequestListener,
  { port, host }: { readonly port: number; readonly host: string },
  times: Partial<HttpTimes> = {},
): Promise<HttpServer> {
  const { headersMax, requestMax, keepAlive, silentMax, closeMax } = { ...TIMES, ...times };
  const server = createServer(
    {
      maxHeaderSize: HEADER_BYTES_MAX,
      headersTimeout: headersMax,
      requestTimeout: requestMax,
      keepAliveTimeout: keepAlive,
      connectionsCheckingInterval: headersMax / CHECKS_PER_TIMEOUT,
      // An offer of anything else, such as h2c, is one that may be ignored (RFC 9110 §7.8), and its request one like others.
      shouldUpgradeCallback: ({ headers }) => headers.upgrade?.toLowerCase() === "websocket",
    },
    listener,
  );
  // Who asks for leave to send a body gets it when its signature has held (body.ts), and not from Node at once.
  server.on("checkContinue", listener);
  server.maxHeadersCount = HEADERS_MAX;
  server.maxConnections = CONNECTIONS_MAX;
  server.setTimeout(silentMax);
  const sockets = new Set<Socket>();
  server.on("connection", (socket) => {
    sockets.add(socket);
    // Each request under way listens for its end, and there may be many behind each other.
    socket.setMaxListeners(0);
    socket.once("close", () => sockets.delete(socket));
  });
  server.on("clientError", (error: NodeJS.ErrnoException, socket) => refuseUnreadable(error, socket as Socket));
  server.listen(port, host);
  await once(server, "listening");
  const { port: actualPort } = server.address() as AddressInfo;
  return {
    url: `http://${host.includes(":") ? `[${host}]` : host}:${actualPort}`,
    server,
    close: () => closeServer(server, sockets, closeMax),
  };
}

async function closeServer(server: Server, sockets: ReadonlySet<Socket>, closeMax: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  server.close(() => resolve());
  // A connection whose request ends after the close began would be kept alive.
  const idle = setInterval(() => server.closeIdleConnections(), IDLE_CHECK_MS);
  // Upgraded ones are no longer the server's, but it waits for them all the same.
  const cut = setTimeout(() => {
    for (const socket of sockets) socket.destroy();
  }, closeMax);
  await promise;
  clearInterval(idle);
  clearTimeout(cut);
}

const statusLines: Readonly<Record<string, string>> = {
  HPE_HEADER_OVERFLOW: "431 Request Header Fields Too Large",
  ERR_HTTP_REQUEST_TIMEOUT: "408 Request Timeout",
};

/** What is no HTTP never reaches the app: the one place where an answer is written by hand. */
function refuseUnreadable(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === "ECONNRESET" || !socket.writable) {
    socket.destroy();
    return;
  }
  const statusLine = statusLines[error.code ?? ""] ?? "400 Bad Request";
  const status = Number(statusLine.slice(0, 3));
  const title = "The request is not well-formed HTTP, too slow, or its headers are too large.";
  const problem = {
    type: "https://sealpost.dev/problems/malformed",
    title,
    status,
    code: "malformed",
    detail: title,
    retryable: false,
  };
  const text = JSON.stringify(problem);
  sayAndClose(
    socket,
    `HTTP/1.1 ${statusLine}\r\nContent-Type: application/problem+json\r\nConnection: close\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
  );
}
