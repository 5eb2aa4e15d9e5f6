import { createHmac, createPublicKey, generateKeyPairSync, sign } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { DelegationRule } from "../../protocol/delegation.ts";
import type { Identity } from "../../protocol/identity.ts";
import { type Changes, chainOf, claimsOf, digestOf, HEADER, tokenOf } from "../../tests/delegations.ts";
import { newIdentity } from "../../tests/signing.ts";
import type { Agent } from "../agents.ts";
import { ApiRefusal } from "../problem.ts";
import { actingFor, type Chain, recheckChain, verifyChain } from "./delegation.ts";

const audience = "sealpost.example";
const [alice, bob, carol, dave, erin, mallory] = [
  newIdentity(),
  newIdentity(),
  newIdentity(),
  newIdentity(),
  newIdentity(),
  newIdentity(),
];
/** Registered are all but mallory. */
const agents = [alice, bob, carol, dave, erin, mallory];
const now = () => Math.floor(Date.now() / 1000);

interface World {
  readonly agents: Map<string, Agent>;
  readonly revoked: Set<string>;
  nowMs: number | null;
}

function newWorld(): World {
  const known = new Map(agents.map((agent) => [agent.agentId, agentOf(agent)]));
  known.delete(mallory.agentId);
  return { agents: known, revoked: new Set(), nowMs: null };
}

function agentOf({ agentId, signing }: Identity): Agent {
  return {
    ...{ agentId, identityKey: signing.publicKey, custody: "agent", accessKey: null },
    ...{ status: "active", createdAt: 1 },
  };
}

function depsOf(world: World) {
  return {
    findAgents: async (ids: readonly string[]) =>
      new Map(ids.flatMap((id) => (world.agents.has(id) ? [[id, world.agents.get(id) as Agent]] : []))),
    findRevoked: async (links: readonly { tokenId: string }[]) =>
      links.some(({ tokenId }) => world.revoked.has(tokenId)),
    now: () => world.nowMs ?? Date.now(),
  };
}

function verifyAs(presenter: Identity, chain: string, world = newWorld()): Promise<Chain> {
  const { agentId, signing } = presenter;
  return verifyChain(depsOf(world), chain, { agentId, signingKey: signing.publicKey, audience });
}

async function ruleOf(verifying: Promise<unknown>): Promise<string> {
  const error = await verifying.then(
    () => null,
    (thrown) => thrown,
  );
  if (error === null) return "taken";
  if (!(error instanceof ApiRefusal)) throw error;
  expect(error.code).toBe("delegation-refused");
  expect(error.detail).toBeTruthy();
  return String(error.rule);
}

/** A link from alice to bob. */
const link = (changes: Changes = {}) => tokenOf(alice, claimsOf(alice, bob, audience, changes));

describe("what holds", () => {
  test("a chain of four links makes its last delegate stand for the first issuer", async () => {
    const chain = await verifyAs(erin, chainOf([alice, bob, carol, dave, erin], audience));
    expect(chain).toMatchObject({ principalId: alice.agentId, scope: ["send", "claim"], to: "*" });
    expect(chain.links.map(({ issuerId }) => issuerId)).toEqual([alice, bob, carol, dave].map((a) => a.agentId));
  });

  test("a chain that narrows grants what its last link says", async () => {
    const changes = [{ to: [carol.agentId, dave.agentId] }, { scope: "send", to: [dave.agentId] }];
    const chain = await verifyAs(carol, chainOf([alice, bob, carol], audience, changes));
    expect(chain).toMatchObject({ scope: ["send"], to: [dave.agentId] });
    expect(actingFor(chain, "send", dave.agentId)).toEqual({
      principalId: alice.agentId,
      delegation: chain.links,
    });
    for (const [scope, to] of [
      ["claim", dave],
      ["send", erin],
    ] as const) {
      expect(actingFor(chain, scope, to.agentId)).toEqual({ principalId: null, delegation: [] });
    }
  });

  test("agents of server custody delegate with their access key, and act with it", async () => {
    const world = newWorld();
    const [aliceAccess, bobAccess] = [newIdentity(), newIdentity()];
    for (const [agent, access] of [
      [alice, aliceAccess],
      [bob, bobAccess],
    ] as const) {
      world.agents.set(agent.agentId, { ...agentOf(agent), custody: "server", accessKey: access.signing.publicKey });
    }
    const claims = claimsOf(alice, bob, audience, { cnf: { jkt: bobAccess.agentId } });
    const parent = tokenOf(alice, claims, { signedBy: aliceAccess });
    const bobPresents = (chain: string) =>
      verifyChain(depsOf(world), chain, { agentId: bob.agentId, signingKey: bobAccess.signing.publicKey, audience });
    expect((await bobPresents(parent)).principalId).toBe(alice.agentId);
    const childClaims = claimsOf(bob, carol, audience, { exp: claims["exp"], prf: digestOf(parent) });
    const child = tokenOf(bob, childClaims, { signedBy: bobAccess });
    expect((await verifyAs(carol, `${parent}~${child}`, world)).principalId).toBe(alice.agentId);
    // The identity key, which the service holds, delegates nothing.
    expect(await ruleOf(bobPresents(tokenOf(alice, claims)))).toBe("signature");
    const ofIdentity = tokenOf(alice, claimsOf(alice, bob, audience), { signedBy: aliceAccess });
    expect(await ruleOf(bobPresents(ofIdentity))).toBe("key-mismatch");
  });
});

describe("algorithms", () => {
  const claims = claimsOf(alice, bob, audience);
  const publicPem = createPublicKey({
    format: "jwk",
    key: { kty: "OKP", crv: "Ed25519", x: Buffer.from(alice.signing.publicKey).toString("base64url") },
  }).export({ format: "pem", type: "spki" });
  const ec = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const hmac = (key: string | Uint8Array) => (input: Buffer) => createHmac("sha256", key).update(input).digest();
  const confused: [name: string, token: string][] = [
    ["none", tokenOf(alice, claims, { header: { ...HEADER, alg: "none" }, signature: () => new Uint8Array() })],
    ["HS256 under the public key", withAlg("HS256", hmac(alice.signing.publicKey))],
    ["HS256 under the public key's PEM", withAlg("HS256", hmac(publicPem))],
    ["ES256", withAlg("ES256", (input) => sign("sha256", input, { key: ec.privateKey, dsaEncoding: "ieee-p1363" }))],
    ["a good signature that calls itself Ed25519", tokenOf(alice, claims, { header: { ...HEADER, alg: "Ed25519" } })],
  ];
  function withAlg(alg: string, signature: (input: Buffer) => Uint8Array): string {
    return tokenOf(alice, claims, { header: { ...HEADER, alg }, signature });
  }

  test.each(confused)("%s is refused", async (_, token) => {
    expect(await ruleOf(verifyAs(bob, token))).toBe("algorithm");
  });

  test("a key that the token brings along is not looked at", async () => {
    const x = Buffer.from(mallory.signing.publicKey).toString("base64url");
    const header = { ...HEADER, jwk: { kty: "OKP", crv: "Ed25519", x } };
    expect(await ruleOf(verifyAs(bob, tokenOf(alice, claims, { header, signedBy: mallory })))).toBe("malformed");
  });

  test("any bit of a token that is flipped makes it worthless", async () => {
    const token = link();
    const taken = await Promise.all(
      Array.from({ length: 60 }, async (_, n) => {
        const bytes = Buffer.from(token);
        const place = Math.floor((n * (token.length - 1)) / 60);
        bytes[place] = (bytes[place] as number) ^ (1 << (n % 7));
        return ruleOf(verifyAs(bob, bytes.toString()));
      }),
    );
    expect(taken).not.toContain("taken");
  });
});

describe("what is refused", () => {
  const chain = (changes: readonly Changes[]) => chainOf([alice, bob, carol], audience, changes);
  const someone = [dave.agentId];
  const good = chain([]).split("~") as [string, string];
  const cases: [law: string, DelegationRule, presenter: Identity, text: string][] = [
    ["nothing", "malformed", bob, ""],
    ["what is no token", "malformed", bob, "a.b"],
    ["an empty link", "malformed", bob, `${link()}~`],
    ["two headers in one", "malformed", bob, `${link()}, ${link()}`],
    [
      "another typ",
      "malformed",
      bob,
      tokenOf(alice, claimsOf(alice, bob, audience), { header: { ...HEADER, typ: "JWT" } }),
    ],
    ["no typ", "malformed", bob, tokenOf(alice, claimsOf(alice, bob, audience), { header: { alg: "EdDSA" } })],
    ["a claim that is not known", "malformed", bob, link({ act: "x" })],
    ["a scope that is not known", "malformed", bob, link({ scope: "send receive" })],
    ["no scope", "malformed", bob, link({ scope: "" })],
    ["a recipient that is no agent id", "malformed", bob, link({ to: ["dave"] })],
    ["no recipient", "malformed", bob, link({ to: [] })],
    ["too many recipients", "malformed", bob, link({ to: Array.from({ length: 17 }, () => newIdentity().agentId) })],
    ["several audiences", "malformed", bob, link({ aud: [audience] })],
    ["a time that is a text", "malformed", bob, link({ exp: "tomorrow" })],
    ["a token without an end", "malformed", bob, link({ exp: undefined })],
    ["an end before its start", "malformed", bob, link({ nbf: now() + 10, exp: now() + 5 })],
    ["a jti that is too short", "malformed", bob, link({ jti: "1" })],
    ["a token without a key", "malformed", bob, link({ cnf: undefined })],
    ["a chain that is too large", "malformed", bob, `${link()}~${"x".repeat(8_192)}`],
    ["five links", "too-deep", mallory, chainOf([alice, bob, carol, dave, erin, mallory], audience)],
    ["a life of 91 days", "too-long", bob, link({ exp: now() + 91 * 86_400 })],
    ["a widened scope", "widened", carol, chain([{ scope: "send" }, { scope: "send claim" }])],
    ["another scope", "widened", carol, chain([{ scope: "send" }, { scope: "claim" }])],
    ["more recipients", "widened", carol, chain([{ to: someone }, { to: [...someone, erin.agentId] }])],
    ["anybody behind some", "widened", carol, chain([{ to: someone }, { to: "*" }])],
    ["a later end", "widened", carol, chain([{ exp: now() + 100 }, { exp: now() + 101 }])],
    ["another service", "wrong-audience", bob, link({ aud: "other.example" })],
    ["another service in one link", "wrong-audience", carol, chain([{ aud: "other.example" }, {}])],
    ["what has expired", "expired", bob, link({ iat: now() - 100, exp: now() - 1 })],
    [
      "a first link that has expired",
      "expired",
      carol,
      chain([
        { iat: now() - 9, exp: now() - 1 },
        { iat: now() - 9, exp: now() - 1 },
      ]),
    ],
    ["what is not good yet", "not-yet-valid", bob, link({ nbf: now() + 60 })],
    ["what was made in the future", "not-yet-valid", bob, link({ iat: now() + 60 })],
    ["a circle", "cycle", bob, chainOf([alice, carol, alice, bob], audience)],
    ["a circle back to the caller", "cycle", alice, chainOf([alice, bob, alice], audience)],
    ["a delegation to oneself", "cycle", alice, chainOf([alice, alice], audience)],
    ["a root that names a parent", "broken-chain", bob, link({ prf: digestOf("x") })],
    ["a child without its parent's digest", "broken-chain", carol, chain([{}, { prf: undefined }])],
    ["a child of another parent", "broken-chain", carol, `${link()}~${good[1]}`],
    [
      "a child of somebody else",
      "broken-chain",
      dave,
      `${good[0]}~${tokenOf(carol, claimsOf(carol, dave, audience, { prf: digestOf(good[0]) }))}`,
    ],
    ["links in another order", "broken-chain", carol, good.toReversed().join("~")],
    ["somebody else's delegation", "key-mismatch", carol, link()],
    ["the link before one's own", "key-mismatch", carol, good[0]],
    ["one's own id with another key", "key-mismatch", bob, link({ cnf: { jkt: carol.agentId } })],
    ["an issuer that nobody knows", "untrusted-issuer", bob, tokenOf(mallory, claimsOf(mallory, bob, audience))],
    [
      "a token signed by somebody else",
      "signature",
      bob,
      tokenOf(alice, claimsOf(alice, bob, audience), { signedBy: mallory }),
    ],
    [
      "a token signed by its delegate",
      "signature",
      bob,
      tokenOf(alice, claimsOf(alice, bob, audience), { signedBy: bob }),
    ],
  ];
  test.each(cases)("%s: %s", async (_, rule, presenter, text) => {
    expect(await ruleOf(verifyAs(presenter, text))).toBe(rule);
  });

  test("a child signed with another key than its parent named", async () => {
    const parent = link({ cnf: { jkt: dave.agentId } });
    const child = tokenOf(bob, claimsOf(bob, carol, audience, { exp: now() + 60, prf: digestOf(parent) }));
    expect(await ruleOf(verifyAs(carol, `${parent}~${child}`))).toBe("key-mismatch");
  });

  test.each([0, 1, 2])(
    "a chain whose issuer %s is not active any more, when presented and when looked at again",
    async (n) => {
      const world = newWorld();
      const text = chainOf([alice, bob, carol, dave], audience);
      const held = await verifyAs(dave, text, world);
      await recheckChain(depsOf(world), held);
      const issuer = [alice, bob, carol][n] as Identity;
      world.agents.set(issuer.agentId, { ...agentOf(issuer), status: "suspended" });
      expect(await ruleOf(verifyAs(dave, text, world))).toBe("untrusted-issuer");
      expect(await ruleOf(recheckChain(depsOf(world), held))).toBe("untrusted-issuer");
    },
  );

  test.each([0, 1, 2])("a chain whose link %s is revoked, when presented and when looked at again", async (n) => {
    const world = newWorld();
    const text = chainOf([alice, bob, carol, dave], audience);
    const held = await verifyAs(dave, text, world);
    world.revoked.add(held.links[n]?.tokenId ?? "");
    expect(await ruleOf(verifyAs(dave, text, world))).toBe("revoked");
    expect(await ruleOf(recheckChain(depsOf(world), held))).toBe("revoked");
  });

  test("a chain that was good when it was presented, once its first end has come", async () => {
    const world = newWorld();
    const held = await verifyAs(carol, chain([{}, { exp: now() + 60 }]), world);
    world.nowMs = (now() + 59) * 1000;
    await recheckChain(depsOf(world), held);
    world.nowMs = (now() + 61) * 1000;
    expect(await ruleOf(recheckChain(depsOf(world), held))).toBe("expired");
  });
});

test("whatever the links say: a chain that is taken grants nothing that one of its links does not", async () => {
  const ids = [dave.agentId, erin.agentId, mallory.agentId];
  const claims = fc.record({
    scope: fc.constantFrom("send", "claim", "send claim"),
    to: fc.oneof(fc.constant("*"), fc.subarray(ids, { minLength: 1 })),
    life: fc.integer({ min: 1, max: 3 }),
  });
  let taken = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(claims, { minLength: 1, maxLength: 4 }), async (links) => {
      const iat = now();
      const changes = links.map(({ life, ...rest }) => ({ ...rest, iat, exp: iat + life * 1_000 }));
      const presenter = agents[links.length] as Identity;
      const world = newWorld();
      const text = chainOf(agents.slice(0, links.length + 1), audience, changes);
      const isSubset = links.every((child, n) => {
        const parent = links[n - 1];
        if (parent === undefined) return true;
        const scopes = child.scope.split(" ").every((scope) => parent.scope.split(" ").includes(scope));
        const isWithin = parent.to === "*" || (child.to !== "*" && [...child.to].every((id) => parent.to.includes(id)));
        return scopes && isWithin && child.life <= parent.life;
      });
      const chain = await verifyAs(presenter, text, world).catch((error: unknown) => {
        if (!(error instanceof ApiRefusal)) throw error;
        expect(error.rule).toBe("widened");
        return null;
      });
      expect(chain !== null).toBe(isSubset);
      if (chain === null) return;
      taken++;
      for (const { scope, to, life } of links) {
        expect(scope.split(" ")).toEqual(expect.arrayContaining([...chain.scope]));
        if (to !== "*") expect(to).toEqual(expect.arrayContaining([...chain.to]));
        expect(chain.expiresAt).toBeLessThanOrEqual((iat + life * 1_000) * 1_000);
      }
    }),
    { numRuns: 150 },
  );
  expect(taken).toBeGreaterThan(20);
});
