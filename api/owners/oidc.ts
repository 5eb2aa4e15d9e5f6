/**
 * Owners by an OpenID Connect provider: an access token that the provider made for this service (RFC 9068), whose subject is the owner.
 *
 * Promise: the provider says by scopes what a token may do, so one that was handed to an agent for its registration does not manage the
 * owner's other agents. The request that registers is signed by the agent's key; a token that is bound to a key (`cnf.jkt`) must be to that one.
 */
import type { JWTPayload } from "jose";
import { type Asked, Broken, boundKeyOf, type Issuer, type Owner, verifiedClaims } from "./issuer.ts";
import type { IssuerKeys } from "./issuer-keys.ts";

/** Public keys only: with a shared secret the service could make tokens itself, and a public key could be taken for a secret. */
export const OIDC_ALGORITHMS = [
  "RS256",
  "RS384",
  "RS512",
  "PS256",
  "PS384",
  "PS512",
  "ES256",
  "ES384",
  "ES512",
  "EdDSA",
  "Ed25519",
] as const;

export interface OidcOptions {
  readonly audience: string;
  readonly algorithms: readonly (typeof OIDC_ALGORITHMS)[number][];
  /** What must stand in `scope` (or `scp`) for each. */
  readonly scopes: { readonly register: string; readonly manage: string };
}

export function oidcIssuer(name: string, { audience, algorithms, scopes }: OidcOptions, keys: IssuerKeys): Issuer {
  return {
    name,
    check: async (token: string, asked: Asked, nowMs: number): Promise<Owner> => {
      const claims = await verifiedClaims(token, keys, nowMs, { issuer: name, audience, algorithms });
      if (!scopesOf(claims).includes(scopes[asked.to])) throw new Broken("purpose");
      const boundKey = boundKeyOf(claims);
      if (asked.to === "register" && boundKey !== null && boundKey !== asked.keyId) throw new Broken("bound-key");
      // An owner's call is not signed: nobody has proven to hold that key.
      if (asked.to === "manage" && boundKey !== null) throw new Broken("purpose");
      return { issuer: name, subject: claims.sub };
    },
  };
}

/** One text with spaces, or, with some providers, a list called `scp`. */
function scopesOf({ scope, scp }: JWTPayload): readonly unknown[] {
  const given = scope ?? scp;
  if (Array.isArray(given)) return given;
  return typeof given === "string" ? given.split(" ") : [];
}
