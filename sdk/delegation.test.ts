import { expect, test } from "vitest";
import { verifyChain } from "../api/authz/delegation.ts";
import type { Identity } from "../protocol/identity.ts";
import { newIdentity } from "../tests/signing.ts";
import { type DelegationOptions, keyIdOf, makeDelegation, readDelegation } from "./delegation.ts";

const audience = "sealpost.example";
const [alice, bob, carol, dave, erin] = [newIdentity(), newIdentity(), newIdentity(), newIdentity(), newIdentity()];
const agents = [alice, bob, carol, dave, erin];

function verifyAs({ agentId, signing }: Identity, chain: string, keys = new Map<string, Uint8Array>()) {
  const deps = {
    findAgents: async (ids: readonly string[]) =>
      new Map(
        agents
          .filter(({ agentId: id }) => ids.includes(id))
          .map(({ agentId: id, signing: { publicKey: identityKey } }) => {
            const accessKey = keys.get(id) ?? null;
            const custody = accessKey === null ? ("agent" as const) : ("server" as const);
            return [id, { agentId: id, identityKey, custody, accessKey, status: "active" as const, createdAt: 0 }];
          }),
      ),
    findRevoked: async () => false,
    now: Date.now,
  };
  return verifyChain(deps, chain, { agentId, signingKey: keys.get(agentId) ?? signing.publicKey, audience });
}

const delegate = (from: Identity, to: Identity, options: Partial<DelegationOptions> = {}) =>
  makeDelegation(from, audience, { to: to.agentId, recipients: "*", lifeMs: 60_000, ...options });

/** Each link narrower than the one before. */
async function deepest(): Promise<string> {
  let under: string | undefined;
  for (const [n, from] of agents.slice(0, 4).entries()) {
    const options = n < 2 ? {} : { recipients: [dave.agentId], scope: ["send"] as const };
    const made = await delegate(from, agents[n + 1] as Identity, {
      ...{ ...options, lifeMs: 60_000 - n * 1_000 },
      ...(under === undefined ? {} : { under }),
    });
    under = made.chain;
  }
  return under ?? "";
}

test("the service takes what is made here, as deep as it may be, and reads the same in it", async () => {
  const chain = await deepest();
  const links = readDelegation(chain);
  expect(await verifyAs(erin, chain)).toEqual({
    links: links.map(({ iss, jti }) => ({ issuerId: iss, tokenId: jti })),
    principalId: alice.agentId,
    scope: ["send"],
    to: [dave.agentId],
    expiresAt: (links[3]?.exp ?? 0) * 1_000,
  });
});

test("what is told of a new link is what stands in it", async () => {
  const { chain, tokenId, expiresAt } = await delegate(alice, bob);
  expect(readDelegation(chain)).toMatchObject([{ jti: tokenId, exp: expiresAt / 1_000, scope: ["send", "claim"] }]);
  expect(expiresAt - Date.now()).toBeLessThanOrEqual(60_000);
});

test("agents whose keys the service holds delegate and act with the key that signs their calls", async () => {
  const [aliceAccess, bobAccess] = [newIdentity(), newIdentity()];
  const keys = new Map([alice, bob].map((agent, n) => [agent.agentId, [aliceAccess, bobAccess][n]?.signing.publicKey]));
  const { chain } = await makeDelegation({ agentId: alice.agentId, signing: aliceAccess.signing }, audience, {
    ...{ to: bob.agentId, keyId: keyIdOf(bobAccess), recipients: "*", lifeMs: 60_000 },
  });
  expect((await verifyAs(bob, chain, keys as Map<string, Uint8Array>)).principalId).toBe(alice.agentId);
  const me = { agentId: bob.agentId, signing: bobAccess.signing };
  const child = await makeDelegation(me, audience, {
    ...{ to: carol.agentId, recipients: "*", lifeMs: 1_000, under: chain },
  });
  expect((await verifyAs(carol, child.chain, keys as Map<string, Uint8Array>)).principalId).toBe(alice.agentId);
});

test.each<[string, string, () => Promise<unknown>]>([
  [
    "more recipients",
    "refused",
    async () => delegate(bob, carol, { under: await narrow(), recipients: "*", scope: ["send"] }),
  ],
  ["a wider scope", "refused", async () => delegate(bob, carol, { under: await narrow(), recipients: [dave.agentId] })],
  [
    "a later end",
    "refused",
    async () => delegate(bob, carol, { under: (await delegate(alice, bob)).chain, lifeMs: 90_000 }),
  ],
  [
    "somebody else's chain",
    "refused",
    async () => delegate(carol, dave, { under: (await delegate(alice, bob)).chain }),
  ],
  [
    "a chain of another key",
    "refused",
    async () => delegate(bob, carol, { under: (await delegate(alice, bob, { keyId: dave.agentId })).chain }),
  ],
  ["a fifth link", "refused", async () => delegate(erin, bob, { under: await deepest() })],
  ["91 days", "malformed", () => delegate(alice, bob, { lifeMs: 91 * 86_400_000 })],
  ["no time at all", "malformed", () => delegate(alice, bob, { lifeMs: 0 })],
  ["oneself", "malformed", () => delegate(alice, alice)],
  [
    "a delegate that is none",
    "malformed",
    () => makeDelegation(alice, audience, { to: "bob", recipients: "*", lifeMs: 1_000 }),
  ],
  ["no recipient", "malformed", () => delegate(alice, bob, { recipients: [] })],
  ["no scope", "malformed", () => delegate(alice, bob, { scope: [] })],
  ["what is no chain", "malformed", () => delegate(alice, bob, { under: "nonsense" })],
])("nothing is signed that would be refused: %s", async (_, kind, make) => {
  await expect(make()).rejects.toMatchObject({ code: `delegation-${kind}` });
});

async function narrow(): Promise<string> {
  return (await delegate(alice, bob, { recipients: [dave.agentId], scope: ["send"] })).chain;
}
