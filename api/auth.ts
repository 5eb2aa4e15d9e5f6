/**
 * Who calls: HTTP Message Signatures (RFC 9421) by the agent's own key (of server custody: its access key), or by a signing key that it has certified, for every request
 * and for the stream's upgrade.
 *
 * Promise: the three steps answer only for a request that was signed, within the last five minutes and for this service, by a
 * key of a registered, active agent, over method, authority, path, query and body, and that was not seen before. A chain of delegation that it
 * presents is covered by the signature as well, and holds.
 * Three steps: `verifySigner` and `countCall` look at the headers alone, so that a body is read only for who has signed it, once, and may call;
 * `acceptRequest` at the body. A nonce is remembered when the signature held, so nobody can use up another agent's, and before the call is counted, so
 * nobody can use up another agent's rate either, by sending again what it has seen; a chain is looked at last, for it costs the most: one that does not
 * hold is counted, and cannot be presented twice by the same request.
 */
import { createPublicKey, type KeyObject, verify } from "node:crypto";
import { encodeBase64Url } from "../protocol/base64url.ts";
import { DELEGATION_HEADER } from "../protocol/delegation.ts";
import { agentIdOf, checkIdentityKey, isAgentId } from "../protocol/identity.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { Refusal } from "../protocol/refusal.ts";
import type { Custody } from "../schemas/values.ts";
import type { Agent } from "./agents.ts";
import { type Chain, type DelegationDeps, verifyChain } from "./authz/delegation.ts";
import { checkContentDigest } from "./content-digest.ts";
import {
  authorityOf,
  header,
  requireSignatureHeaders,
  type SignaturePolicy,
  type SignedRequest,
  type VerifiedParameters,
  verifyHttpSignature,
} from "./http-signature.ts";
import { ApiRefusal } from "./problem.ts";
import { type RateDeps, requireRate, takeRate } from "./rate-limits.ts";
import type { FindSigningKey } from "./signing-keys.ts";

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

export interface AuthDeps extends DelegationDeps {
  readonly findSigningKey: FindSigningKey;
  readonly nonces: Nonces;
}

/** An authenticated agent. */
export interface Caller {
  readonly agentId: string;
  /** The chain that the request presents, if it presents one. */
  readonly chain?: Chain | undefined;
  /** The signing key that the call came by, where it was not the agent's own. */
  readonly signingKeyId?: string | undefined;
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

/** Whose signature the headers hold. Its body may be another one still, it may have been seen before, and its chain was not looked at. */
export interface Signer {
  readonly caller: Authenticated;
  readonly parameters: VerifiedParameters;
  /** That verified the signature. */
  readonly signingKey: Uint8Array;
}

/**
 * The first step: the agent that signed this request.
 *
 * @throws ApiRefusal with a 401 or 403 code, `Unavailable` when agents cannot be looked up.
 */
export async function verifySigner(deps: AuthDeps, request: SignedRequest): Promise<Signer> {
  let signer: KeyHolder | undefined;
  const parameters = await verified(deps, request, async (keyid) => {
    signer = await signerOf(deps, keyid);
    return signer.key;
  });
  if (signer === undefined) throw new Error("a signature was verified without a key");
  const { agent, signingKeyId, key: signingKey } = signer;
  if (agent.status !== "active") throw new ApiRefusal("agent-suspended");
  const { agentId, identityKey, custody } = agent;
  const { nonce } = parameters;
  if (signingKeyId === null) return { caller: { agentId, identityKey, custody, nonce }, parameters, signingKey };
  // Two keys of an agent may choose the same nonce.
  const caller = { agentId, identityKey, custody, signingKeyId, nonce: `${signingKeyId}:${nonce}` };
  return { caller, parameters, signingKey };
}

/**
 * The second step: the request was not seen before, and its agent may call as often. Whoever has seen a request can send it again, with any body: that
 * takes nothing of its agent's rate, and costs a question to the memory of nonces. An agent beyond its rate fills that memory with nothing.
 *
 * @throws ApiRefusal `signature-replayed`, `sign-again`, `rate-limited`
 */
export async function countCall(deps: AuthDeps & RateDeps, { caller, parameters }: Signer, points = 1): Promise<void> {
  requireRate(deps, "calls", caller.agentId, points);
  await rememberNonce(deps, parameters);
  await takeRate(deps, "calls", caller.agentId, points);
}

/**
 * The third step: the body is the one that was signed, and the chain that the request presents holds.
 *
 * @throws ApiRefusal `digest-mismatch`, `delegation-refused`; `Unavailable`
 */
export async function acceptRequest(
  deps: AuthDeps,
  request: SignedRequest,
  signer: Signer,
  body: Uint8Array | null,
): Promise<Authenticated> {
  checkBody(request, body);
  return withChain(deps, request, signer);
}

interface KeyHolder {
  readonly agent: Agent;
  readonly key: Uint8Array;
  /** Null: the agent's own. */
  readonly signingKeyId: string | null;
}

/** An agent's own id comes first: no signing key can take its place. */
async function signerOf(deps: AuthDeps, keyid: string): Promise<KeyHolder> {
  const agent = (await deps.findAgents([keyid])).get(keyid);
  if (agent !== undefined) return { agent, key: ownKeyOf(agent), signingKeyId: null };
  const signingKey = await deps.findSigningKey(keyid);
  if (signingKey === null) throw new ApiRefusal("agent-unknown", { field: "keyid" });
  if (signingKey === "ended") throw new ApiRefusal("signing-key-ended", { field: "keyid" });
  const { agentId, publicKey } = signingKey;
  const certifier = (await deps.findAgents([agentId])).get(agentId);
  if (certifier === undefined) throw new ApiRefusal("agent-unknown", { field: "keyid" });
  return { agent: certifier, key: publicKey, signingKeyId: keyid };
}

/** An agent's own key; where the service holds that, the key it gave when it was registered. */
export function ownKeyOf({
  custody,
  identityKey,
  accessKey,
}: Pick<Agent, "custody" | "identityKey" | "accessKey">): Uint8Array {
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
  body: Uint8Array | null,
  identityKey: Uint8Array,
  member: "identity_key" | "access_key",
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
  const caller = { agentId, identityKey, custody, nonce: parameters.nonce } as const;
  checkBody(request, body);
  await rememberNonce(deps, parameters);
  return withChain(deps, request, { caller, parameters, signingKey: identityKey });
}

function checkBody(request: SignedRequest, body: Uint8Array | null): void {
  const digest = header(request, "content-digest");
  // A digest that came without its body is checked as well: the body may have been cut off on the way.
  if (body !== null || digest !== undefined) checkContentDigest(digest, body ?? new Uint8Array());
}

/** Of every request that presents one, also where it has no effect: whoever presents it learns at once that it does not hold. */
async function withChain(
  deps: AuthDeps,
  request: SignedRequest,
  { caller, signingKey }: Signer,
): Promise<Authenticated> {
  const text = header(request, DELEGATION_HEADER);
  if (text === undefined) return caller;
  const { agentId } = caller;
  return {
    ...caller,
    chain: await verifyChain(deps, text, { agentId, signingKey, audience: authorityOf(request.origin) }),
  };
}

/** Refuses what is certainly not signed, before its body is read. */
export function requireSigned(request: Pick<SignedRequest, "headers">): void {
  requireSignatureHeaders(request);
}

function verified(
  deps: AuthDeps,
  request: SignedRequest,
  keyOf: (keyid: string) => Promise<Uint8Array>,
): Promise<VerifiedParameters> {
  return verifyHttpSignature(request, policyFor(request), deps.now(), async (keyid) => {
    if (!isAgentId(keyid)) {
      throw new ApiRefusal("signature-invalid", {
        field: "keyid",
        detail: "keyid is not an agent id (43 characters of base64url)",
      });
    }
    const key = keyObjectOf(await keyOf(keyid));
    return (data, signature) => verify(null, data, key, signature);
  });
}

function policyFor(request: SignedRequest): SignaturePolicy {
  const headers = [
    ...(request.hasBody ? ["content-digest"] : []),
    ...(header(request, DELEGATION_HEADER) === undefined ? [] : [DELEGATION_HEADER]),
  ];
  return {
    components: [...COMPONENTS, ...headers],
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
