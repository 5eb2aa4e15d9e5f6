import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { decodeBase64Url } from "../protocol/base64url.ts";
import { type Identity, identityFromSeed } from "../protocol/identity.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { Agent } from "../sdk/agent.ts";
import { agentChanged } from "../streams/catalogue.ts";
import { consumerParts, eventually, type House, openHouse, operatorsUrlOf, takeTexts } from "./house.ts";
import { read } from "./in-memory-service.ts";
import { type OidcProvider, startOidcProvider } from "./oidc-provider.ts";
import { call } from "./signing.ts";
import { openClient } from "./stream-client.ts";

const ENTRY = path.join(import.meta.dirname, "..", "bin", "sealpost.ts");
const audience = "https://sealpost.example";
const opsToken = "a-token-of-the-operators-0123456789";

/** The promise, and a second for the way. */
const EFFECT_MS_MAX = 6_000;

let house: House;
let provider: OidcProvider;
let url: string;
let opsUrl: string;
let ownerKey: string;

beforeAll(async () => {
  house = await openHouse();
  provider = await startOidcProvider();
  ownerKey = path.join(house.folder, "owner.jwk");
  const jwks = JSON.parse((await sealpost(["owner", "keygen", ownerKey])).out);
  const file = path.join(house.folder, "owners.json");
  const issuers = [
    { kind: "statements", issuer: "acme", jwks },
    { kind: "oidc", issuer: provider.issuer, algorithms: ["RS256"] },
  ];
  writeFileSync(file, JSON.stringify({ audience, issuers }));
  const env = {
    SEALPOST_REGISTRATION: "owned",
    SEALPOST_OWNERS_FILE: file,
    SEALPOST_OPS_TOKEN: opsToken,
    SEALPOST_OPS_HTTP_PORT: "0",
  };
  const api = await house.start({ roles: ["api"], prepare: true, env });
  [url, opsUrl] = [api.url, operatorsUrlOf(api)];
  await house.start({ roles: consumerParts });
});

afterAll(async () => {
  provider?.close();
  await house?.close();
});

async function sealpost(args: readonly string[], stdin = "") {
  const env = { PATH: path.dirname(process.execPath), NO_COLOR: "1", SEALPOST_OPS_TOKEN: opsToken };
  const child = spawn(process.execPath, [ENTRY, ...args], { env, stdio: "pipe", timeout: 60_000 });
  child.stdin.end(stdin);
  const [[code], out, err] = await Promise.all([once(child, "exit"), text(child.stdout), text(child.stderr)]);
  return { code: code as number | null, out, err };
}

const storeOf = (name: string) => path.join(house.folder, `${name}.db`);

async function statement(subject: string, ...what: readonly string[]): Promise<string> {
  const facts = ["--issuer", "acme", "--subject", subject, "--audience", audience];
  const { code, out, err } = await sealpost(["owner", "statement", ownerKey, ...facts, ...what]);
  expect([code, err]).toEqual([0, ""]);
  return out.trim();
}

/** The changes of an agent, in their order, with who made them and why. */
async function changesOf(agentId: string) {
  const records = await house.read(agentChanged);
  return records
    .filter(({ decoded }) => decoded.agentId === agentId)
    .map(({ decoded: { change, actor, reason, keyId } }) => ({ change, actor, reason, keyId }));
}

test("an agent with a statement and one with a provider's token register, and talk; without either nobody does", async () => {
  const store = ["--store", storeOf("alice")];
  const without = await sealpost(["register", "--url", url, ...store]);
  expect(without.code).toBe(1);
  expect(without.err).toContain("owner-statement-missing (/owner_statement)");

  const keyId = (await sealpost(["register", "--key-id", ...store])).out.trim();
  const foreign = await statement("team-7", "--agent", "A".repeat(43));
  const refused = await sealpost(["register", "--url", url, ...store, "--owner-statement", "-"], foreign);
  expect([refused.code, refused.err]).toEqual([1, expect.stringContaining("owner-statement-invalid")]);
  const own = await statement("team-7", "--agent", keyId);
  const registered = await sealpost(["register", "--url", url, ...store, "--owner-statement", "-", "--json"], own);
  expect([registered.code, JSON.parse(registered.out).agent_id]).toEqual([0, keyId]);

  const asked: string[] = [];
  const bob = await Agent.open({
    ...{ url, storePath: storeOf("bob"), custody: "server" },
    ownerStatement: (id) => {
      asked.push(id);
      return provider.token("user-9", audience, "openid sealpost:register");
    },
  });
  const alice = await Agent.open({ url, storePath: storeOf("alice") });
  expect(asked).toHaveLength(1);
  const sent = await alice.send(bob.id, "Who answers for you?");
  expect(await takeTexts(bob, 1)).toEqual(["Who answers for you?"]);
  await sent.acknowledged();
  await Promise.all([alice.close(), bob.close()]);

  const registeredAs = (actor: string) => [{ change: "registered", actor, reason: null, keyId: null }];
  for (const { id } of [alice, bob]) await eventually("both facts", async () => (await changesOf(id)).length > 0);
  expect(await changesOf(alice.id)).toEqual(registeredAs("owner:acme#team-7"));
  expect(await changesOf(bob.id)).toEqual(registeredAs(`owner:${provider.issuer}#user-9`));
});

test("a signing key acts for the agent, on the stream too, until it is removed", async () => {
  const store = ["--store", storeOf("alice")];
  const file = path.join(house.folder, "worker.jwk");
  const added = await sealpost(["signing-key", "add", file, "--days", "1", ...store, "--json"]);
  expect([added.code, added.err]).toEqual([0, ""]);
  const worker = workerOf(file);
  expect(JSON.parse(added.out)).toMatchObject({ key_id: worker.agentId, file });
  expect((await sealpost(["signing-key", "list", ...store])).out).toContain(worker.agentId);

  const ask = () => call(worker, { method: "GET", url: `${url}/messaging/prekeys` }).then(read);
  const aliceId = (await sealpost(["id", ...store])).out.trim();
  expect((await ask()).json.agent_id).toBe(aliceId);
  const stream = await openClient(`${url}/messaging/stream`, worker);
  const again = await sealpost(["signing-key", "add", file, ...store]);
  expect([again.code, again.err]).toEqual([1, expect.stringContaining("is there already")]);

  const since = performance.now();
  const removed = await sealpost(["signing-key", "remove", worker.agentId, ...store, "--json"]);
  expect(JSON.parse(removed.out)).toEqual({ key_id: worker.agentId, removed: true });
  expect(await stream.closed).toBe(4401);
  await eventually("the key is refused", async () => (await ask()).problem.code === "signing-key-ended", EFFECT_MS_MAX);
  expect(performance.now() - since).toBeLessThan(2 * EFFECT_MS_MAX);
  await eventually("both facts", async () => (await changesOf(aliceId)).length === 3);
  expect((await changesOf(aliceId)).slice(1)).toMatchObject([
    { change: "signing-key-added", keyId: worker.agentId },
    { change: "signing-key-removed", keyId: worker.agentId },
  ]);
});

function workerOf(file: string): Identity {
  const { d } = JSON.parse(readFileSync(file, "utf8"));
  return identityFromSeed(nodePrimitives, decodeBase64Url(d) as Uint8Array);
}

test("an SDK that is given a signing key makes its calls with it", async () => {
  const file = path.join(house.folder, "worker-2.jwk");
  await sealpost(["signing-key", "add", file, "--store", storeOf("alice")]);
  const { signing, agentId: keyId } = workerOf(file);
  const alice = await Agent.open({ storePath: storeOf("alice"), signingKey: signing.privateKey });
  expect(alice.keyId).toBe(keyId);
  await alice.connected();
  const sent = await alice.send((await bobId()) as string, "by another key");
  expect(sent.recipientId).toBe(await bobId());
  await alice.close();
  // The store is free again, so its own key can take the other one away.
  expect((await sealpost(["signing-key", "remove", keyId, "--store", storeOf("alice")])).code).toBe(0);
  await new Promise((resolve) => setTimeout(resolve, EFFECT_MS_MAX));
  const late = await Agent.open({ storePath: storeOf("alice"), signingKey: signing.privateKey });
  await expect(late.connected()).rejects.toMatchObject({ code: "signing-key-ended" });
  await late.close();
});

async function bobId(): Promise<string | undefined> {
  return (await sealpost(["id", "--store", storeOf("bob")])).out.trim();
}

test("an owner suspends its agent, whose stream closes, resumes and revokes it; nobody else's is there for it", async () => {
  const alice = await Agent.open({ storePath: storeOf("alice") });
  await alice.connected();
  const manage = await statement("team-7", "--manage");
  const decide = async (verb: string, id: string, token = manage) =>
    sealpost(["owner", "agents", verb, id, "--reason", `to ${verb}`, "--token", "-", "--url", url], token);

  const list = await sealpost(["owner", "agents", "list", "--token", "-", "--url", url, "--json"], manage);
  expect(JSON.parse(list.out).agents).toMatchObject([{ agent_id: alice.id, status: "active" }]);
  const stranger = await decide("suspend", alice.id, await provider.token("user-9", audience, "sealpost:manage"));
  expect([stranger.code, stranger.err]).toEqual([1, expect.stringContaining("no-such-agent")]);
  const unscoped = await decide("suspend", alice.id, await provider.token("user-9", audience, "sealpost:register"));
  expect(unscoped.err).toContain("owner-unknown");

  const stopped = (async () => {
    for await (const _ of alice.inbox()) expect.fail("there is no mail");
  })().catch((error: { code: string }) => error.code);
  const since = performance.now();
  expect((await decide("suspend", alice.id)).out).toContain(`${alice.id} suspended`);
  expect(await stopped).toBe("agent-suspended");
  expect(performance.now() - since).toBeLessThan(2 * EFFECT_MS_MAX);
  await alice.close();

  expect((await decide("resume", alice.id)).code).toBe(0);
  const bob = await Agent.open({ storePath: storeOf("bob") });
  // What is cached of an agent is seen by all within five seconds.
  await new Promise((resolve) => setTimeout(resolve, EFFECT_MS_MAX));
  const back = await Agent.open({ storePath: storeOf("alice") });
  await back.connected();
  await bob.send(back.id, "welcome back");
  expect(await takeTexts(back, 1)).toEqual(["welcome back"]);
  await Promise.all([back.close(), bob.close()]);

  expect((await decide("revoke", alice.id)).code).toBe(0);
  const gone = await decide("resume", alice.id);
  expect([gone.code, gone.err]).toEqual([1, expect.stringContaining("agent-revoked")]);
  const byOperator = ["ops", "agents", "resume", alice.id, "--reason", "please", "--url", opsUrl];
  expect((await sealpost(byOperator)).err).toContain("agent-revoked");
  await eventually("all facts", async () => (await changesOf(alice.id)).length === 8);
  expect((await changesOf(alice.id)).slice(5)).toEqual(
    [
      ["suspended", "to suspend"],
      ["resumed", "to resume"],
      ["revoked", "to revoke"],
    ].map(([change, reason]) => ({ change, actor: "owner:acme#team-7", reason, keyId: null })),
  );
});

test("an operator suspends any agent, and sees whose it is", async () => {
  const id = (await bobId()) as string;
  const done = await sealpost(["ops", "agents", "suspend", id, "--reason", "case 1", "--url", opsUrl]);
  expect(done.out).toContain(`of user-9 (${provider.issuer})`);
  const listed = await sealpost(["ops", "agents", "list", "--status", "suspended", "--url", opsUrl, "--json"]);
  expect(JSON.parse(listed.out).agents).toMatchObject([{ agent_id: id, custody: "server", status: "suspended" }]);
  await eventually("the fact", async () => (await changesOf(id)).length === 2);
  expect((await changesOf(id))[1]).toMatchObject({ change: "suspended", actor: "operator", reason: "case 1" });
});
