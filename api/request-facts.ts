/** What a node:http request looked like when it arrived: the same for requests and for WebSocket upgrades. */
import type { IncomingMessage } from "node:http";
import type { SignedRequest } from "./http-signature.ts";
import { ApiRefusal } from "./problem.ts";

/** `host[:port]`, nothing that could begin a path, a query or a user. */
const AUTHORITY = /^[A-Za-z0-9._~[\]:-]+$/;

/**
 * The request as its signature sees it.
 *
 * `publicAuthority` (such as `api.example.com`, with the port unless it is the default one) is where clients believe the service
 * to be; without it the Host header is believed, which is right only where no proxy rewrites it, and lets a request signed for
 * another service in by whoever relays it under that name.
 *
 * @throws ApiRefusal `malformed` when the target is not a path, or there is no usable Host.
 */
export function requestFacts(
  request: Pick<IncomingMessage, "method" | "url" | "headers" | "rawHeaders">,
  publicAuthority: string | undefined,
): SignedRequest {
  const target = request.url ?? "";
  if (!target.startsWith("/")) {
    throw new ApiRefusal("malformed", { field: "@path", detail: "the request target is not a path" });
  }
  const authority = publicAuthority ?? request.headers.host ?? "";
  // The scheme is not covered by signatures: it only decides which port is left out of `@authority`.
  const origin = `http://${authority}`;
  if (!AUTHORITY.test(authority) || !URL.canParse(origin)) {
    throw new ApiRefusal("malformed", { field: "Host", detail: "the Host header is not a host" });
  }
  return {
    method: request.method ?? "",
    target,
    origin,
    headers: pairs(request.rawHeaders),
    hasBody: announcesBody(request),
  };
}

/** Does it say that it has a body? */
export function announcesBody({ headers }: Pick<IncomingMessage, "headers">): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? "0") > 0;
}

function pairs(rawHeaders: readonly string[]): [string, string][] {
  const headers: [string, string][] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    headers.push([rawHeaders[i] as string, rawHeaders[i + 1] as string]);
  }
  return headers;
}
