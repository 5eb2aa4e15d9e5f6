/**
 * The HTTP door: for every route signature, form, operation, answer; for everything else a problem.
 *
 * Promise: a handler runs only for a request that was signed as its route demands and has the form of its schemas. Whatever goes
 * wrong is answered as `application/problem+json`; nothing from inside an error is.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import express, { type Express, type Request as ExpressRequest, type NextFunction, type Response } from "express";
import { ApiRefusal, type Problem, problemOf, retryAfterSecondsOf } from "../problem.ts";
import { MetLimits } from "../rate-limits.ts";
import { admit, type CallCounts } from "./admission.ts";
import { expectsLeave } from "./body.ts";
import { servedRoutes } from "./openapi.ts";
import type { HttpDeps, Reply, Route } from "./route.ts";
import { validated } from "./validation.ts";

/** What a signature must look like (RFC 9421 §5.1), for clients that ask without one. */
const ACCEPT_SIGNATURE =
  'sig=("@method" "@authority" "@path" "@query" "content-digest");created;expires;nonce;keyid;alg="ed25519"';

/** Answers hold messages and keys: no cache on the way may keep them. */
const COMMON_HEADERS = { "cache-control": "no-store", "x-content-type-options": "nosniff" };

/** `routes`: for agents and probes, unless others are given. */
export function createHttpApp(deps: HttpDeps, routes: readonly Route[] = servedRoutes): Express {
  const app = express();
  app.disable("x-powered-by").disable("etag").set("query parser", false);
  app.enable("strict routing").enable("case sensitive routing");
  for (const [path, byMethod] of byPath(routes)) {
    app.all(path.replaceAll(/\{(\w+)\}/g, ":$1"), async (request: ExpressRequest, response: Response) => {
      const route = routeFor(deps, byMethod, request, response);
      write(response, request.method, await answer(deps, route, request, response), deps);
    });
  }
  app.use(() => {
    throw new ApiRefusal("not-found", { field: "@path" });
  });
  // Express knows an error handler by its four parameters.
  app.use((error: unknown, request: ExpressRequest, response: Response, _next: NextFunction) => {
    refuse(deps, error, request, response);
  });
  return app;
}

/** Paths without parameters come first: `/messaging/messages/status` is no message. */
function byPath(served: readonly Route[]): Map<string, Map<string, Route>> {
  const paths = new Map<string, Map<string, Route>>();
  for (const route of served.toSorted((a, b) => Number(a.path.includes("{")) - Number(b.path.includes("{")))) {
    const methods = paths.get(route.path) ?? new Map<string, Route>();
    paths.set(route.path, methods.set(route.method, route));
  }
  return paths;
}

function routeFor(
  deps: HttpDeps,
  byMethod: ReadonlyMap<string, Route>,
  request: ExpressRequest,
  response: Response,
): Route {
  const isForOperators = [...byMethod.values()].every(({ signedBy }) => signedBy === "operator");
  if (isForOperators && deps.opsToken === undefined) throw new ApiRefusal("not-found", { field: "@path" });
  const route = byMethod.get(request.method);
  if (route !== undefined) return route;
  const get = byMethod.get("GET");
  // HEAD asks what GET would say. Where GET is signed or takes something, it is not the same question.
  if (request.method === "HEAD" && get?.signedBy === "nobody") return get;
  response.setHeader("allow", [...byMethod.keys()].join(", "));
  throw new ApiRefusal("method-not-allowed", { field: "@method" });
}

async function answer(deps: HttpDeps, route: Route, request: ExpressRequest, response: Response): Promise<Reply> {
  // Before anything is looked at: what is refused shall cost nothing.
  const underWay = route.sends ? deps.sends.begin() : null;
  const met = new MetLimits(deps);
  try {
    return await handled(deps, route, request, response, { met, underWay });
  } finally {
    underWay?.end();
    met.writeOn(response);
  }
}

async function handled(
  deps: HttpDeps,
  route: Route,
  request: ExpressRequest,
  response: Response,
  counts: CallCounts,
): Promise<Reply> {
  const { caller, owner, body, target } = await admit(deps, route, request, response, counts);
  return route.handle(deps, {
    caller,
    owner,
    path: route.request.path === undefined ? {} : validated(route.request.path, request.params),
    query: queryOf(route, target),
    body: body(),
    headers: request.headers,
    signal: goneSignal(response),
  });
}

function queryOf(route: Route, target: string): Record<string, unknown> {
  const mark = target.indexOf("?");
  const parameters = new URLSearchParams(mark === -1 ? "" : target.slice(mark + 1));
  const query: Record<string, string> = Object.create(null);
  for (const [name, value] of parameters) {
    if (name in query)
      throw new ApiRefusal("malformed", { field: name, detail: "the query parameter stands there twice" });
    query[name] = value;
  }
  if (route.request.query !== undefined) return validated(route.request.query, { ...query });
  const [unknown] = Object.keys(query);
  if (route.signedBy !== "nobody" && unknown !== undefined) {
    throw new ApiRefusal("malformed", {
      field: "@query",
      detail: "this call takes no query",
      fix: "Leave the query out.",
    });
  }
  return {};
}

function goneSignal(response: ServerResponse): AbortSignal {
  const gone = new AbortController();
  response.once("close", () => gone.abort());
  return gone.signal;
}

function write(response: Response, method: string, reply: Reply, deps: HttpDeps): void {
  // A client that has gone is written nothing, and nothing is reported as written.
  if (response.destroyed) return;
  const { open, written } = reply;
  if (open !== undefined) {
    response.writeHead(reply.status, { ...COMMON_HEADERS, ...reply.headers });
    response.flushHeaders();
    open(response);
    return;
  }
  const text = reply.text ?? JSON.stringify(reply.json);
  if (written !== undefined) {
    response.once("finish", () => {
      written().catch((error: unknown) => deps.onBug(error));
    });
  }
  response.writeHead(reply.status, {
    ...COMMON_HEADERS,
    "content-type": "application/json",
    ...reply.headers,
    "content-length": Buffer.byteLength(text),
  });
  response.end(method === "HEAD" ? undefined : text);
}

function refuse(deps: HttpDeps, thrown: unknown, request: IncomingMessage, response: Response): void {
  // Nobody is there to be told; that a client goes away in the middle of its body is no failure of ours.
  if (response.destroyed) return;
  const error = isUndecodablePath(thrown) ? new ApiRefusal("malformed", { field: "@path" }) : thrown;
  const problem = problemOf(error, deps.now());
  if (problem.code === "internal") deps.onBug(error);
  deps.counted(counterFor(problem), 1);
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const text = JSON.stringify(problem);
  const retryAfterSeconds = retryAfterSecondsOf(problem);
  response.writeHead(problem.status, {
    ...COMMON_HEADERS,
    "content-type": "application/problem+json",
    ...(problem.status === 401 ? challengeFor(problem) : {}),
    ...(retryAfterSeconds === null ? {} : { "retry-after": String(retryAfterSeconds) }),
    ...(problem.status === 426 ? { upgrade: "websocket", connection: "upgrade" } : {}),
    ...(problem.status === 413 || isEndless(request) ? { connection: "close" } : {}),
    "content-length": Buffer.byteLength(text),
  });
  response.end(request.method === "HEAD" ? undefined : text);
}

/** What is left of its body is not worth reading: nobody knows how much it is, or whether it is sent at all (after `Expect: 100-continue`). */
function isEndless(request: IncomingMessage): boolean {
  return !request.complete && (request.headers["transfer-encoding"] !== undefined || expectsLeave(request));
}

function challengeFor({ code }: Problem): Record<string, string> {
  if (code === "operator-unknown" || code === "owner-unknown") return { "www-authenticate": "Bearer" };
  return { "www-authenticate": "Signature", "accept-signature": ACCEPT_SIGNATURE };
}

/** The router's own error for `%` without two digits. */
function isUndecodablePath(error: unknown): boolean {
  return error instanceof URIError;
}

function counterFor(problem: Problem) {
  if (problem.status === 503) return "requests_unavailable";
  return problem.code === "internal" ? "requests_failed" : "requests_refused";
}
