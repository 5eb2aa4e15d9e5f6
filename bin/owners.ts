/**
 * Whose word about owners is believed, joined from the configuration.
 */
import { discoveredKeys, givenKeys, type IssuerKeys, keysFrom } from "../api/owners/issuer-keys.ts";
import { oidcIssuer } from "../api/owners/oidc.ts";
import { type Ownership, ownershipOf } from "../api/owners/ownership.ts";
import { statementIssuer } from "../api/owners/statements.ts";
import type { IssuerConfig, OwnersConfig } from "./owners-config.ts";

interface Log {
  info(facts: object, text: string): void;
  warn(text: string): void;
}

/** Says what it means for those who register. */
export function ownershipFrom({ registration, issuers }: OwnersConfig, log: Log): Ownership {
  if (registration === "open") log.warn("registration is open: agents need no owner (SEALPOST_REGISTRATION)");
  else if (issuers.length === 0) {
    log.warn(
      "registration is closed: nobody vouches for owners. Name trusted issuers in SEALPOST_OWNERS_FILE, or set SEALPOST_REGISTRATION=open (docs/identity.md)",
    );
  }
  if (issuers.length > 0) log.info({ issuers: issuers.map(({ issuer }) => issuer) }, "owners are vouched for by these");
  return ownershipOf({ registration, issuers: issuers.map(issuerFrom) });
}

function issuerFrom(config: IssuerConfig) {
  const { issuer, audience } = config;
  const keys = keysOf(config);
  return config.kind === "statements"
    ? statementIssuer(issuer, audience, keys)
    : oidcIssuer(issuer, { audience, algorithms: config.algorithms, scopes: config.scopes }, keys);
}

function keysOf({ issuer, jwks, jwks_uri: uri }: IssuerConfig): IssuerKeys {
  if (jwks !== undefined) return givenKeys(jwks);
  return uri === undefined ? discoveredKeys(issuer) : keysFrom(new URL(uri));
}
