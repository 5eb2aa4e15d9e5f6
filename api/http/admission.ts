/**
 * Who calls, and with what body: what must hold before a handler is asked.
 *
 * Promise: a body is read only for who has signed it (for a registration, whose key stands in it, a small one); it is parsed only when it is the one that
 * was signed. All bodies that are held at a time have a bound. How often somebody calls has one as well: of agents and owners by who they are, before the
 * body; of everybody else by the address.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { decodeBase64Url } from "../../protocol/base64url.ts";
import { Unavailable } from "../../protocol/refusal.ts";
import {
  type Authenticated,
  acceptRequest,
  authenticateRegistration,
  countCall,
  requireSigned,
  type SignedRequest,
  verifySigner,
} from "../auth.ts";
import { atTheFrontDoor } from "../front-door.ts";
import { requireOperator } from "../operators.ts";
import { keyOfOwner, type Owner } from "../owners/ownership.ts";
import { ApiRefusal } from "../problem.ts";
import { type MetLimits, takeRate } from "../rate-limits.ts";
import { announcesBody, requestFacts } from "../request-facts.ts";
import type { UnderWay } from "../sends-under-way.ts";
import { readBody, requirePlainJson, UNPROVEN_BODY_BYTES_MAX } from "./body.ts";
import type { HttpDeps, Route } from "./route.ts";
import { parseJson, validated } from "./validation.ts";

interface Admitted {
  readonly caller: Authenticated;
  /** Who calls by an owner's token; else null. */
  readonly owner: Owner | null;
  /** Parsed and checked when it is asked for. Throws `malformed`. */
  readonly body: () => Record<string, unknown>;
  /** Path and query as they were signed. */
  readonly target: string;
}

/** What a call counts for. */
export interface CallCounts {
  readonly met: MetLimits;
  /** Null for what does not send. */
  readonly underWay: UnderWay | null;
}

/** @throws ApiRefusal, `Unavailable` */
export async function admit(
  deps: HttpDeps,
  route: Route,
  request: IncomingMessage,
  response: ServerResponse,
  { met, underWay }: CallCounts,
): Promise<Admitted> {
  const facts = requestFacts(request, deps.publicAuthority);
  if (route.signedBy === "operator") requireOperator(deps.opsToken, request.headers.authorization);
  const bodyOf = (owner: string, bytesMax?: number) => {
    const body = heldBody(deps, request, response, owner, bytesMax);
    return underWay === null ? body : underWay.waitFor(body);
  };
  const prove = async () => {
    if (isSigned(route)) requireSigned(facts);
    const { authorization } = request.headers;
    const owner = route.signedBy === "owner" ? await deps.ownership.ownerOfCall(authorization, deps.now()) : null;
    if (route.needsRedis && !deps.redisReady()) throw new Unavailable("redis");
    checkBodysKind(route, request);
    const address = () => deps.addressOf(request);
    return { owner, ...(await proven(deps, route, facts, { owner, met, bodyOf, address })) };
  };
  const { signedBy } = route;
  const isUnproven = signedBy === "nobody" || signedBy === "operator";
  const proof = await (isUnproven ? prove() : atTheFrontDoor(deps, request, signedBy, prove));
  return { ...proof, target: facts.target };
}

function isSigned({ signedBy }: Route): boolean {
  return signedBy === "agent" || signedBy === "key-in-body";
}

/**
 * A registration makes rows for good, and the keys of a held one some tenth of a second of work: it counts as ten.
 */
const HELD_REGISTRATION_POINTS = 10;

/** A reason has some 200 bytes: owners are many, and whoever speaks for one is trusted by its issuer, not by us. */
const OWNER_BODY_BYTES_MAX = 4 * 1024;

interface AtHand {
  readonly owner: Owner | null;
  readonly met: MetLimits;
  readonly bodyOf: (owner: string, bytesMax?: number) => Promise<Uint8Array | null>;
  readonly address: () => string;
}

async function proven(
  deps: HttpDeps,
  route: Route,
  facts: SignedRequest,
  { owner, met, bodyOf, address }: AtHand,
): Promise<Omit<Admitted, "target" | "owner">> {
  if (owner !== null) {
    const key = keyOfOwner(owner);
    met.add("calls", key);
    await takeRate(deps, "calls", key);
    const bytes = await bodyOf(key, OWNER_BODY_BYTES_MAX);
    return { caller: nobody, body: () => parsed(route, bytes) };
  }
  switch (route.signedBy) {
    case "owner":
      throw new Error("an owner's call has an owner");
    case "nobody":
    case "operator": {
      const bytes = await bodyOf(route.signedBy);
      return { caller: nobody, body: () => parsed(route, bytes) };
    }
    case "agent": {
      const signer = await verifySigner(deps, facts);
      const { agentId } = signer.caller;
      met.add("calls", agentId);
      if (route.sends) met.add("messages", agentId);
      await countCall(deps, signer, route.cost);
      const bytes = await bodyOf(agentId);
      return { caller: await acceptRequest(deps, facts, signer, bytes), body: () => parsed(route, bytes) };
    }
    case "key-in-body": {
      const from = address();
      met.add("registrations", from);
      await takeRate(deps, "registrations", from);
      const bytes = await bodyOf(from, UNPROVEN_BODY_BYTES_MAX);
      const body = parsed(route, bytes);
      const member = body["custody"] === "server" ? "access_key" : "identity_key";
      const key = decodeBase64Url(String(body[member]));
      if (key === null) throw new Error("the schema let a key through that is not base64url");
      const caller = await authenticateRegistration(deps, facts, bytes, key, member);
      if (caller.custody === "server") await takeRate(deps, "registrations", from, HELD_REGISTRATION_POINTS - 1);
      return { caller, body: () => body };
    }
  }
}

const nobody: Authenticated = { agentId: "", identityKey: new Uint8Array(), custody: "agent", nonce: "" };

/** Its bytes count as held until the answer has left, or the client has. */
async function heldBody(
  deps: HttpDeps,
  request: IncomingMessage,
  response: ServerResponse,
  owner: string,
  bytesMax?: number,
): Promise<Uint8Array | null> {
  const room = deps.bodies.roomFor(owner);
  const { socket } = request;
  // Where requests wait for each other on one connection, the responses of those behind may never hear that it is gone.
  socket.once("close", room.release);
  response.once("close", () => {
    socket.off("close", room.release);
    room.release();
  });
  return readBody(request, response, room, bytesMax);
}

function checkBodysKind(route: Route, request: IncomingMessage): void {
  if (route.request.body !== undefined) requirePlainJson(request);
  else if (announcesBody(request)) {
    throw new ApiRefusal("malformed", { field: "", detail: "this call takes no body", fix: "Leave the body out." });
  }
}

function parsed({ request: { body: schema, messageIdAt } }: Route, bytes: Uint8Array | null): Record<string, unknown> {
  if (schema === undefined) return {};
  const json = parseJson(bytes);
  return validated(schema, json, messageIdAt?.(json));
}
