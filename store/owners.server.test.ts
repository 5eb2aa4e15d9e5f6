import { randomBytes, randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openSampleDatabase, sampleAgentId } from "../tests/messaging.ts";
import { changeStatus, claimAgent, listAgents, type MakeAgentFact, type Owner } from "./agent-status.ts";
import { findAgents, findInactive, registerAgent } from "./agents.ts";
import type { Postgres } from "./postgres.ts";
import {
  findEndedKeys,
  findSigningKey,
  listSigningKeys,
  putSigningKey,
  removeSigningKey,
  signingKeysMax,
} from "./signing-keys.ts";

const now = 1_800_000_000_000;
const day = 86_400_000;

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

const told: Parameters<MakeAgentFact>[0][] = [];
const makeFact: MakeAgentFact = (changed) => {
  told.push(changed);
  return { id: randomUUID(), topic: "agent.changed.v1", key: changed.agentId, value: Uint8Array.of(1), headers: {} };
};

function someOwner(subject: string = randomUUID()): Owner {
  return { issuer: "https://acme.example", subject };
}

async function agentOf(owner: Owner | null): Promise<string> {
  const agentId = sampleAgentId();
  const fact = { id: randomUUID(), topic: "agent.changed.v1", key: agentId, value: Uint8Array.of(1), headers: {} };
  await registerAgent(postgres, { agentId, identityKey: randomBytes(32), custody: "agent", owner, now, fact });
  return agentId;
}

async function factCount(agentId: string): Promise<number> {
  const { rowCount } = await postgres.query({ text: "SELECT FROM facts WHERE key = $1", values: [agentId] });
  return rowCount ?? 0;
}

const decision = { actor: "operator", reason: "because" } as const;

test("an agent keeps the owner it was registered with; one without an owner gets the first, once", async () => {
  const [first, second] = [someOwner(), someOwner()];
  const [owned, free] = [await agentOf(first), await agentOf(null)];
  await claimAgent(postgres, makeFact, { agentId: owned, owner: first, actor: "a" }, now);
  expect(await factCount(owned)).toBe(1);
  const other = claimAgent(postgres, makeFact, { agentId: owned, owner: second, actor: "b" }, now);
  await expect(other).rejects.toMatchObject({ code: "owner-mismatch" });
  const claims = [first, second, someOwner()].map((owner) =>
    claimAgent(postgres, makeFact, { agentId: free, owner, actor: owner.subject }, now),
  );
  const outcomes = await Promise.allSettled(claims);
  expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  expect(await factCount(free)).toBe(2);
  const unknown = claimAgent(postgres, makeFact, { agentId: sampleAgentId(), owner: first, actor: "a" }, now);
  await expect(unknown).rejects.toMatchObject({ code: "agent-unknown" });
});

test("a status and its fact are one; the same again tells nobody; revoked is final", async () => {
  const owner = someOwner();
  const agentId = await agentOf(owner);
  const change = (to: "active" | "suspended" | "revoked") =>
    changeStatus(postgres, makeFact, { agentId, owner, to, ...decision }, now + 5);
  expect(await change("suspended")).toMatchObject({ agentId, status: "suspended", owner, createdAt: now });
  expect(await change("suspended")).toMatchObject({ status: "suspended" });
  expect((await findAgents(postgres, [agentId])).get(agentId)?.status).toBe("suspended");
  expect(await findInactive(postgres, [agentId])).toEqual(new Set([agentId]));
  expect(await change("active")).toMatchObject({ status: "active" });
  expect(await change("revoked")).toMatchObject({ status: "revoked" });
  await expect(change("active")).rejects.toMatchObject({ code: "agent-revoked" });
  await expect(change("suspended")).rejects.toMatchObject({ code: "agent-revoked" });
  const changes = told.filter((fact) => fact.agentId === agentId);
  expect(changes.map((fact) => fact.change)).toEqual(["suspended", "resumed", "revoked"]);
  expect(changes[0]).toMatchObject({ actor: "operator", reason: "because", custody: "agent", changedAt: now + 5 });
  expect(await factCount(agentId)).toBe(4);
});

test("what an operator has suspended an operator resumes, also when the owner was first; what the owner has suspended either", async () => {
  const owner = someOwner();
  const agentId = await agentOf(owner);
  const by = (who: Owner | null, to: "active" | "suspended") =>
    changeStatus(postgres, makeFact, { agentId, owner: who, to, ...decision }, now);
  await by(owner, "suspended");
  expect(await by(owner, "active")).toMatchObject({ status: "active" });
  await by(owner, "suspended");
  await by(null, "suspended");
  await expect(by(owner, "active")).rejects.toMatchObject({ code: "suspended-by-operator" });
  await by(owner, "suspended");
  await expect(by(owner, "active")).rejects.toMatchObject({ code: "suspended-by-operator" });
  expect(await findInactive(postgres, [agentId])).toEqual(new Set([agentId]));
  expect(await by(null, "active")).toMatchObject({ status: "active" });
  await by(owner, "suspended");
  expect(await by(owner, "active")).toMatchObject({ status: "active" });
});

test("an owner changes its own agents only", async () => {
  const agentId = await agentOf(someOwner());
  for (const owner of [someOwner(), { issuer: "https://other.example", subject: "x" }]) {
    expect(await changeStatus(postgres, makeFact, { agentId, owner, to: "revoked", ...decision }, now)).toBeNull();
  }
  const free = await agentOf(null);
  expect(
    await changeStatus(postgres, makeFact, { agentId: free, owner: someOwner(), to: "revoked", ...decision }, now),
  ).toBeNull();
  expect(await findInactive(postgres, [agentId, free])).toEqual(new Set());
});

test("pages of an owner's agents hold each once, and a status leaves out others", async () => {
  const owner = someOwner();
  const ids: string[] = [];
  for (let n = 0; n < 7; n++) ids.push(await agentOf(owner));
  await agentOf(someOwner());
  ids.sort();
  const suspended = ids[3] as string;
  await changeStatus(postgres, makeFact, { agentId: suspended, owner, to: "suspended", ...decision }, now);
  const seen: string[] = [];
  for (let after: string | null = null; ; ) {
    const page = await listAgents(postgres, { owner, status: null }, after, 3);
    seen.push(...page.agents.map(({ agentId }) => agentId));
    after = page.next;
    if (after === null) break;
  }
  expect(seen).toEqual(ids);
  const only = await listAgents(postgres, { owner, status: "suspended" }, null, 3);
  expect(only).toMatchObject({ agents: [{ agentId: suspended, owner }], next: null });
  const active = await listAgents(postgres, { owner, status: "active" }, null, 100);
  expect(active.agents.map(({ agentId }) => agentId)).toEqual(ids.filter((id) => id !== suspended));
  const all = await listAgents(postgres, { owner: null, status: "suspended" }, null, 1_000);
  expect(all.agents.map(({ agentId }) => agentId)).toContain(suspended);
});

function someKey(agentId: string, notAfter = now + day) {
  return { keyId: sampleAgentId(), agentId, publicKey: randomBytes(32), certificate: randomBytes(64), notAfter };
}

const put = (key: ReturnType<typeof someKey>, at = now) => putSigningKey(postgres, makeFact, key, at);

test("a key is in force until it is removed or ends, and told when it is added and removed", async () => {
  const agentId = await agentOf(null);
  const [kept, removed] = [someKey(agentId), someKey(agentId, now + 2 * day)];
  expect(await put(kept)).toMatchObject({ created: true, key: { keyId: kept.keyId, createdAt: now } });
  expect(await put(kept, now + 1)).toMatchObject({ created: false });
  await put(removed, now + 2);
  const found = await findSigningKey(postgres, kept.keyId, now);
  expect(found).toMatchObject({ agentId, notAfter: kept.notAfter });
  expect(found).toHaveProperty("publicKey", kept.publicKey);
  expect((await listSigningKeys(postgres, agentId, now)).map(({ keyId }) => keyId)).toEqual([
    kept.keyId,
    removed.keyId,
  ]);
  expect(await removeSigningKey(postgres, makeFact, { agentId: sampleAgentId(), keyId: removed.keyId }, now)).toBe(
    false,
  );
  expect(await removeSigningKey(postgres, makeFact, { agentId, keyId: removed.keyId }, now)).toBe(true);
  expect(await removeSigningKey(postgres, makeFact, { agentId, keyId: removed.keyId }, now)).toBe(false);
  expect(await findSigningKey(postgres, removed.keyId, now)).toBe("ended");
  expect(await findSigningKey(postgres, kept.keyId, now + day)).toBe("ended");
  expect(await findSigningKey(postgres, sampleAgentId(), now)).toBeNull();
  const unknown = sampleAgentId();
  const ended = await findEndedKeys(postgres, [kept.keyId, removed.keyId, unknown], now);
  expect(ended).toEqual(new Set([removed.keyId, unknown]));
  expect(await findEndedKeys(postgres, [kept.keyId], now + day)).toEqual(new Set([kept.keyId]));
  const facts = told.filter((fact) => fact.agentId === agentId).map(({ change, keyId }) => `${change} ${keyId}`);
  expect(facts).toEqual([
    `signing-key-added ${kept.keyId}`,
    `signing-key-added ${removed.keyId}`,
    `signing-key-removed ${removed.keyId}`,
  ]);
  expect(await factCount(agentId)).toBe(4);
});

test("a removed key does not come back while its certificate holds", async () => {
  const agentId = await agentOf(null);
  const key = someKey(agentId);
  await put(key);
  await removeSigningKey(postgres, makeFact, key, now);
  await expect(put(key, now + 1)).rejects.toMatchObject({ code: "signing-key-removed" });
  await expect(put({ ...key, notAfter: now + 3 * day })).rejects.toMatchObject({ code: "signing-key-removed" });
});

test("a removed key does not come back by an older, longer certificate, nor long after its own end", async () => {
  const agentId = await agentOf(null);
  const [removed, ended] = [someKey(agentId, now + 2 * day), someKey(agentId, now + 2 * day)];
  for (const key of [removed, ended]) {
    await put(key);
    await expect(put({ ...key, notAfter: now + day })).rejects.toMatchObject({ code: "signing-key-shorter" });
  }
  expect(await removeSigningKey(postgres, makeFact, removed, now)).toBe(true);
  expect(await removeSigningKey(postgres, makeFact, ended, now + 3 * day)).toBe(false);
  const later = now + 60 * day;
  await put(someKey(agentId, later + day), later);
  for (const key of [removed, ended]) {
    const again = put({ ...key, notAfter: later + 200 * day }, later);
    await expect(again).rejects.toMatchObject({ code: "signing-key-removed" });
    expect(await findSigningKey(postgres, key.keyId, later)).toBe("ended");
  }
});

test("a key is one agent's, whoever comes at the same moment, and no agent's own", async () => {
  const agents = await Promise.all([agentOf(null), agentOf(null), agentOf(null)]);
  const { keyId } = someKey("");
  const outcomes = await Promise.allSettled(agents.map((agentId) => put({ ...someKey(agentId), keyId })));
  expect(outcomes.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected", "rejected"]);
  for (const outcome of outcomes) {
    if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "signing-key-taken" });
  }
  const [one, other] = agents as [string, string, string];
  await expect(put({ ...someKey(one), keyId: other })).rejects.toMatchObject({ code: "signing-key-taken" });
});

test("an agent has so many keys in force at most; those that have ended make room, and are renewed only into it", async () => {
  const agentId = await agentOf(null);
  const short = someKey(agentId, now + 10);
  await put(short);
  const others = Array.from({ length: signingKeysMax - 1 }, () => someKey(agentId));
  for (const key of others) await put(key);
  await expect(put(someKey(agentId), now + 9)).rejects.toMatchObject({ code: "signing-keys-full" });
  const last = someKey(agentId);
  expect(await put(last, now + 10)).toMatchObject({ created: true });
  await expect(put({ ...short, notAfter: now + day }, now + 11)).rejects.toMatchObject({ code: "signing-keys-full" });
  expect(await put({ ...last, notAfter: now + 2 * day }, now + 11)).toMatchObject({ created: false });
});
