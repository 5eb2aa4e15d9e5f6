/**
 * Chains of delegation, as a request presents them (docs/delegation.md): the only file of the API that imports `jose`.
 *
 * Promise: `verifyChain` answers only for a chain of which every link was signed by its issuer, an active agent, with the key that the link before
 * names, holds no more than the link before it, is of this service and of this time and not revoked, and whose last link names the caller and the
 * key that signed the request. Everything else is `delegation-refused` and names the rule. A chain never grants more than its caller may
 * do without one, but for what recipients allow its principal.
 */
import { createHash } from "node:crypto";
import { compactVerify, decodeJwt, decodeProtectedHeader, errors } from "jose";
import { encodeBase64Url } from "../../protocol/base64url.ts";
import {
  CHAIN_LENGTH_MAX,
  CHAIN_LINKS_MAX,
  CHAIN_SEPARATOR,
  claimsFromJson,
  DELEGATION_ALG,
  DELEGATION_HEADER,
  DELEGATION_LIFE_SECONDS_MAX,
  DELEGATION_TYP,
  type DelegationClaims,
  type DelegationRule,
  type DelegationScope,
  whyNoChild,
} from "../../protocol/delegation.ts";
import { agentIdOf } from "../../protocol/identity.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import { Refusal } from "../../protocol/refusal.ts";
import type { Delegation } from "../../schemas/values.ts";
import type { Agent, FindAgents } from "../agents.ts";
import { ApiRefusal } from "../problem.ts";
import type { FindRevoked } from "./revocations.ts";

export interface DelegationDeps {
  readonly findAgents: FindAgents;
  readonly findRevoked: FindRevoked;
  /** ms since the epoch. */
  readonly now: () => number;
}

/** Who presents a chain, where. */
export interface Presenter {
  readonly agentId: string;
  /** The key that signed the request. */
  readonly signingKey: Uint8Array;
  /** The authority that the request was made to, as its signature has it. */
  readonly audience: string;
}

/** A chain that holds. */
export interface Chain {
  /** From the root. */
  readonly links: readonly Delegation[];
  /** Who delegated first: the sender stands for it. */
  readonly principalId: string;
  readonly scope: readonly DelegationScope[];
  readonly to: DelegationClaims["to"];
  /** ms since the epoch. */
  readonly expiresAt: number;
}

/** As for signatures (auth.ts). */
const CLOCK_SKEW_SECONDS = 2;

interface Link {
  readonly token: string;
  readonly claims: DelegationClaims;
  /** Such as "link 2 of 3". */
  readonly name: string;
}

/** @throws ApiRefusal `delegation-refused`; `Unavailable` */
export async function verifyChain(deps: DelegationDeps, text: string, presenter: Presenter): Promise<Chain> {
  const links = linksOf(text);
  checkClaims(links, presenter, Math.floor(deps.now() / 1000));
  const agents = await deps.findAgents(links.map(({ claims }) => claims.iss));
  for (const [index, link] of links.entries()) {
    const key = delegatingKeyOf(agents.get(link.claims.iss), link);
    const parent = links[index - 1];
    if (parent !== undefined && thumbprintOf(key) !== parent.claims.jkt) {
      throw refusal("key-mismatch", "iss does not sign with the key that cnf of the token before it names", link);
    }
    await checkSignature(link, key);
  }
  const chain = chainOf(links);
  await checkRevoked(deps, chain);
  return chain;
}

/**
 * What may have changed since a chain was verified.
 *
 * @throws ApiRefusal `delegation-refused`; `Unavailable`
 */
export async function recheckChain(deps: DelegationDeps, chain: Chain): Promise<void> {
  if (chain.expiresAt <= deps.now()) throw refusal("expired", "it has expired since it was presented");
  const agents = await deps.findAgents(chain.links.map(({ issuerId }) => issuerId));
  if (!chain.links.every(({ issuerId }) => agents.get(issuerId)?.status === "active")) {
    throw refusal("untrusted-issuer", "an issuer is not active any more");
  }
  await checkRevoked(deps, chain);
}

/** What a chain stands for in one act. */
export interface ActingFor {
  readonly principalId: string | null;
  /** What is recorded. */
  readonly delegation: readonly Delegation[];
}

const FOR_ITSELF: ActingFor = { principalId: null, delegation: [] };

/** Where the chain does not cover the act it is as if none had been presented: an agent may always speak for itself. */
export function actingFor(chain: Chain | undefined, scope: DelegationScope, recipientId: string): ActingFor {
  if (chain === undefined || !chain.scope.includes(scope)) return FOR_ITSELF;
  if (typeof chain.to !== "string" && !chain.to.includes(recipientId)) return FOR_ITSELF;
  return { principalId: chain.principalId, delegation: chain.links };
}

function linksOf(text: string): readonly Link[] {
  if (text.length > CHAIN_LENGTH_MAX) {
    throw refusal("malformed", `a chain has at most ${CHAIN_LENGTH_MAX} characters`);
  }
  const tokens = text.split(CHAIN_SEPARATOR);
  if (tokens.length > CHAIN_LINKS_MAX) throw refusal("too-deep", `a chain has at most ${CHAIN_LINKS_MAX} links`);
  return tokens.map((token, index) => {
    const name = `link ${index + 1} of ${tokens.length}`;
    return { token, name, claims: claimsOf(token, name) };
  });
}

/** As they stand there: nothing is proven yet. */
function claimsOf(token: string, name: string): DelegationClaims {
  try {
    const { typ, alg, ...others } = decodeProtectedHeader(token);
    if (alg !== DELEGATION_ALG) throw refusal("algorithm", `alg is not ${DELEGATION_ALG}`, { name });
    if (typ !== DELEGATION_TYP || Object.keys(others).length > 0) {
      throw refusal("malformed", `the header is not {"alg":"${DELEGATION_ALG}","typ":"${DELEGATION_TYP}"}`, { name });
    }
    return claimsFromJson(decodeJwt(token));
  } catch (error) {
    if (error instanceof ApiRefusal) throw error;
    if (error instanceof Refusal) throw refusal("malformed", `the claim ${error.field} is missing or wrong`, { name });
    throw refusal("malformed", "this is no compact JWS of JSON claims", { name });
  }
}

/** All that can be said without asking anybody. */
function checkClaims(links: readonly Link[], { agentId, signingKey, audience }: Presenter, nowSeconds: number): void {
  for (const [index, link] of links.entries()) {
    const { claims } = link;
    const parent = links[index - 1];
    if (parent === undefined) {
      if (claims.prf !== null) throw refusal("broken-chain", "prf names a token that is not there", link);
    } else {
      const fault = whyNoChild(parent.claims, claims, digestOf(parent.token));
      if (fault !== null) throw refusal(fault.rule, fault.detail, link);
    }
    if (claims.aud !== audience) {
      throw refusal("wrong-audience", "aud is not the authority of this service (server_authority)", link, audience);
    }
    if (claims.exp - claims.iat > DELEGATION_LIFE_SECONDS_MAX) {
      throw refusal("too-long", `exp is more than ${DELEGATION_LIFE_SECONDS_MAX} seconds after iat`, link);
    }
    if (claims.exp <= nowSeconds) throw refusal("expired", "exp has passed", link);
    if (Math.max(claims.iat, claims.nbf ?? 0) > nowSeconds + CLOCK_SKEW_SECONDS) {
      throw refusal("not-yet-valid", "iat or nbf has not come yet", link);
    }
  }
  const agentIds = [...links.map(({ claims }) => claims.iss), links.at(-1)?.claims.sub];
  if (new Set(agentIds).size < agentIds.length) throw refusal("cycle", "an agent stands in the chain twice");
  const leaf = links.at(-1);
  if (leaf?.claims.sub !== agentId) throw refusal("key-mismatch", "sub is not the caller", leaf);
  if (leaf.claims.jkt !== thumbprintOf(signingKey)) {
    throw refusal("key-mismatch", "cnf does not name the key that signed the request", leaf);
  }
}

/** The key with which an agent delegates: its own, or, where the service holds that, the one that signs its calls. */
function delegatingKeyOf(issuer: Agent | undefined, link: Link): Uint8Array {
  if (issuer?.status !== "active") throw refusal("untrusted-issuer", "iss is no active agent", link);
  const key = issuer.custody === "agent" ? issuer.identityKey : issuer.accessKey;
  if (key === null) throw new Error("an agent of server custody has an access key");
  return key;
}

async function checkSignature(link: Link, publicKey: Uint8Array): Promise<void> {
  try {
    const jwk = { kty: "OKP", crv: "Ed25519", x: encodeBase64Url(publicKey) };
    await compactVerify(link.token, jwk, { algorithms: [DELEGATION_ALG] });
  } catch (error) {
    if (!(error instanceof errors.JOSEError)) throw error;
    throw refusal("signature", "it was not signed by iss", link);
  }
}

async function checkRevoked(deps: DelegationDeps, { links }: Chain): Promise<void> {
  if (await deps.findRevoked(links)) throw refusal("revoked", "an issuer has taken its delegation back");
}

function chainOf(links: readonly Link[]): Chain {
  const [root, leaf] = [links[0], links.at(-1)];
  if (root === undefined || leaf === undefined) throw new Error("a chain has a link");
  const { scope, to, exp } = leaf.claims;
  return {
    links: links.map(({ claims }) => ({ issuerId: claims.iss, tokenId: claims.jti })),
    principalId: root.claims.iss,
    scope,
    to,
    // No child is good for longer than what it stands on.
    expiresAt: exp * 1000,
  };
}

function thumbprintOf(publicKey: Uint8Array): string {
  return agentIdOf(nodePrimitives, publicKey);
}

function digestOf(token: string): string {
  return createHash("sha256").update(token).digest("base64url");
}

function refusal(rule: DelegationRule, detail: string, link?: Pick<Link, "name">, authority?: string): ApiRefusal {
  return new ApiRefusal("delegation-refused", {
    field: DELEGATION_HEADER,
    rule,
    detail: link === undefined ? detail : `${link.name}: ${detail}`,
    ...(authority === undefined ? {} : { authority }),
  });
}
