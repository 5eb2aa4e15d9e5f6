/**
 * An owner's own statement: a compact JWS that the owner, or whoever speaks for it, signs with EdDSA.
 *
 *   header  typ "sealpost-owner+jwt", alg "EdDSA", kid
 *   claims  iss, sub (the owner), aud (this service), iat, exp (at most an hour later),
 *           purpose "register" and cnf.jkt (thumbprint of the key that registers), or purpose "manage"
 *
 * Promise: a statement registers the one agent it names, and opens none of the owner's calls; one for those registers nobody.
 */
import { type Asked, Broken, boundKeyOf, type Issuer, type Owner, verifiedClaims } from "./issuer.ts";
import type { IssuerKeys } from "./issuer-keys.ts";

const TYPE = "sealpost-owner+jwt";

/** A statement that was lost is worth little; an agent that registers has it made just before. */
const LIFE_SECONDS_MAX = 3_600;

export function statementIssuer(name: string, audience: string, keys: IssuerKeys): Issuer {
  return {
    name,
    check: async (token: string, asked: Asked, nowMs: number): Promise<Owner> => {
      const expected = { issuer: name, audience, typ: TYPE, algorithms: ["EdDSA"] };
      const claims = await verifiedClaims(token, keys, nowMs, expected);
      if (claims.exp - claims.iat > LIFE_SECONDS_MAX) throw new Broken("lifetime");
      if (claims["purpose"] !== asked.to) throw new Broken("purpose");
      const boundKey = boundKeyOf(claims);
      if (asked.to === "register" && boundKey !== asked.keyId) throw new Broken("bound-key");
      if (asked.to === "manage" && boundKey !== null) throw new Broken("purpose");
      return { issuer: name, subject: claims.sub };
    },
  };
}
