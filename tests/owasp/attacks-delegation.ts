/** API2, of calls that present a chain of delegation: every signed call reads the header, so each refuses every chain that does not hold. */
import { createHmac, randomUUID } from "node:crypto";
import { expect } from "vitest";
import { CHAIN_LENGTH_MAX, CHAIN_LINKS_MAX, type DelegationRule } from "../../protocol/delegation.ts";
import type { Identity } from "../../protocol/identity.ts";
import { type Changes, chainOf, claimsOf, digestOf, HEADER, tokenOf } from "../delegations.ts";
import { addAgent } from "../in-memory-service.ts";
import { newIdentity } from "../signing.ts";
import type { Attack, Stage } from "./attack.ts";
import type { Ask, Signer } from "./world.ts";

interface Scene {
  /** The call, presenting a chain. */
  presenting(chain: string): Ask;
  /** Claims of a link to the caller that are right. */
  leaf(changes?: Changes): Changes;
  readonly audience: string;
  readonly root: Identity;
  readonly caller: Signer;
}

function sceneOf(stage: Stage): Scene {
  const example = stage.example();
  const { as } = example;
  if (as === null || !("identity" in as)) throw new Error("this attack is for signed calls");
  return {
    presenting: (chain) => ({ ...example, headers: { "sealpost-delegation": chain } }),
    // Of an agent whose keys the service holds the key is the one that signs, and not the one it is named after.
    leaf: (changes = {}) => ({ sub: as.keyid, cnf: { jkt: as.identity.agentId }, ...changes }),
    audience: stage.world.audienceOf(stage.target.port),
    root: stage.world.victim.identity,
    caller: as,
  };
}

/** The chain from the victim to the caller, with these changes. */
function single({ root, caller, audience, leaf }: Scene, changes: Changes = {}): string {
  return chainOf([root, caller.identity], audience, [leaf(changes)]);
}

async function refuses(stage: Stage, { presenting }: Scene, rule: DelegationRule, chain: string): Promise<void> {
  const { json } = await stage.refused(["delegation-refused"], presenting(chain), {}, rule);
  expect([json.status, json.rule]).toEqual([403, rule]);
}

const now = () => Math.floor(Date.now() / 1000);

export const delegationAttacks = {
  "an expired chain, and one that is not valid yet or for too long": async (stage) => {
    const scene = sceneOf(stage);
    await refuses(stage, scene, "expired", single(scene, { iat: now() - 600, exp: now() - 60 }));
    await refuses(stage, scene, "not-yet-valid", single(scene, { iat: now() + 60 }));
    await refuses(stage, scene, "not-yet-valid", single(scene, { nbf: now() + 60 }));
    await refuses(stage, scene, "too-long", single(scene, { exp: now() + 91 * 24 * 3_600 }));
  },
  "a chain for another audience": async (stage) => {
    const scene = sceneOf(stage);
    for (const aud of ["elsewhere.example", `x${scene.audience}`, `https://${scene.audience}`]) {
      await refuses(stage, scene, "wrong-audience", single(scene, { aud }));
    }
  },
  "a chain whose leaf is another's": async (stage) => {
    const scene = sceneOf(stage);
    const { third } = stage.world;
    await refuses(stage, scene, "key-mismatch", single(scene, { sub: third.keyid }));
    await refuses(stage, scene, "key-mismatch", single(scene, { cnf: { jkt: third.keyid } }));
    await refuses(stage, scene, "key-mismatch", chainOf([scene.root, third.identity], scene.audience));
  },
  "a widened chain: more scope, more recipients, a longer life": async (stage) => {
    const scene = sceneOf(stage);
    const { third, victim } = stage.world;
    const widened = (parent: Changes, child: Changes) =>
      chainOf([scene.root, third.identity, scene.caller.identity], scene.audience, [parent, scene.leaf(child)]);
    await refuses(stage, scene, "widened", widened({ scope: "claim" }, { scope: "send claim" }));
    await refuses(stage, scene, "widened", widened({ scope: "send" }, { scope: "claim" }));
    await refuses(stage, scene, "widened", widened({ to: [victim.keyid] }, { to: "*" }));
    await refuses(stage, scene, "widened", widened({ to: [victim.keyid] }, { to: [victim.keyid, third.keyid] }));
    await refuses(stage, scene, "widened", widened({ exp: now() + 60 }, { exp: now() + 120 }));
  },
  "a chain that is too deep, or goes in a circle": async (stage) => {
    const scene = sceneOf(stage);
    const between = Array.from({ length: CHAIN_LINKS_MAX }, () => newIdentity());
    for (const agent of between) addAgent(stage.world.service.ports, agent);
    const last = Array.from({ length: CHAIN_LINKS_MAX }, () => ({}));
    const deep = chainOf([scene.root, ...between, scene.caller.identity], scene.audience, [...last, scene.leaf()]);
    await refuses(stage, scene, "too-deep", deep);
    const { third } = stage.world;
    const round = [scene.root, third.identity, scene.root, scene.caller.identity];
    await refuses(stage, scene, "cycle", chainOf(round, scene.audience, [{}, {}, scene.leaf()]));
  },
  "a revoked chain, and one of an issuer who is suspended or unknown": async (stage) => {
    const scene = sceneOf(stage);
    const { ports } = stage.world.service;
    const jti = randomUUID();
    const revoke = { method: "POST", path: `/messaging/delegations/${jti}/revoke`, as: stage.world.victim };
    expect((await stage.ask(revoke)).status).toBe(200);
    await refuses(stage, scene, "revoked", single(scene, { jti }));
    for (const issuer of [newIdentity(), newIdentity()]) {
      await refuses(stage, scene, "untrusted-issuer", single({ ...scene, root: issuer }));
      addAgent(ports, issuer, "suspended");
      await refuses(stage, scene, "untrusted-issuer", single({ ...scene, root: issuer }));
    }
  },
  "a chain of other algorithms: none, an HMAC of the public key, RSA": async (stage) => {
    const scene = sceneOf(stage);
    const claims = claimsOf(scene.root, scene.caller.identity, scene.audience, scene.leaf());
    const { publicKey } = scene.root.signing;
    const hmac = (input: Buffer) => createHmac("sha256", publicKey).update(input).digest();
    for (const alg of ["none", "None", "HS256", "RS256", "ES256", "Ed25519", "eddsa"]) {
      for (const signature of [hmac, () => new Uint8Array()]) {
        const chain = tokenOf(scene.root, claims, { header: { ...HEADER, alg }, signature });
        await refuses(stage, scene, "algorithm", chain);
      }
    }
    await refuses(stage, scene, "signature", tokenOf(scene.root, claims, { signature: hmac }));
  },
  "a chain with a substituted key: signed by another, or with a key in its header": async (stage) => {
    const scene = sceneOf(stage);
    const { caller, root, audience } = scene;
    const claims = claimsOf(root, caller.identity, audience, scene.leaf());
    for (const signedBy of [caller.identity, newIdentity()]) {
      await refuses(stage, scene, "signature", tokenOf(root, claims, { signedBy }));
      const x = Buffer.from(signedBy.signing.publicKey).toString("base64url");
      for (const key of [
        { jwk: { kty: "OKP", crv: "Ed25519", x } },
        { kid: "../../etc/passwd" },
        { jku: "https://a.example/" },
      ]) {
        const chain = tokenOf(root, claims, { signedBy, header: { ...HEADER, ...key } });
        await refuses(stage, scene, "malformed", chain);
      }
    }
  },
  "links that do not belong together, or are no chain at all": async (stage) => {
    const scene = sceneOf(stage);
    const { third } = stage.world;
    const [first, second] = chainOf([scene.root, third.identity, scene.caller.identity], scene.audience, [
      {},
      scene.leaf(),
    ]).split("~") as [string, string];
    await refuses(stage, scene, "broken-chain", second);
    await refuses(stage, scene, "broken-chain", `${second}~${first}`);
    const prf = digestOf("another token");
    const spliced = chainOf([third.identity, scene.caller.identity], scene.audience, [scene.leaf({ prf })]);
    await refuses(stage, scene, "broken-chain", `${first}~${spliced}`);
    for (const text of ["x", "~", `${first}~`, `${first},${second}`, "a.b.c", "x".repeat(CHAIN_LENGTH_MAX - 100)]) {
      await refuses(stage, scene, "malformed", text);
    }
  },
  "a chain that the signature does not cover": async (stage) => {
    const scene = sceneOf(stage);
    const ask = scene.presenting(single(scene));
    const components = ["@method", "@authority", "@path", "@query"];
    const covered = ask.body === undefined ? components : [...components, "content-digest"];
    const { json } = await stage.refused(["signature-invalid"], ask, { components: covered });
    expect(json.field).toBe("sealpost-delegation");
    // Covered it is taken: it is for nothing else that the others are refused.
    const taken = await stage.ask(ask);
    expect(taken.status, taken.text).toBeLessThan(300);
  },
} satisfies Record<string, Attack>;
