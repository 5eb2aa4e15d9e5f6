/**
 * The listener: sockets, their limits and their end.
 */

import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo, Socket } from "node:net";

export interface HttpServer {
  /** Where it listens, such as `http://127.0.0.1:8080`. */
  readonly url: string;
  /** For the gateway, which takes its upgrades. */
  readonly server: Server;
  /** Takes no new connections, lets running requests end, and cuts what is left after `CLOSE_MS_MAX`. */
  close(): Promise<void>;
}

/** Signature headers have some 400 bytes; half of Node's default leaves room for what proxies add. */
const HEADER_BYTES_MAX = 8 * 1024;

/** Slower headers than this are an attack (slow loris), not a network. */
const HEADERS_MS_MAX = 10_000;

/** For a whole request of up to 8 MiB: 280 KB/s. */
const REQUEST_MS_MAX = 30_000;

/** Longer than load balancers keep idle connections (60 s by default), so that it is they who close. */
const KEEP_ALIVE_MS = 65_000;

/** A client that neither sends nor reads: longer than the longest poll waits. */
const SILENT_MS_MAX = 70_000;

/** As long as a poll may wait, less than orchestrators grant by default (30 s) with what else must end. */
const CLOSE_MS_MAX = 10_000;

/** @throws what `listen` fails with: the port is taken, or not allowed. */
export async function startHttp(
  listener: RequestListener,
  { port, host }: { readonly port: number; readonly host: string },
): Promise<HttpServer> {
  const server = createServer(
    {
      maxHeaderSize: HEADER_BYTES_MAX,
      headersTimeout: HEADERS_MS_MAX,
      requestTimeout: REQUEST_MS_MAX,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connectionsCheckingInterval: 2_000,
    },
    listener,
  );
  server.setTimeout(SILENT_MS_MAX);
  server.on("clientError", (error: NodeJS.ErrnoException, socket) => refuseUnreadable(error, socket as Socket));
  server.listen(port, host);
  await once(server, "listening");
  const { port: actualPort } = server.address() as AddressInfo;
  return {
    url: `http://${host.includes(":") ? `[${host}]` : host}:${actualPort}`,
    server,
    close: () => closeServer(server),
  };
}

async function closeServer(server: Server): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  server.close(() => resolve());
  server.closeIdleConnections();
  const cut = setTimeout(() => server.closeAllConnections(), CLOSE_MS_MAX);
  await promise;
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
  socket.end(
    `HTTP/1.1 ${statusLine}\r\nContent-Type: application/problem+json\r\nConnection: close\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
  );
}
