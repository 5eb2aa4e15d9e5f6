/**
 * Statements of owners, for those who have no provider (docs/identity.md): made where the owner's key is, for one registration or for the owner's own calls.
 */
import { type CryptoKey, type KeyObject, SignJWT } from "jose";

export interface StatementFacts {
  /** The owner's private Ed25519 key, and how its public half is called in the set that the operator has. */
  readonly key: CryptoKey | KeyObject;
  readonly kid: string;
  readonly issuer: string;
  /** The owner. */
  readonly subject: string;
  /** The service, as its operator named it. */
  readonly audience: string;
  /** The registration of the agent whose key has this thumbprint; null: the owner's own calls. */
  readonly keyId: string | null;
  /** At most an hour. */
  readonly lifeSeconds: number;
}

export function makeOwnerStatement(facts: StatementFacts): Promise<string> {
  const { key, kid, issuer, subject, audience, keyId, lifeSeconds } = facts;
  const now = Math.floor(Date.now() / 1000);
  return new SignJWT(keyId === null ? { purpose: "manage" } : { purpose: "register", cnf: { jkt: keyId } })
    .setProtectedHeader({ alg: "EdDSA", typ: "sealpost-owner+jwt", kid })
    .setIssuer(issuer)
    .setSubject(subject)
    .setAudience(audience)
    .setIssuedAt(now)
    .setExpirationTime(now + lifeSeconds)
    .sign(key);
}
