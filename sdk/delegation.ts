/**
 * Makes and reads delegations (docs/delegation.md): the only file of the SDK that imports `jose`. Nothing is asked of the service for it.
 *
 * Promise: what is made would be taken: a link that the service would refuse for what it says is not signed.
 */
import { createHash, randomUUID } from "node:crypto";
import { CompactSign, decodeJwt } from "jose";
import { encodeBase64Url } from "../protocol/base64url.ts";
import {
  ANYBODY,
  CHAIN_LENGTH_MAX,
  CHAIN_LINKS_MAX,
  CHAIN_SEPARATOR,
  claimsFromJson,
  claimsToJson,
  DELEGATION_ALG,
  DELEGATION_LIFE_SECONDS_MAX,
  DELEGATION_TYP,
  type DelegationClaims,
  type DelegationScope,
  delegationScopes,
  whyNoChild,
} from "../protocol/delegation.ts";
import { agentIdOf } from "../protocol/identity.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { Refusal } from "../protocol/refusal.ts";
import { AgentError } from "./errors.ts";
import type { Signer } from "./request-signature.ts";

/** @public */
export interface DelegationOptions {
  /** The agent that may act. */
  readonly to: string;
  /** Whom it may write to: at most 16 agents, or "*" for anybody. */
  readonly recipients: readonly string[] | "*";
  /** At most 90 days. */
  readonly lifeMs: number;
  /** Default: both. */
  readonly scope?: readonly DelegationScope[];
  /** Thumbprint of the key that the delegate signs with, where it is not its id: agents whose keys the service holds (`Agent.keyId`). */
  readonly keyId?: string;
  /** The chain that this agent was given itself: its delegate acts for the first who delegated. */
  readonly under?: string;
}

/** @public */
export interface MadeDelegation {
  /** What the delegate presents. */
  readonly chain: string;
  /** Names the new link: for taking it back. */
  readonly tokenId: string;
  /** ms since the epoch. */
  readonly expiresAt: number;
}

/** `audience`: the service's authority. Throws `delegation-malformed`, `delegation-refused`. */
export async function makeDelegation(
  me: Signer,
  audience: string,
  { to, recipients, lifeMs, scope = delegationScopes, keyId = to, under }: DelegationOptions,
): Promise<MadeDelegation> {
  const parents = under === undefined ? [] : readChain(under);
  if (parents.length >= CHAIN_LINKS_MAX) throw refused(`a chain has at most ${CHAIN_LINKS_MAX} links`);
  const parent = parents.at(-1);
  const iat = Math.floor(Date.now() / 1000);
  const wantedExp = iat + Math.floor(lifeMs / 1000);
  const claims = checked({
    ...{ iss: me.agentId, sub: to, aud: audience, iat, exp: wantedExp, nbf: null, jti: randomUUID(), jkt: keyId },
    ...{ scope, to: recipients, prf: parent === undefined ? null : digestOf(parent.token) },
  });
  if (parent !== undefined) {
    const fault = whyNoChild(parent.claims, claims, digestOf(parent.token));
    if (fault !== null) throw refused(fault.detail);
    if (parent.claims.jkt !== keyIdOf(me)) throw refused("the chain was given to another key than this agent's");
  }
  const { publicKey, privateKey } = me.signing;
  const jwk = { kty: "OKP", crv: "Ed25519", x: encodeBase64Url(publicKey), d: encodeBase64Url(privateKey) };
  const token = await new CompactSign(Buffer.from(JSON.stringify(claimsToJson(claims))))
    .setProtectedHeader({ alg: DELEGATION_ALG, typ: DELEGATION_TYP })
    .sign(jwk);
  const chain = [...parents.map((link) => link.token), token].join(CHAIN_SEPARATOR);
  if (chain.length > CHAIN_LENGTH_MAX) throw refused(`a chain has at most ${CHAIN_LENGTH_MAX} characters`);
  return { chain, tokenId: claims.jti, expiresAt: claims.exp * 1000 };
}

/** The links of a chain from its root, as they say: nothing is checked. Throws `delegation-malformed`. */
export function readDelegation(chain: string): readonly DelegationClaims[] {
  return readChain(chain).map(({ claims }) => claims);
}

/** What a delegation names the key by that this agent signs with. */
export function keyIdOf({ signing }: Pick<Signer, "signing">): string {
  return agentIdOf(nodePrimitives, signing.publicKey);
}

function readChain(chain: string): readonly { readonly token: string; readonly claims: DelegationClaims }[] {
  return chain.split(CHAIN_SEPARATOR).map((token) => {
    try {
      return { token, claims: claimsFromJson(decodeJwt(token)) };
    } catch (error) {
      throw malformed("this is no chain of delegation", error);
    }
  });
}

function checked(claims: DelegationClaims): DelegationClaims {
  const { exp, iat, iss, sub } = claims;
  if (exp - iat > DELEGATION_LIFE_SECONDS_MAX || exp <= iat) {
    throw malformed("a delegation lives from 1 second to 90 days");
  }
  if (iss === sub) throw malformed("an agent cannot delegate to itself");
  try {
    return claimsFromJson(claimsToJson(claims));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    throw malformed(`${WORDS[error.field ?? ""] ?? "the delegation"} does not have the right form`, error);
  }
}

const WORDS: Readonly<Record<string, string>> = {
  "/sub": "the delegate's agent id",
  "/cnf/jkt": "the thumbprint of the delegate's key",
  "/scope": `the scope (${delegationScopes.join(", ")})`,
  "/to": `the list of recipients (1 to 16 agent ids, or ${ANYBODY})`,
};

function digestOf(token: string): string {
  return createHash("sha256").update(token).digest("base64url");
}

function malformed(message: string, cause?: unknown): AgentError {
  return new AgentError("delegation-malformed", message, cause === undefined ? {} : { cause });
}

function refused(message: string): AgentError {
  return new AgentError("delegation-refused", message);
}
