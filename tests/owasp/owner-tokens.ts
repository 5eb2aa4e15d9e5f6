/**
 * An issuer of owners' statements that makes whatever an attacker wants, with node:crypto alone: not with the library that the service checks them with.
 */
import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { givenKeys } from "../../api/owners/issuer-keys.ts";
import { type Ownership, ownershipOf } from "../../api/owners/ownership.ts";
import { statementIssuer } from "../../api/owners/statements.ts";

type Json = Readonly<Record<string, unknown>>;

const ISSUER = "https://acme.example";
const AUDIENCE = "https://sealpost.example";
const { publicKey, privateKey } = generateKeyPairSync("ed25519");
const HEADER: Json = { alg: "EdDSA", typ: "sealpost-owner+jwt", kid: "1" };

/** Raw, as an attacker reads it from the issuer's published keys. */
export const issuerKeyBytes = Buffer.from(String(publicKey.export({ format: "jwk" }).x), "base64url");

export const ownerOf = (subject: string) => ({ issuer: ISSUER, subject });

/** Agents register without an owner, too. */
export function ownershipForTests(): Ownership {
  const keys = givenKeys({ keys: [{ ...publicKey.export({ format: "jwk" }), kid: "1" }] });
  return ownershipOf({ registration: "open", issuers: [statementIssuer(ISSUER, AUDIENCE, keys)] });
}

export interface Wrong {
  readonly header?: Json;
  /** `undefined` takes a claim out. */
  readonly claims?: Json;
  /** Default: the issuer's. */
  readonly key?: KeyObject;
  readonly signature?: (input: Buffer) => Uint8Array;
}

/** For an owner's own calls. */
export function managing(subject: string, wrong: Wrong = {}): string {
  return tokenOf({ ...claimsOf(subject), purpose: "manage", ...wrong.claims }, wrong);
}

/** For the registration of the key with this thumbprint. */
export function registering(subject: string, keyId: string, wrong: Wrong = {}): string {
  return tokenOf({ ...claimsOf(subject), purpose: "register", cnf: { jkt: keyId }, ...wrong.claims }, wrong);
}

const nowSeconds = () => Math.floor(Date.now() / 1000);

/** Statements that are wrong in one thing each, whatever they are for. */
export function wrongs(): Readonly<Record<string, Wrong>> {
  const now = nowSeconds();
  const other = generateKeyPairSync("ed25519").privateKey;
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2_048 }).privateKey;
  return {
    "signed by another key": { key: other },
    "another key in its header": { key: other, header: { jwk: { kty: "OKP" }, kid: undefined } },
    "keys at an address of its own": { key: other, header: { jku: "https://evil.example/keys", kid: "2" } },
    "alg none": { header: { alg: "none" }, signature: () => new Uint8Array() },
    "alg RS256": { header: { alg: "RS256" }, signature: (input) => sign("sha256", input, rsa) },
    "no signature": { signature: () => new Uint8Array() },
    "another typ": { header: { typ: "JWT" } },
    "a delegation's typ": { header: { typ: "sealpost-delegation+jwt" } },
    "another audience": { claims: { aud: "https://elsewhere.example" } },
    "no audience": { claims: { aud: undefined } },
    "another issuer": { claims: { iss: "https://evil.example" } },
    "no issuer": { claims: { iss: undefined } },
    expired: { claims: { iat: now - 900, exp: now - 60 } },
    "of the future": { claims: { iat: now + 600, exp: now + 900 } },
    "a life of a day": { claims: { exp: now + 86_400 } },
    "no end": { claims: { exp: undefined } },
    "no owner": { claims: { sub: undefined } },
    "an owner of two lines": { claims: { sub: "team-1\nteam-2" } },
    "an owner that is a list": { claims: { sub: ["team-1"] } },
  };
}

function claimsOf(subject: string): Json {
  const now = nowSeconds();
  return { iss: ISSUER, aud: AUDIENCE, sub: subject, iat: now, exp: now + 600 };
}

function tokenOf(claims: Json, { header = {}, key = privateKey, signature }: Wrong): string {
  const input = `${encoded({ ...HEADER, ...header })}.${encoded(claims)}`;
  const signer = signature ?? ((data: Buffer) => sign(null, data, key));
  return `${input}.${Buffer.from(signer(Buffer.from(input))).toString("base64url")}`;
}

function encoded(json: Json): string {
  return Buffer.from(JSON.stringify(json)).toString("base64url");
}
