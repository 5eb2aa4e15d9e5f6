import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, expect, test } from "vitest";
import { ownershipFrom } from "./owners.ts";
import { readOwnersConfig } from "./owners-config.ts";

const folder = mkdtempSync(path.join(tmpdir(), "sealpost-owners-"));
afterAll(() => rmSync(folder, { recursive: true }));

const ed25519 = generateKeyPairSync("ed25519");
const rsa = generateKeyPairSync("rsa", { modulusLength: 2_048 });
const jwk = { ...ed25519.publicKey.export({ format: "jwk" }), kid: "1" };
const statements = { kind: "statements", issuer: "acme", jwks: { keys: [jwk] } };
const oidc = { kind: "oidc", issuer: "https://id.example" };

function read(file?: unknown, registration?: string) {
  const env: Record<string, string> = registration === undefined ? {} : { SEALPOST_REGISTRATION: registration };
  if (file !== undefined) {
    env["SEALPOST_OWNERS_FILE"] = path.join(folder, "owners.json");
    writeFileSync(env["SEALPOST_OWNERS_FILE"], typeof file === "string" ? file : JSON.stringify(file));
  }
  return readOwnersConfig((schema) => schema.parse(env));
}

test("without a word about it agents need an owner, and nobody vouches for one", () => {
  expect(read()).toEqual({ registration: "owned", issuers: [] });
});

test("an issuer has its own audience, or that of all", () => {
  const { issuers } = read({ audience: "sealpost", issuers: [{ ...statements, audience: "own" }, oidc] }, "open");
  expect(issuers).toMatchObject([
    { issuer: "acme", audience: "own" },
    {
      ...{ issuer: "https://id.example", audience: "sealpost", algorithms: ["RS256", "ES256"] },
      scopes: { register: "sealpost:register", manage: "sealpost:manage" },
    },
  ]);
});

const privateJwk = { ...ed25519.privateKey.export({ format: "jwk" }), kid: "1" };
const rsaJwk = rsa.publicKey.export({ format: "jwk" });

test.each<[string, unknown, string]>([
  ["no JSON", "{", "cannot be read as JSON"],
  ["no audience", { issuers: [oidc] }, "audience:"],
  ["no issuers", { audience: "a", issuers: [] }, "issuers:"],
  ["an unknown kind", { audience: "a", issuers: [{ ...oidc, kind: "saml" }] }, "issuers.0.kind:"],
  ["an unknown member", { audience: "a", issuers: [{ ...oidc, secret: "s" }] }, "issuers.0:"],
  [
    "a private key",
    { audience: "a", issuers: [{ ...statements, jwks: { keys: [privateJwk] } }] },
    "issuers.0.jwks.keys.0.d: a private key",
  ],
  [
    "a shared secret",
    { audience: "a", issuers: [{ ...oidc, jwks: { keys: [{ kty: "oct", k: "AA" }] } }] },
    "issuers.0.jwks.keys.0.kty:",
  ],
  [
    "an RSA key for statements",
    { audience: "a", issuers: [{ ...statements, jwks: { keys: [rsaJwk] } }] },
    "not an Ed25519 key",
  ],
  [
    "half a key",
    { audience: "a", issuers: [{ ...statements, jwks: { keys: [{ ...jwk, x: "AA" }] } }] },
    "not a public key",
  ],
  ["statements without keys", { audience: "a", issuers: [{ kind: "statements", issuer: "acme" }] }, "issuers.0.jwks:"],
  ["keys over http", { audience: "a", issuers: [{ ...oidc, jwks_uri: "http://id.example/k" }] }, "issuers.0.jwks_uri:"],
  ["a provider over http", { audience: "a", issuers: [{ ...oidc, issuer: "http://id.example" }] }, "issuers.0.issuer:"],
  ["HS256", { audience: "a", issuers: [{ ...oidc, algorithms: ["HS256"] }] }, "issuers.0.algorithms.0:"],
  ["none", { audience: "a", issuers: [{ ...oidc, algorithms: ["none"] }] }, "issuers.0.algorithms.0:"],
  ["an issuer twice", { audience: "a", issuers: [oidc, oidc] }, "issuers.1.issuer: stands there twice"],
  [
    "two sources of keys",
    { audience: "a", issuers: [{ ...statements, jwks_uri: "https://a.example/k" }] },
    "issuers.0.jwks_uri: either",
  ],
])("a file with %s is refused, and the place named", (_, file, text) => {
  expect(() => read(file)).toThrow(text);
  expect(() => read(file)).toThrow("SEALPOST_OWNERS_FILE");
});

test("at the start it is said when nobody can register, and when everybody can", () => {
  const warned: string[] = [];
  const log = { info: () => undefined, warn: (text: string) => void warned.push(text) };
  ownershipFrom({ registration: "owned", issuers: [] }, log);
  expect(warned).toEqual([expect.stringContaining("SEALPOST_OWNERS_FILE, or set SEALPOST_REGISTRATION=open")]);
  ownershipFrom({ registration: "open", issuers: [] }, log);
  expect(warned[1]).toContain("registration is open");
  ownershipFrom(read({ audience: "a", issuers: [oidc] }), log);
  expect(warned).toHaveLength(2);
});
