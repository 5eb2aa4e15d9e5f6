/** API1, API2 and API10, of owners, their agents and the keys that sign for these: whose word is believed, and about whom. */
import { createHmac } from "node:crypto";
import type { RequestListener } from "node:http";
import { expect } from "vitest";
import { discoveredKeys } from "../../api/owners/issuer-keys.ts";
import { oidcIssuer } from "../../api/owners/oidc.ts";
import { ownershipOf } from "../../api/owners/ownership.ts";
import { type OidcProvider, startOidcProvider } from "../oidc-provider.ts";
import { certified } from "../owners.ts";
import { newIdentity } from "../signing.ts";
import { type Attack, onStage, type Stage } from "./attack.ts";
import { issuerKeyBytes, managing, ownerOf, registering, wrongs } from "./owner-tokens.ts";
import type { Ask, Signer } from "./world.ts";

const hmac = (input: Buffer) => createHmac("sha256", issuerKeyBytes).update(input).digest();
const confused = { "alg HS256, with the public key as its secret": { header: { alg: "HS256" }, signature: hmac } };

export const ownerTokenAttacks = {
  "no statement of an owner, another's token, or one under another scheme": async (stage) => {
    const { as: _, ...ask } = stage.example();
    const { opsToken } = stage.world.service.ports;
    await stage.refused(["owner-unknown"], { ...ask, as: null });
    for (const bearer of [opsToken ?? "", "x", "a.b.c", "e30.e30.", `${managing("team-1")}x`]) {
      await stage.refused(["owner-unknown"], { ...ask, as: { bearer } }, {}, bearer);
    }
    for (const authorization of [managing("team-1"), `Basic ${btoa(`team-1:${managing("team-1")}`)}`, "Bearer "]) {
      await stage.refused(["owner-unknown"], { ...ask, as: null, headers: { authorization } }, {}, authorization);
    }
  },
  "statements that do not hold: key, algorithm, type, audience, issuer, time": async (stage) => {
    for (const [what, wrong] of Object.entries({ ...wrongs(), ...confused })) {
      await stage.refused(
        ["owner-unknown"],
        { ...stage.example(), as: { bearer: managing("team-1", wrong) } },
        {},
        what,
      );
    }
  },
  "a statement that was made for a registration": async (stage) => {
    const { keyid } = stage.world.caller;
    const bound = { claims: { cnf: { jkt: keyid } } };
    for (const bearer of [
      registering("team-1", keyid),
      managing("team-1", bound),
      managing("team-1", { claims: { purpose: "register" } }),
    ]) {
      await stage.refused(["owner-unknown"], { ...stage.example(), as: { bearer } });
    }
  },
} satisfies Record<string, Attack>;

export const ownerStatementAttacks = {
  "an owner's statement that does not hold, or is for another key": async (stage) => {
    const ask = stage.example();
    const { keyid } = ask.as as Signer;
    const made = Object.entries({ ...wrongs(), ...confused }).map(([, wrong]) => registering("team-1", keyid, wrong));
    const others = [managing("team-1"), registering("team-1", stage.world.caller.keyid), "x", "a.b.c"];
    for (const owner_statement of [...made, ...others]) {
      const body = { ...(ask.body as object), owner_statement };
      await stage.refused(["owner-statement-invalid", "malformed"], { ...ask, body }, {}, owner_statement);
    }
  },
  "an agent of another owner is claimed": async (stage) => {
    const { caller } = stage.world;
    const own = Buffer.from(caller.identity.signing.publicKey).toString("base64url");
    const body = { identity_key: own, owner_statement: registering("team-2", caller.keyid) };
    await stage.refused(["owner-mismatch"], { ...stage.example(), as: caller, body });
  },
} satisfies Record<string, Attack>;

export const ownedAgentAttacks = {
  "an agent of another owner, or of none": async (stage) => {
    const { caller, victim, third } = stage.world;
    for (const { keyid } of [victim, third, { keyid: newIdentity().agentId }]) {
      const ask = stage.example();
      await stage.refused(["no-such-agent"], { ...ask, path: ask.path.replace(caller.keyid, keyid) });
    }
    // The subject is the owner only together with its issuer.
    expect(stage.world.service.ports.owned.owners.get(caller.keyid)).toEqual(ownerOf("team-1"));
  },
  "a revoked agent is brought back": async (stage) => {
    const { service, caller } = stage.world;
    const ask = stage.example();
    const agent = service.ports.agents.get(caller.keyid);
    if (agent === undefined) throw new Error("the caller is registered");
    service.ports.agents.set(caller.keyid, { ...agent, status: "revoked" });
    await stage.refused(["agent-revoked"], ask);
  },
  "agents of other owners in the list": async (stage) => {
    const { caller, victim, third } = stage.world;
    const { text } = await stage.ask(stage.example());
    expect(text).toContain(caller.keyid);
    for (const { keyid } of [victim, third]) expect(text).not.toContain(keyid);
    for (const name of ["owner_subject", "owner_issuer", "owner"]) {
      const ask = stage.example();
      await stage.refused(["malformed"], { ...ask, path: `${ask.path}&${name}=team-2` });
    }
  },
} satisfies Record<string, Attack>;

/** A call that a key of the caller's signs. */
function by(ask: Ask, identity: ReturnType<typeof newIdentity>): Ask {
  return { ...ask, as: { identity, keyid: identity.agentId } };
}

function addKey({ world }: Stage, agentId: string, changes: { notAfter?: number; removed?: boolean } = {}) {
  const worker = newIdentity();
  const times = { notAfter: Date.now() + 3_600_000, createdAt: 1, removed: false, ...changes };
  const { publicKey } = worker.signing;
  world.service.ports.owned.signingKeys.set(worker.agentId, { keyId: worker.agentId, agentId, publicKey, ...times });
  return worker;
}

export const signingKeyAttacks = {
  "a signing key that has ended or was removed, or under the agent's own id": async (stage) => {
    const ask = stage.example();
    if (ask.as === null || !("identity" in ask.as)) throw new Error("this attack is for signed calls");
    const { keyid } = ask.as;
    const codes = ["agent-unknown", "signing-key-ended"];
    await stage.refused(codes, by(ask, addKey(stage, keyid, { notAfter: Date.now() - 1 })), {}, "ended");
    await stage.refused(codes, by(ask, addKey(stage, keyid, { removed: true })), {}, "removed");
    const worker = addKey(stage, keyid);
    await stage.refused(["signature-invalid"], { ...ask, as: { identity: worker, keyid } }, {}, "the agent's own id");
    const { agents } = stage.world.service.ports;
    const agent = agents.get(keyid);
    if (agent === undefined) throw new Error("the caller is registered");
    agents.set(keyid, { ...agent, status: "suspended" });
    await stage.refused(["agent-suspended"], by(ask, worker), {}, "of a suspended agent");
    agents.set(keyid, agent);
    // In force it signs for its agent: it is for nothing else that the others are refused.
    const taken = await stage.ask(by(ask, worker));
    expect(taken.status, taken.text).toBeLessThan(300);
  },
} satisfies Record<string, Attack>;

export const keyObjectAttacks = {
  "a certificate of another agent, of another key, or none": async (stage) => {
    const { caller, victim } = stage.world;
    const ask = stage.example();
    const worker = newIdentity();
    const path = `/messaging/signing-keys/${worker.agentId}`;
    const right = certified(caller.identity, worker);
    const [foreign, other] = [certified(victim.identity, worker), certified(caller.identity, newIdentity())];
    const mixed = { ...right, certificate: certified(victim.identity, worker, { agentId: caller.keyid }).certificate };
    const later = { ...right, not_after: new Date(Date.now() + 7_200_000).toISOString() };
    for (const body of [foreign, other, mixed, later, { ...right, proof: right.certificate }]) {
      await stage.refused(["signing-key-invalid"], { ...ask, path, body });
    }
    const body = {
      ...certified(caller.identity, worker),
      public_key: certified(caller.identity, victim.identity).public_key,
    };
    await stage.refused(["signing-key-invalid"], { ...ask, path: `/messaging/signing-keys/${victim.keyid}`, body });
  },
  "a key that another agent has": async (stage) => {
    const { caller, victim } = stage.world;
    const worker = addKey(stage, victim.keyid);
    const path = `/messaging/signing-keys/${worker.agentId}`;
    await stage.refused(["signing-key-taken"], { ...stage.example(), path, body: certified(caller.identity, worker) });
  },
  "a signing key of another agent is removed": async (stage) => {
    const worker = addKey(stage, stage.world.victim.keyid);
    const before = stage.world.state();
    const { json } = await stage.ask({ ...stage.example(), path: `/messaging/signing-keys/${worker.agentId}` });
    expect(json.removed).toBe(false);
    expect(stage.world.state()).toEqual(before);
    stage.world.judged += 1;
  },
  "a signing key certifies another": async (stage) => {
    const { caller } = stage.world;
    const [worker, next] = [addKey(stage, caller.keyid), newIdentity()];
    const path = `/messaging/signing-keys/${next.agentId}`;
    const body = certified(worker, next, { agentId: caller.keyid });
    await stage.refused(["signing-key-invalid"], { ...by(stage.example(), worker), path, body });
  },
} satisfies Record<string, Attack>;

const json =
  (value: unknown): RequestListener =>
  (_, response) =>
    void response.end(JSON.stringify(value));
const configuration = "/.well-known/openid-configuration";

/** What a provider may answer instead, by path. */
function nonsense({ issuer }: OidcProvider): readonly (readonly [path: string, RequestListener])[] {
  return [
    [configuration, (_, response) => void response.end("<html>")],
    [configuration, (_, response) => void response.writeHead(500).end("{}")],
    [configuration, json(null)],
    [configuration, json({ issuer: "https://evil.example", jwks_uri: `${issuer}/keys` })],
    [configuration, json({ issuer, jwks_uri: "http://169.254.169.254/latest/meta-data" })],
    [configuration, json({ issuer, jwks_uri: "file:///etc/passwd" })],
    [configuration, json({ issuer, jwks_uri: ["x"] })],
    [configuration, (_, response) => void response.writeHead(302, { location: "https://evil.example/" }).end()],
    ["/keys", (_, response) => void response.writeHead(302, { location: `${issuer}/other` }).end()],
    ["/keys", json({ keys: "x" })],
    ["/keys", json([])],
    ["/keys", (_, response) => void response.end("x".repeat(300 * 1024))],
    ["/keys", (_, response) => void response.destroy()],
  ];
}

export const providerAttacks = {
  "its provider answers nonsense, redirects, or points into the network": async (stage) => {
    const provider = await startOidcProvider();
    try {
      const scopes = { register: "register", manage: "manage" };
      const options = { audience: "https://sealpost.example", algorithms: ["RS256"] as const, scopes };
      const token = await provider.token("team-1", options.audience, "register manage");
      for (const [path, listener] of nonsense(provider)) {
        provider.instead.clear();
        provider.instead.set(path, listener);
        const issuer = oidcIssuer(provider.issuer, options, discoveredKeys(provider.issuer));
        const ownership = ownershipOf({ registration: "owned", issuers: [issuer] });
        await onStage(
          stage.target,
          async (with_) => {
            const ask = with_.example();
            const shown =
              stage.target.route.signedBy === "owner"
                ? { ...ask, as: { bearer: token } }
                : { ...ask, body: { ...(ask.body as object), owner_statement: token } };
            await with_.refused(["unavailable"], shown, {}, path);
            expect(with_.world.service.ports.bugs).toEqual([]);
            stage.world.judged += 1;
          },
          { ownership },
        );
      }
      expect(provider.asked.get("/other")).toBeUndefined();
    } finally {
      provider.close();
    }
  },
} satisfies Record<string, Attack>;
