/**
 * Owners for tests: a small issuer that signs statements, and signing keys that an agent has certified.
 */
import { generateKeyPairSync } from "node:crypto";
import { exportJWK, SignJWT } from "jose";
import { encodeBase64Url } from "../protocol/base64url.ts";
import type { Identity } from "../protocol/identity.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { signSigningKey } from "../protocol/signing-key.ts";
import { formatTimestamp } from "../protocol/timestamp.ts";

export interface OwnerForTests {
  readonly issuer: string;
  /** What the operator is given. */
  readonly jwks: { readonly keys: readonly object[] };
  /** For the registration of the key with this thumbprint. */
  register(subject: string, keyId: string, seconds?: number): Promise<string>;
  manage(subject: string): Promise<string>;
}

export async function ownerForTests(issuer: string, audience: string): Promise<OwnerForTests> {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const made = (claims: Record<string, unknown>, subject: string, seconds = 600) =>
    new SignJWT(claims)
      .setProtectedHeader({ alg: "EdDSA", typ: "sealpost-owner+jwt", kid: "1" })
      .setIssuer(issuer)
      .setSubject(subject)
      .setAudience(audience)
      .setIssuedAt()
      .setExpirationTime(`${seconds}s`)
      .sign(privateKey);
  return {
    issuer,
    jwks: { keys: [{ ...(await exportJWK(publicKey)), kid: "1" }] },
    register: (subject, keyId, seconds) => made({ purpose: "register", cnf: { jkt: keyId } }, subject, seconds),
    manage: (subject) => made({ purpose: "manage" }, subject),
  };
}

/** The body that adds `worker`'s key to `agent`'s, and what is changed in it. */
export function certified(
  agent: Identity,
  worker: Identity,
  { notAfter = Date.now() + 3_600_000, agentId = agent.agentId }: { notAfter?: number; agentId?: string } = {},
) {
  const { publicKey } = worker.signing;
  const facts = { agentId, publicKey, notAfter };
  return {
    public_key: encodeBase64Url(publicKey),
    not_after: formatTimestamp(notAfter),
    certificate: encodeBase64Url(signSigningKey(nodePrimitives, "certificate", agent.signing, facts)),
    proof: encodeBase64Url(signSigningKey(nodePrimitives, "proof", worker.signing, facts)),
  };
}
