/**
 * An OpenID Connect provider on loopback, as far as a service that checks its tokens sees one: its configuration and its keys.
 */
import { generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, SignJWT } from "jose";

export interface OidcProvider {
  readonly issuer: string;
  /** How often each path was asked for. */
  readonly asked: Map<string, number>;
  /** Paths that are answered otherwise than they should be. */
  readonly instead: Map<string, RequestListener>;
  /** For this subject, with this scope. */
  token(subject: string, audience: string, scope: string): Promise<string>;
  close(): void;
}

export async function startOidcProvider(): Promise<OidcProvider> {
  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2_048 });
  const jwks = { keys: [{ ...(await exportJWK(publicKey)), kid: "rsa-1", use: "sig", alg: "RS256" }] };
  const asked = new Map<string, number>();
  const instead = new Map<string, RequestListener>();
  const server = createServer((request, response) => {
    const path = request.url ?? "";
    asked.set(path, (asked.get(path) ?? 0) + 1);
    const other = instead.get(path);
    if (other !== undefined) return other(request, response);
    const documents: Readonly<Record<string, unknown>> = {
      "/.well-known/openid-configuration": { issuer, jwks_uri: `${issuer}/keys` },
      "/keys": jwks,
    };
    const found = documents[path];
    response.writeHead(found === undefined ? 404 : 200, { "content-type": "application/json" });
    response.end(JSON.stringify(found ?? {}));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    issuer,
    asked,
    instead,
    token: (subject, audience, scope) =>
      new SignJWT({ scope })
        .setProtectedHeader({ alg: "RS256", typ: "at+jwt", kid: "rsa-1" })
        .setIssuer(issuer)
        .setSubject(subject)
        .setAudience(audience)
        .setIssuedAt()
        .setExpirationTime("10m")
        .sign(privateKey),
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}
