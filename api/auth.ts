/**
 * Who calls: HTTP Message Signatures (RFC 9421) by the agent's own key (of server custody: its access key), for every request and for the stream's upgrade.
 *
 * Promise: `authenticate` answers only for a request that was signed, within the last five minutes and for this service, by the
 * key of a registered, active agent, over method, authority, path, query and body, and that was not seen before.
 * A nonce is remembered only after everything else held, so nobody can use up another agent's.
 */
import { createPublicKey, type KeyObject, verify } from "node:crypto";
import { encodeBase64Url } from "../protocol/base64url.ts";
import { agentIdOf, checkIdentityKey, isAgentId } from "../protocol/identity.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { Refusal } from "../protocol/refusal.ts";
import type { Custody } from "../schemas/values.ts";
import type { Agent, FindAgents } from "./agents.ts";
import { checkContentDigest } from "./content-digest.ts";
import {
  header,
  requireSignatureHeaders,
  type SignaturePolicy,
  type SignedRequest,
  type VerifiedParameters,
  verifyHttpSignature,
} from "./http-signature.ts";
import { ApiRefusal } from "./problem.ts";

export type { SignedRequest } from "./http-signature.ts";

/** The memory of nonces (`store/nonces.ts`). `sign-again`: it is younger than the signature and cannot know. */
export interface Nonces {
  remember(
    keyid: string,
    nonce: string,
    createdSeconds: number,
    expiresSeconds: number,
  ): Promise<"fresh" | "replayed" | "sign-again">;
}

export interface AuthDeps {
  readonly findAgents: FindAgents;
  readonly nonces: Nonces;
  /** ms since the epoch. */
  readonly now: () => number;
}

/** An authenticated agent. */
export interface Caller {
  readonly agentId: string;
}

/** A caller, with what else its signature proved. */
export interface Authenticated extends Caller {
  /** When it registers: the key that is registered. */
  readonly identityKey: Uint8Array;
  readonly custody: Custody;
  /** Unique per agent for as long as the request could be replayed. */
  readonly nonce: string;
}

/** Long enough for a slow network, short enough that the memory of nonces stays small. The contract with clients: docs/api.md. */
const LIFE_SECONDS_MAX = 300;

/**
 * Clocks that follow NTP are within a second of each other. More would be kinder to others, but a memory of nonces that begins anew
 * must refuse signatures (`sign-again`) for as long.
 */
export const CLOCK_SKEW_SECONDS = 2;

/** A UUID has 36, 32 random bytes as base64 have 44; more only fills the memory of nonces. */
const NONCE_LENGTH_MAX = 128;

const COMPONENTS = ["@method", "@authority", "@path", "@query"];

/** By their bytes; imported they cost some 1 KB each. */
const KEY_OBJECTS_MAX = 10_000;
const keyObjects = new Map<string, KeyObject>();

/**
 * The agent that signed this request.
 *
 * @throws ApiRefusal with a 401 or 403 code, `Unavailable` when agents cannot be looked up.
 */
export async function authenticate(deps: AuthDeps, request: SignedRequest): Promise<Authenticated> {
  let agent: Agent | undefined;
  const parameters = await verified(deps, request, async (keyid) => {
    agent = (await deps.findAgents([keyid])).get(keyid);
    if (agent === undefined) throw new ApiRefusal("agent-unknown", { field: "keyid" });
    return signingKeyOf(agent);
  });
  if (agent === undefined) throw new Error("a signature was verified without a key");
  if (agent.status !== "active") throw new ApiRefusal("agent-suspended");
  return { agentId: agent.agentId, identityKey: agent.identityKey, custody: agent.custody, nonce: parameters.nonce };
}

/** An agent's own key; where the service holds that, the key it gave when it was registered. */
function signingKeyOf({ custody, identityKey, accessKey }: Agent): Uint8Array {
  if (custody === "agent") return identityKey;
  if (accessKey === null) throw new Error("an agent of server custody has an access key");
  return accessKey;
}

/**
 * Who registers: the request is signed by the very key it registers, and its key id is that key's thumbprint. `member` holds the key.
 *
 * @throws ApiRefusal with a 401 code, or `identity-key-invalid`.
 */
export async function authenticateRegistration(
  deps: AuthDeps,
  request: SignedRequest,
  identityKey: Uint8Array,
  member: "identity_key" | "access_key" = "identity_key",
): Promise<Authenticated> {
  checkKeyToRegister(identityKey, member);
  const agentId = agentIdOf(nodePrimitives, identityKey);
  const parameters = await verified(deps, request, async (keyid) => {
    if (keyid !== agentId) {
      throw new ApiRefusal("signature-invalid", {
        field: "keyid",
        detail: `keyid is not the thumbprint of /${member}`,
        fix: `Register your own key: keyid is the RFC 7638 thumbprint of ${member}, and that key signs the request.`,
      });
    }
    return identityKey;
  });
  const custody = member === "access_key" ? "server" : "agent";
  return { agentId, identityKey, custody, nonce: parameters.nonce };
}

/** Refuses what is certainly not signed, before its body is read. */
export function requireSigned(request: Pick<SignedRequest, "headers">): void {
  requireSignatureHeaders(request);
}

async function verified(
  deps: AuthDeps,
  request: SignedRequest,
  keyOf: (keyid: string) => Promise<Uint8Array>,
): Promise<VerifiedParameters> {
  const parameters = await verifyHttpSignature(request, policyFor(request), deps.now(), async (keyid) => {
    if (!isAgentId(keyid)) {
      throw new ApiRefusal("signature-invalid", {
        field: "keyid",
        detail: "keyid is not an agent id (43 characters of base64url)",
      });
    }
    const key = keyObjectOf(await keyOf(keyid));
    return (data, signature) => verify(null, data, key, signature);
  });
  const digest = header(request, "content-digest");
  // A digest that came without its body is checked as well: the body may have been cut off on the way.
  if (request.body !== null || digest !== undefined) checkContentDigest(digest, request.body ?? new Uint8Array());
  await rememberNonce(deps, parameters);
  return parameters;
}

function policyFor(request: SignedRequest): SignaturePolicy {
  return {
    components: request.body === null ? COMPONENTS : [...COMPONENTS, "content-digest"],
    lifeSecondsMax: LIFE_SECONDS_MAX,
    clockSkewSeconds: CLOCK_SKEW_SECONDS,
    nonceLengthMax: NONCE_LENGTH_MAX,
  };
}

async function rememberNonce(deps: AuthDeps, { keyid, nonce, created, expires }: VerifiedParameters): Promise<void> {
  // A signature is taken until its end plus the skew, and so must the memory last.
  const answer = await deps.nonces.remember(keyid, nonce, created, expires + CLOCK_SKEW_SECONDS);
  if (answer === "replayed") throw new ApiRefusal("signature-replayed", { field: "nonce" });
  if (answer === "sign-again") throw new ApiRefusal("sign-again", { field: "created" });
}

function checkKeyToRegister(identityKey: Uint8Array, member: string): void {
  try {
    checkIdentityKey(identityKey);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    throw new ApiRefusal("identity-key-invalid", { field: `/${member}` });
  }
}

function keyObjectOf(publicKey: Uint8Array): KeyObject {
  const x = encodeBase64Url(publicKey);
  const known = keyObjects.get(x);
  if (known !== undefined) return known;
  const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
  for (const oldest of keyObjects.keys()) {
    if (keyObjects.size < KEY_OBJECTS_MAX) break;
    keyObjects.delete(oldest);
  }
  keyObjects.set(x, key);
  return key;
}
