import { createHmac, generateKeyPairSync, type KeyObject } from "node:crypto";
import { exportJWK, SignJWT } from "jose";
import { expect, test } from "vitest";
import { newIdentity } from "../../tests/signing.ts";
import type { ApiRefusal } from "../problem.ts";
import { RULES, type Rule } from "./issuer.ts";
import { givenKeys } from "./issuer-keys.ts";
import { oidcIssuer } from "./oidc.ts";
import { type Ownership, ownershipOf } from "./ownership.ts";
import { statementIssuer } from "./statements.ts";

const now = 1_800_000_000_000;
const nowS = now / 1000;
const audience = "https://sealpost.example";
const acme = "https://acme.example";
const provider = "https://id.example";

const ownerKey = generateKeyPairSync("ed25519");
const stranger = generateKeyPairSync("ed25519");
const rsa = generateKeyPairSync("rsa", { modulusLength: 2_048 });
const weakRsa = generateKeyPairSync("rsa", { modulusLength: 1_024 });
const ec = generateKeyPairSync("ec", { namedCurve: "P-256" });

const agent = newIdentity().agentId;
const otherAgent = newIdentity().agentId;

async function jwk(key: KeyObject, kid: string) {
  return { ...(await exportJWK(key)), kid };
}

const acmeKeys = givenKeys({
  keys: [await jwk(ownerKey.publicKey, "o"), await jwk(rsa.publicKey, "r"), await jwk(ec.publicKey, "e")],
});
const providerKeys = givenKeys({
  keys: [await jwk(rsa.publicKey, "r"), await jwk(weakRsa.publicKey, "w"), await jwk(ec.publicKey, "e")],
});

const issuers = [
  statementIssuer(acme, audience, acmeKeys),
  oidcIssuer(
    provider,
    { audience, algorithms: ["RS256"], scopes: { register: "agents:register", manage: "agents:manage" } },
    providerKeys,
  ),
];
const owned = ownershipOf({ registration: "owned", issuers });

interface Made {
  readonly header?: Record<string, unknown>;
  readonly claims?: Record<string, unknown>;
  readonly key?: KeyObject;
}

/** A statement that holds, but for what is changed; what is undefined is left out. */
function statement({ header = {}, claims = {}, key = ownerKey.privateKey }: Made = {}): Promise<string> {
  const payload = {
    ...{ iss: acme, sub: "team-7", aud: audience, iat: nowS, exp: nowS + 600, purpose: "register" },
    cnf: { jkt: agent },
    ...claims,
  };
  return made(payload, { alg: "EdDSA", typ: "sealpost-owner+jwt", kid: "o", ...header }, key);
}

function providerToken({ header = {}, claims = {}, key = rsa.privateKey }: Made = {}): Promise<string> {
  const payload = {
    ...{ iss: provider, sub: "user|9", aud: audience, iat: nowS, exp: nowS + 7_200, scope: "openid agents:register" },
    ...claims,
  };
  return made(payload, { alg: "RS256", typ: "at+jwt", kid: "r", ...header }, key);
}

function made(payload: object, header: { alg: string } & Record<string, unknown>, key: KeyObject): Promise<string> {
  return new SignJWT(JSON.parse(JSON.stringify(payload))).setProtectedHeader(header).sign(key);
}

/** Without a library that would refuse to make it. */
function forged(header: object, payload: object, sign: (data: string) => string): string {
  const data = [header, payload].map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).join(".");
  return `${data}.${sign(data)}`;
}

const claimsOfAcme = {
  iss: acme,
  sub: "team-7",
  aud: audience,
  iat: nowS,
  exp: nowS + 600,
  purpose: "register",
  cnf: { jkt: agent },
};

async function brokenRule(token: string, ownership: Ownership = owned, keyId = agent): Promise<Rule> {
  const refusal: ApiRefusal = await ownership.ownerOfNew(token, keyId, now).then(
    () => expect.fail("it holds"),
    (error: ApiRefusal) => error,
  );
  expect([refusal.code, refusal.field]).toEqual(["owner-statement-invalid", "/owner_statement"]);
  return ruleOf(refusal);
}

function ruleOf({ detail, fix }: ApiRefusal): Rule {
  const [found] = Object.entries(RULES).find(([, texts]) => texts[0] === detail && texts[1] === fix) ?? [];
  return found as Rule;
}

test("a statement that holds names the owner", async () => {
  expect(await owned.ownerOfNew(await statement(), agent, now)).toEqual({ issuer: acme, subject: "team-7" });
});

test.each<[string, Rule, Made]>([
  ["it has expired", "expired", { claims: { iat: nowS - 700, exp: nowS - 100 } }],
  ["it begins later", "early", { claims: { nbf: nowS + 60 } }],
  ["it was made in the future", "early", { claims: { iat: nowS + 60 } }],
  ["it lives for more than an hour", "lifetime", { claims: { exp: nowS + 3_601 } }],
  ["it has no end", "claims", { claims: { exp: undefined } }],
  ["it has no beginning", "claims", { claims: { iat: undefined } }],
  ["it is for another service", "audience", { claims: { aud: "https://other.example" } }],
  ["it is for no service", "audience", { claims: { aud: undefined } }],
  ["nobody knows its issuer", "issuer", { claims: { iss: "https://stranger.example" } }],
  ["it has no issuer", "issuer", { claims: { iss: undefined } }],
  ["it names no owner", "subject", { claims: { sub: undefined } }],
  ["its owner has a line break", "subject", { claims: { sub: "a\nb" } }],
  ["its owner is empty", "subject", { claims: { sub: "" } }],
  ["it is bound to another agent's key", "bound-key", { claims: { cnf: { jkt: otherAgent } } }],
  ["it is bound to no key", "bound-key", { claims: { cnf: undefined } }],
  ["it is bound to something else", "claims", { claims: { cnf: { kid: agent } } }],
  ["it was made for managing", "purpose", { claims: { purpose: "manage", cnf: undefined } }],
  ["it says nothing of its purpose", "purpose", { claims: { purpose: undefined } }],
  ["it is another kind of token", "type", { header: { typ: "at+jwt" } }],
  ["it says nothing of its kind", "type", { header: { typ: undefined } }],
  ["nobody knows its key", "key", { header: { kid: "x" } }],
  ["another key made it", "signature", { key: stranger.privateKey }],
  ["it was signed by RSA", "algorithm", { header: { alg: "RS256", kid: "r" }, key: rsa.privateKey }],
  ["it was signed by ECDSA", "algorithm", { header: { alg: "ES256", kid: "e" }, key: ec.privateKey }],
])("a statement is refused when %s", async (_, rule, change) => {
  expect(await brokenRule(await statement(change))).toBe(rule);
});

test("a token without a signature is refused, however none is written", async () => {
  for (const alg of ["none", "None", "NONE", ""]) {
    const token = forged({ alg, typ: "sealpost-owner+jwt", kid: "o" }, claimsOfAcme, () => "");
    expect(["algorithm", "form"]).toContain(await brokenRule(token));
  }
});

test("the public key is no secret: HS256 with it is refused", async () => {
  const { x } = await exportJWK(ownerKey.publicKey);
  const pem = ownerKey.publicKey.export({ type: "spki", format: "pem" });
  for (const secret of [Buffer.from(String(x), "base64url"), pem, String(x)]) {
    const token = forged({ alg: "HS256", typ: "sealpost-owner+jwt", kid: "o" }, claimsOfAcme, (data) =>
      createHmac("sha256", secret).update(data).digest("base64url"),
    );
    expect(await brokenRule(token)).toBe("algorithm");
  }
});

test("an EdDSA header over an RSA key finds no key", async () => {
  const token = forged({ alg: "EdDSA", typ: "sealpost-owner+jwt", kid: "r" }, claimsOfAcme, () => "AAAA");
  expect(await brokenRule(token)).toBe("key");
});

test("a key that comes with the token is not believed", async () => {
  const header = { kid: undefined, jwk: await exportJWK(stranger.publicKey) };
  expect(await brokenRule(await statement({ header, key: stranger.privateKey }))).toBe("signature");
});

test("extensions that nobody here understands are refused", async () => {
  const token = forged(
    { alg: "EdDSA", typ: "sealpost-owner+jwt", kid: "o", crit: ["x"], x: 1 },
    claimsOfAcme,
    () => "AA",
  );
  expect(["form", "algorithm"]).toContain(await brokenRule(token));
});

test.each(["", "a", "a.b.c", "..", "e30.e30.", `${"a".repeat(8_000)}.b.c`])("%j is no token", async (text) => {
  expect(["form", "issuer"]).toContain(await brokenRule(text));
});

test("the same statement registers no other agent", async () => {
  const token = await statement();
  await owned.ownerOfNew(token, agent, now);
  expect(await brokenRule(token, owned, otherAgent)).toBe("bound-key");
});

test("a provider's token holds with the scope for it, as a text or a list", async () => {
  for (const claims of [{}, { scope: undefined, scp: ["agents:register"] }, { cnf: { jkt: agent } }]) {
    const owner = await owned.ownerOfNew(await providerToken({ claims }), agent, now);
    expect(owner).toEqual({ issuer: provider, subject: "user|9" });
  }
});

test.each<[string, Rule, Made]>([
  ["it has the other scope", "purpose", { claims: { scope: "agents:manage" } }],
  ["it has a longer scope", "purpose", { claims: { scope: "agents:register2" } }],
  ["it has none", "purpose", { claims: { scope: undefined } }],
  ["it has expired", "expired", { claims: { exp: nowS - 60 } }],
  ["it is for another service", "audience", { claims: { aud: ["https://other.example"] } }],
  ["it is bound to another agent's key", "bound-key", { claims: { cnf: { jkt: otherAgent } } }],
  [
    "its algorithm is not allowed of this issuer",
    "algorithm",
    { header: { alg: "ES256", kid: "e" }, key: ec.privateKey },
  ],
  ["its algorithm is a stronger one", "algorithm", { header: { alg: "RS512" } }],
  ["another issuer's key made it", "key", { header: { kid: "o" } }],
])("a provider's token is refused when %s", async (_, rule, change) => {
  expect(await brokenRule(await providerToken(change))).toBe(rule);
});

test("a provider's key that is too short is none", async () => {
  const token = forged(
    { alg: "RS256", kid: "w" },
    { iss: provider, sub: "u", aud: audience, iat: nowS, exp: nowS + 60, scope: "agents:register" },
    () => "AAAA",
  );
  expect(await brokenRule(token)).toBe("key");
});

test("an issuer does not speak for another's owners", async () => {
  const token = await statement({ claims: { iss: provider }, header: { kid: "o" } });
  expect(["algorithm", "key"]).toContain(await brokenRule(token));
});

test("without a statement nobody registers, unless registration is open", async () => {
  const closed = ownershipOf({ registration: "owned", issuers: [] });
  await expect(closed.ownerOfNew(null, agent, now)).rejects.toMatchObject({ code: "registration-closed" });
  await expect(owned.ownerOfNew(null, agent, now)).rejects.toMatchObject({ code: "owner-statement-missing" });
  const open = ownershipOf({ registration: "open", issuers });
  expect(await open.ownerOfNew(null, agent, now)).toBeNull();
  expect(await open.ownerOfNew(await statement(), agent, now)).toEqual({ issuer: acme, subject: "team-7" });
  expect(await brokenRule(await statement({ key: stranger.privateKey }), open)).toBe("signature");
});

test("an owner's call needs a token made for managing, and bound to no key", async () => {
  const call = (token: string) => owned.ownerOfCall(`Bearer ${token}`, now);
  const manage = { purpose: "manage", cnf: undefined };
  expect(await call(await statement({ claims: manage }))).toEqual({ issuer: acme, subject: "team-7" });
  expect(await call(await providerToken({ claims: { scope: "agents:manage" } }))).toMatchObject({ subject: "user|9" });
  for (const token of [
    await statement(),
    await statement({ claims: { purpose: "manage" } }),
    await providerToken(),
    await providerToken({ claims: { scope: "agents:manage", cnf: { jkt: agent } } }),
  ]) {
    const refusal: ApiRefusal = await call(token).then(
      () => expect.fail("it holds"),
      (error) => error,
    );
    expect([refusal.code, refusal.field, ruleOf(refusal)]).toEqual(["owner-unknown", "Authorization", "purpose"]);
  }
  for (const authorization of [undefined, "", "Bearer", "Bearer ", `Basic ${await statement({ claims: manage })}`]) {
    await expect(owned.ownerOfCall(authorization, now)).rejects.toMatchObject({ code: "owner-unknown" });
  }
});
