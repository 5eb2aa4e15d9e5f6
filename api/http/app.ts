/**
 * The HTTP door: for every route signature, form, operation, answer; for everything else a problem.
 *
 * Promise: a handler runs only for a request that was signed as its route demands and has the form of its schemas. Whatever goes
 * wrong is answered as `application/problem+json`; nothing from inside an error is.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import express, { type Express, type Request as ExpressRequest, type NextFunction, type Response } from "express";
import { decodeBase64Url } from "../../protocol/base64url.ts";
import { Unavailable } from "../../protocol/refusal.ts";
import {
  type Authenticated,
  authenticate,
  authenticateRegistration,
  requireSigned,
  type SignedRequest,
} from "../auth.ts";
import { requireOperator } from "../operators.ts";
import { ApiRefusal, type Problem, problemOf, retryAfterSecondsOf } from "../problem.ts";
import { requestFacts } from "../request-facts.ts";
import { announcesBody, readBody, requirePlainJson, UNPROVEN_BODY_BYTES_MAX } from "./body.ts";
import { servedRoutes } from "./openapi.ts";
import type { HttpDeps, Reply, Route } from "./route.ts";
import { parseJson, validated } from "./validation.ts";

/** What a signature must look like (RFC 9421 §5.1), for clients that ask without one. */
const ACCEPT_SIGNATURE =
  'sig=("@method" "@authority" "@path" "@query" "content-digest");created;expires;nonce;keyid;alg="ed25519"';

/** Answers hold messages and keys: no cache on the way may keep them. */
const COMMON_HEADERS = { "cache-control": "no-store", "x-content-type-options": "nosniff" };

export function createHttpApp(deps: HttpDeps): Express {
  const app = express();
  app.disable("x-powered-by").disable("etag").set("query parser", false);
  app.enable("strict routing").enable("case sensitive routing");
  for (const [path, byMethod] of byPath(servedRoutes)) {
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
  if (route.signedBy === "operator") requireOperator(deps.opsToken, request.headers.authorization);
  else if (route.signedBy !== "nobody") requireSigned(requestFacts(request, deps.publicAuthority, null));
  if (route.needsRedis && !deps.redisReady()) throw new Unavailable("redis");
  const bytes = await bodyFor(route, request);
  const facts = requestFacts(request, deps.publicAuthority, bytes);
  const { caller, body } = await authenticated(deps, route, facts);
  return route.handle(deps, {
    caller,
    path: route.request.path === undefined ? {} : validated(route.request.path, request.params),
    query: queryOf(route, facts.target),
    body: body(),
    headers: request.headers,
    signal: goneSignal(response),
  });
}

async function bodyFor(route: Route, request: IncomingMessage): Promise<Uint8Array | null> {
  if (route.request.body !== undefined) {
    requirePlainJson(request);
    const isKnown = route.signedBy === "agent" || route.signedBy === "operator";
    return isKnown ? readBody(request) : readBody(request, UNPROVEN_BODY_BYTES_MAX);
  }
  if (announcesBody(request)) {
    throw new ApiRefusal("malformed", { field: "", detail: "this call takes no body", fix: "Leave the body out." });
  }
  return null;
}

/** The body is looked into only after its signature was checked, except for the key that must have made it. */
async function authenticated(
  deps: HttpDeps,
  route: Route,
  facts: SignedRequest,
): Promise<{ caller: Authenticated; body: () => Record<string, unknown> }> {
  const schema = route.request.body;
  const body = () => {
    if (schema === undefined) return {};
    const json = parseJson(facts.body);
    return validated(schema, json, route.request.messageIdAt?.(json));
  };
  switch (route.signedBy) {
    case "nobody":
    case "operator":
      return { caller: nobody, body };
    case "agent":
      return { caller: await authenticate(deps, facts), body };
    case "key-in-body": {
      const checked = body();
      const member = checked["custody"] === "server" ? "access_key" : "identity_key";
      const key = decodeBase64Url(String(checked[member]));
      if (key === null) throw new Error("the schema let a key through that is not base64url");
      return { caller: await authenticateRegistration(deps, facts, key, member), body: () => checked };
    }
  }
}

const nobody: Authenticated = { agentId: "", identityKey: new Uint8Array(), custody: "agent", nonce: "" };

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
  const text = reply.text ?? JSON.stringify(reply.json);
  const { written } = reply;
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
  deps.counted(counterFor(problem, error), 1);
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const text = JSON.stringify(problem);
  const retryAfterSeconds = retryAfterSecondsOf(error, problem);
  response.writeHead(problem.status, {
    ...COMMON_HEADERS,
    "content-type": "application/problem+json",
    ...(problem.status === 401 ? challengeFor(problem) : {}),
    ...(retryAfterSeconds === null ? {} : { "retry-after": String(retryAfterSeconds) }),
    ...(problem.status === 426 ? { upgrade: "websocket", connection: "upgrade" } : {}),
    // What is left of a body that is too large is not worth reading.
    ...(problem.status === 413 ? { connection: "close" } : {}),
    "content-length": Buffer.byteLength(text),
  });
  response.end(request.method === "HEAD" ? undefined : text);
}

function challengeFor({ code }: Problem): Record<string, string> {
  if (code === "operator-unknown") return { "www-authenticate": "Bearer" };
  return { "www-authenticate": "Signature", "accept-signature": ACCEPT_SIGNATURE };
}

/** The router's own error for `%` without two digits. */
function isUndecodablePath(error: unknown): boolean {
  return error instanceof URIError;
}

function counterFor(problem: Problem, error: unknown) {
  if (error instanceof Unavailable) return "requests_unavailable";
  return problem.code === "internal" ? "requests_failed" : "requests_refused";
}
