/**
 * Delegations (docs/delegation.md): what a token says, and when a token may follow another in a chain. How tokens are signed and checked lies with
 * who has a JOSE library: sdk/delegation.ts, api/authz/delegation.ts.
 *
 * Promise: claims that are not known are refused, not read past: one of them might be a restriction.
 */
import { isAgentId } from "./identity.ts";
import { JsonReader } from "./json-reader.ts";
import { Refusal } from "./refusal.ts";

/** The header of a request that presents a chain. */
export const DELEGATION_HEADER = "sealpost-delegation";

export const DELEGATION_ALG = "EdDSA";

export const DELEGATION_TYP = "sealpost-delegation+jwt";

/** Between the tokens of a chain, its root first: no token has one. */
export const CHAIN_SEPARATOR = "~";

/** A person, its assistant, the assistant's tool, and one more. What is deeper nobody can look through any more. */
export const CHAIN_LINKS_MAX = 4;

/** Node takes 16 KiB of headers; four links of the largest kind have 7 KiB. */
export const CHAIN_LENGTH_MAX = 8_192;

/** Enough for a team of agents; who needs more delegates to write to anybody. */
const DELEGATED_RECIPIENTS_MAX = 16;

/** A quarter of a year: a delegation that nobody renews ends. Revocations are remembered for as long. */
export const DELEGATION_LIFE_SECONDS_MAX = 90 * 24 * 60 * 60;

/** What may be delegated: to send messages, and to claim prekeys for them. */
export const delegationScopes = ["send", "claim"] as const;

export type DelegationScope = (typeof delegationScopes)[number];

/** Anybody. */
export const ANYBODY = "*";

/** Times in seconds since the epoch. */
export interface DelegationClaims {
  /** Agent id: who delegates. */
  readonly iss: string;
  /** Agent id: who may act. */
  readonly sub: string;
  /** The service, as `@authority` names it. */
  readonly aud: string;
  readonly iat: number;
  readonly exp: number;
  /** Null: from `iat` on. */
  readonly nbf: number | null;
  /** Names the token among its issuer's: 16 to 64 characters of base64url or a UUID. */
  readonly jti: string;
  /** `cnf.jkt`: the RFC 7638 thumbprint of the key that the delegate signs with. */
  readonly jkt: string;
  readonly scope: readonly DelegationScope[];
  /** Agent ids. */
  readonly to: readonly string[] | typeof ANYBODY;
  /** SHA-256 of the token before it in the chain, base64url; null of the root. */
  readonly prf: string | null;
}

/** Why a chain is refused: a closed list, the table of docs/delegation.md. */
export const delegationRules = [
  "malformed",
  "too-deep",
  "too-long",
  "algorithm",
  "broken-chain",
  "widened",
  "wrong-audience",
  "expired",
  "not-yet-valid",
  "cycle",
  "key-mismatch",
  "untrusted-issuer",
  "signature",
  "revoked",
] as const;

export type DelegationRule = (typeof delegationRules)[number];

const TOKEN_ID = /^[A-Za-z0-9_-]{16,64}$/;
/** As much as a host's name and a port have. */
const AUDIENCE_LENGTH_MAX = 261;

export function isTokenId(text: string): boolean {
  return TOKEN_ID.test(text);
}

/** @throws Refusal `malformed`, whose field points at the claim */
export function claimsFromJson(json: unknown): DelegationClaims {
  const reader = new JsonReader(json);
  const cnf = reader.object("cnf");
  const claims: DelegationClaims = {
    iss: agentId(reader, "iss"),
    sub: agentId(reader, "sub"),
    aud: reader.string("aud"),
    iat: seconds(reader, "iat"),
    exp: seconds(reader, "exp"),
    nbf: reader.has("nbf") ? seconds(reader, "nbf") : null,
    jti: reader.string("jti"),
    jkt: agentId(cnf, "jkt", "/cnf/jkt"),
    scope: scopesOf(reader.string("scope")),
    to: recipientsOf(reader),
    prf: reader.has("prf") ? agentId(reader, "prf") : null,
  };
  cnf.end();
  reader.end();
  if (!isTokenId(claims.jti)) throw malformed("/jti");
  if (claims.aud.length === 0 || claims.aud.length > AUDIENCE_LENGTH_MAX) throw malformed("/aud");
  if (claims.exp <= (claims.nbf ?? claims.iat)) throw malformed("/exp");
  return claims;
}

export function claimsToJson({ jkt, scope, nbf, prf, ...claims }: DelegationClaims): Record<string, unknown> {
  return {
    ...claims,
    ...(nbf === null ? {} : { nbf }),
    cnf: { jkt },
    scope: scope.join(" "),
    ...(prf === null ? {} : { prf }),
  };
}

/** What is wrong with a token behind this one; null when nothing is. `parentDigest`: SHA-256 of the parent's token, base64url. */
export function whyNoChild(
  parent: DelegationClaims,
  child: DelegationClaims,
  parentDigest: string,
): { readonly rule: DelegationRule; readonly detail: string } | null {
  if (child.iss !== parent.sub) return { rule: "broken-chain", detail: "iss is not the sub of the token before it" };
  if (child.prf !== parentDigest)
    return { rule: "broken-chain", detail: "prf is not the digest of the token before it" };
  if (!child.scope.every((scope) => parent.scope.includes(scope))) {
    return { rule: "widened", detail: "scope has more than the token before it" };
  }
  if (!isWithin(child.to, parent.to)) return { rule: "widened", detail: "to has more than the token before it" };
  if (child.exp > parent.exp) return { rule: "widened", detail: "exp is later than that of the token before it" };
  return null;
}

function isWithin(child: DelegationClaims["to"], parent: DelegationClaims["to"]): boolean {
  if (parent === ANYBODY) return true;
  return child !== ANYBODY && child.every((recipientId) => parent.includes(recipientId));
}

function scopesOf(text: string): readonly DelegationScope[] {
  const names = text.split(" ");
  const scopes = delegationScopes.filter((scope) => names.includes(scope));
  // Each once, none that is unknown, none at all.
  if (scopes.length !== names.length) throw malformed("/scope");
  return scopes;
}

function recipientsOf(reader: JsonReader): DelegationClaims["to"] {
  const to = reader.stringOrStrings("to", DELEGATED_RECIPIENTS_MAX);
  if (to === ANYBODY) return to;
  if (typeof to === "string" || to.length === 0 || !to.every(isAgentId)) throw malformed("/to");
  return to;
}

/** 32 bytes in base64url, which thumbprints and digests are as well. */
function agentId(reader: JsonReader, name: string, field = `/${name}`): string {
  const text = reader.string(name);
  if (!isAgentId(text)) throw malformed(field);
  return text;
}

function seconds(reader: JsonReader, name: string): number {
  const value = reader.number(name);
  if (!Number.isSafeInteger(value) || value < 0) throw malformed(`/${name}`);
  return value;
}

function malformed(field: string): Refusal<"malformed"> {
  return new Refusal("malformed", { field });
}
