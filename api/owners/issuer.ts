/**
 * Whose word about owners is believed, and what makes it hold: an owner's signed statement, or a token of an OpenID Connect provider. Both are
 * JSON Web Tokens and fail by the same rules; what differs stands in `statements.ts` and `oidc.ts`.
 *
 * Promise: an `Owner` is answered only for a token that a trusted issuer's key signed with an algorithm that the operator allows, for this
 * service, that is in time, and that was made for what is asked. Everything else is a `Broken` with the rule it breaks.
 */
import { errors, type JWTPayload, type JWTVerifyOptions, jwtVerify } from "jose";
import type { IssuerKeys } from "./issuer-keys.ts";

/** Who answers for an agent; unique together. */
export interface Owner {
  readonly issuer: string;
  readonly subject: string;
}

/** What a token is shown for: the registration of the agent that this key signs for (its thumbprint), or the owner's own calls. */
export type Asked = { readonly to: "register"; readonly keyId: string } | { readonly to: "manage" };

export interface Issuer {
  /** `iss` of its tokens. */
  readonly name: string;
  /** Throws `Broken`, and `Unavailable` when its keys cannot be fetched. */
  check(token: string, asked: Asked, nowMs: number): Promise<Owner>;
}

/** Each with what is wrong and what to do. */
export const RULES = {
  form: ["it is not a compact JWS with JSON claims", "Send the token as its issuer made it."],
  issuer: ["iss is nobody whose word this service takes", "Have it made by an issuer that the operator trusts."],
  type: ["typ is not sealpost-owner+jwt", "Make it with sealpost owner statement."],
  algorithm: ["alg is not one that this service takes of its issuer", "Sign with EdDSA, or what the operator allows."],
  key: [
    "none of its issuer's keys is one that it can have been signed by",
    "Name the key in kid, and publish it with the issuer's keys.",
  ],
  signature: ["its signature does not hold", "Send the token as its issuer made it."],
  audience: ["aud is not this service", "Have it made for this service: the operator knows its name."],
  expired: ["it has expired", "Have a new one made; compare your clock with the answer's Date."],
  early: ["it is of the future", "Compare your clock with the answer's Date."],
  lifetime: ["it lives for more than an hour", "Let exp be at most an hour after iat."],
  subject: ["sub is missing, or not 1 to 255 printable characters", "Name the owner in sub."],
  purpose: [
    "it was made for something else",
    "Have it made for this: purpose register or manage; of a provider, with the scope for it.",
  ],
  "bound-key": [
    "cnf.jkt is not the thumbprint of the key that registers",
    "Have it made for this key: sealpost owner statement --agent THUMBPRINT.",
  ],
  claims: [
    "a claim is missing or has the wrong form",
    "Give iss, sub, aud, iat and exp, and for a registration cnf.jkt.",
  ],
} as const;

export type Rule = keyof typeof RULES;

/** The token does not hold. */
export class Broken extends Error {
  readonly rule: Rule;

  constructor(rule: Rule, options?: ErrorOptions) {
    super(rule, options);
    this.rule = rule;
  }
}

/** As CLOCK_SKEW_SECONDS of signatures, and a little for issuers that are looked after less. */
const SKEW_SECONDS = 5;

/** One line of printable characters: it stands in facts, and in what operators are shown. */
const SUBJECT = /^[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?$/;

/** The claims of a token that holds. Throws `Broken`, and what `keys` throws `Unavailable`. */
export async function verifiedClaims(
  token: string,
  keys: IssuerKeys,
  nowMs: number,
  options: Pick<JWTVerifyOptions, "issuer" | "audience" | "typ"> & { readonly algorithms: readonly string[] },
): Promise<JWTPayload & { readonly iat: number; readonly exp: number; readonly sub: string }> {
  try {
    const { payload } = await jwtVerify(token, keys, {
      ...options,
      algorithms: [...options.algorithms],
      clockTolerance: SKEW_SECONDS,
      currentDate: new Date(nowMs),
      requiredClaims: ["iat", "exp", "sub"],
    });
    const { iat = 0, exp = 0, sub = "" } = payload;
    if (iat > nowMs / 1000 + SKEW_SECONDS) throw new Broken("early");
    if (typeof sub !== "string" || !SUBJECT.test(sub)) throw new Broken("subject");
    return { ...payload, iat, exp, sub };
  } catch (error) {
    throw brokenOf(error);
  }
}

/** The key a token is bound to (RFC 7800, RFC 9449 §6.1); null when it is bound to none. */
export function boundKeyOf({ cnf }: JWTPayload): string | null {
  if (cnf === undefined) return null;
  const { jkt } = (cnf ?? {}) as { jkt?: unknown };
  // Bound to something that cannot be compared is not unbound.
  if (typeof jkt !== "string") throw new Broken("claims");
  return jkt;
}

const byClaim: Readonly<Record<string, Rule>> = {
  iss: "issuer",
  aud: "audience",
  typ: "type",
  nbf: "early",
  sub: "subject",
};

function brokenOf(error: unknown): unknown {
  const because = { cause: error };
  if (error instanceof errors.JWTExpired) return new Broken("expired", because);
  if (error instanceof errors.JWTClaimValidationFailed) return new Broken(byClaim[error.claim] ?? "claims", because);
  if (error instanceof errors.JOSEAlgNotAllowed) return new Broken("algorithm", because);
  if (error instanceof errors.JWSSignatureVerificationFailed) return new Broken("signature", because);
  if (error instanceof errors.JWKSNoMatchingKey || error instanceof errors.JWKSMultipleMatchingKeys)
    return new Broken("key", because);
  // jose says so where a key does not fit its algorithm, or is too short for it.
  if (error instanceof TypeError) return new Broken("key", because);
  if (error instanceof errors.JOSENotSupported) return new Broken("algorithm", because);
  if (error instanceof errors.JWSInvalid || error instanceof errors.JWTInvalid) return new Broken("form", because);
  return error;
}
