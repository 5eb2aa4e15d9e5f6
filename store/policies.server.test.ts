import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openSampleDatabase, sampleAgentId } from "../tests/messaging.ts";
import { type Ask, findDecisions, type Policy, type Rule } from "./permissions.ts";
import {
  addToList,
  findPolicy,
  LIST_AGENTS_MAX,
  type MakeAgentFact,
  type PolicyList,
  readList,
  setPolicy,
  takeOffList,
} from "./policies.ts";
import type { Postgres } from "./postgres.ts";

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase(4);
});
afterAll(() => postgres.close());

const fact: MakeAgentFact = ({ agentId, change, peerId, reason }) => ({
  ...{ id: randomUUID(), topic: "agent.changed.v1", key: agentId, headers: {} },
  value: Buffer.from([change, peerId, reason].filter((part) => part !== undefined).join(" ")),
});

async function newAgent(status = "active"): Promise<string> {
  const agentId = sampleAgentId();
  await postgres.query({
    text: `INSERT INTO messaging_agents (agent_id, identity_key, custody, status, created_at) VALUES ($1, $2, 'agent', $3, 1)`,
    values: [agentId, Buffer.alloc(32), status],
  });
  return agentId;
}

async function facts(agentId: string): Promise<string[]> {
  const { rows } = await postgres.query<{ value: Buffer }>({
    text: "SELECT value FROM facts WHERE key = $1 ORDER BY counter",
    values: [agentId],
  });
  return rows.map(({ value }) => value.toString("utf8"));
}

const add = (agentId: string, list: PolicyList, peerId: string) =>
  addToList(postgres, fact, { agentId, list, peerId }, 1_000);

const set = (agentId: string, policy: Policy) => setPolicy(postgres, fact, { agentId, policy }, 1_000);

async function befriend(one: string, other: string): Promise<void> {
  await postgres.query({
    text: `INSERT INTO messaging_contacts (agent_id, peer_id, state, changed_at) VALUES ($1, $2, 'accepted', 1), ($2, $1, 'accepted', 1)`,
    values: [one, other],
  });
}

const ask = (senderId: string, recipientId: string, principalId = senderId): Ask => {
  return { senderId, recipientId, principalId };
};

async function rules(...asks: Ask[]): Promise<(Rule | null)[]> {
  return (await findDecisions(postgres, asks)).map((decision) => (decision.allowed ? null : decision.rule));
}

test("every policy decides as it says, for many asks at once and in their order", async () => {
  const [open, contacts, listed, gone] = [
    await newAgent(),
    await newAgent(),
    await newAgent(),
    await newAgent("suspended"),
  ] as const;
  const [stranger, friend, guest, foe] = [sampleAgentId(), sampleAgentId(), sampleAgentId(), sampleAgentId()];
  await set(contacts, "contacts");
  await set(listed, "allow-list");
  await add(gone, "block", foe);
  for (const recipient of [open, contacts, listed]) {
    await befriend(recipient, friend);
    await add(recipient, "allow", guest);
    await add(recipient, "allow", foe);
    await add(recipient, "block", foe);
  }
  const senders = [stranger, friend, guest, foe];
  const asked = await rules(
    ...[open, contacts, listed].flatMap((recipient) => senders.map((sender) => ask(sender, recipient))),
    ask(guest, gone),
    ask(foe, gone),
    ask(guest, sampleAgentId()),
  );
  expect(asked).toEqual([
    ...[null, null, null, "blocked"],
    ...["contacts-only", null, null, "blocked"],
    ...["not-on-allow-list", "not-on-allow-list", null, "blocked"],
    ...["recipient-inactive", "blocked", "recipient-inactive"],
  ]);
});

test("a block is of the sender and of whom it speaks for; an open door is open for either", async () => {
  const recipient = await newAgent();
  const [sender, root, friend] = [sampleAgentId(), sampleAgentId(), sampleAgentId()];
  await set(recipient, "contacts");
  await befriend(recipient, friend);
  expect(
    await rules(ask(sender, recipient, friend), ask(friend, recipient, root), ask(sender, recipient, root)),
  ).toEqual([null, null, "contacts-only"]);
  await add(recipient, "block", root);
  expect(await rules(ask(friend, recipient, root), ask(friend, recipient))).toEqual(["blocked", null]);
  await add(recipient, "block", sender);
  expect(await rules(ask(sender, recipient, friend))).toEqual(["blocked"]);
});

test("what others have listed is nobody else's matter, and what one says to oneself is let through", async () => {
  const [alice, bob] = [await newAgent(), await newAgent()];
  await add(alice, "block", bob);
  await set(alice, "allow-list");
  expect(await rules(ask(alice, bob), ask(bob, alice), ask(alice, alice))).toEqual([null, "blocked", null]);
  // Also in another's name.
  expect(await rules(ask(alice, alice, sampleAgentId()), ask(alice, alice, bob))).toEqual([null, null]);
});

test("who holds an agent's delegation is let in by it, but not past its block list", async () => {
  const alice = await newAgent();
  const [delegate, blocked] = [sampleAgentId(), sampleAgentId()];
  for (const policy of ["contacts", "allow-list"] as const) {
    await set(alice, policy);
    expect(await rules(ask(delegate, alice, alice), ask(delegate, alice))).toEqual([
      null,
      policy === "contacts" ? "contacts-only" : "not-on-allow-list",
    ]);
  }
  await add(alice, "block", blocked);
  expect(await rules(ask(blocked, alice, alice))).toEqual(["blocked"]);
});

test("a change and its fact are one; the same again is neither", async () => {
  const agentId = await newAgent();
  const peer = sampleAgentId();
  expect(await findPolicy(postgres, agentId)).toEqual({ policy: "open", allowed: 0, blocked: 0 });
  expect(await set(agentId, "open")).toMatchObject({ policy: "open" });
  expect(await set(agentId, "contacts")).toMatchObject({ policy: "contacts" });
  await set(agentId, "contacts");
  expect([await add(agentId, "block", peer), await add(agentId, "block", peer)]).toEqual([true, false]);
  expect(await add(agentId, "allow", peer)).toBe(true);
  expect(await findPolicy(postgres, agentId)).toEqual({ policy: "contacts", allowed: 1, blocked: 1 });
  for (const list of ["block", "allow"] as const) {
    const listing = { agentId, list, peerId: peer };
    expect(await takeOffList(postgres, fact, listing, 2_000)).toBe(true);
    expect(await takeOffList(postgres, fact, listing, 2_000)).toBe(false);
  }
  expect(await facts(agentId)).toEqual([
    "policy-changed contacts",
    `blocked ${peer}`,
    `policy-changed ${peer} allowed`,
    `unblocked ${peer}`,
    `policy-changed ${peer} not-allowed`,
  ]);
  await expect(set(sampleAgentId(), "contacts")).rejects.toMatchObject({ code: "agent-unknown" });
});

test("the same agent blocked many times at once is blocked once, with one fact", async () => {
  const agentId = await newAgent();
  const peer = sampleAgentId();
  const answers = await Promise.all(Array.from({ length: 8 }, () => add(agentId, "block", peer)));
  expect(answers.filter((isNew) => isNew)).toHaveLength(1);
  expect(await facts(agentId)).toEqual([`blocked ${peer}`]);
});

test("a list is read page by page, and ends at its bound", async () => {
  const agentId = await newAgent();
  await postgres.query({
    text: `INSERT INTO messaging_policy_lists (agent_id, list, peer_id, added_at)
           SELECT $1, 'block', lpad(n::text, 43, '0'), 1 FROM generate_series(1, $2::int) AS n`,
    values: [agentId, LIST_AGENTS_MAX - 1],
  });
  const last = sampleAgentId();
  expect(await add(agentId, "block", last)).toBe(true);
  await expect(add(agentId, "block", sampleAgentId())).rejects.toMatchObject({ code: "list-full" });
  expect(await add(agentId, "block", last)).toBe(false);
  expect(await add(agentId, "allow", last)).toBe(true);
  expect((await findPolicy(postgres, agentId)).blocked).toBe(LIST_AGENTS_MAX);
  const pages: (readonly string[])[] = [];
  for (let after = "", more = true; more; ) {
    const page = await readList(postgres, { agentId, list: "block", after }, 4_000);
    pages.push(page.entries);
    after = page.entries.at(-1) ?? "";
    more = page.more;
  }
  expect(pages.map(({ length }) => length)).toEqual([4_000, 4_000, 2_000]);
  expect(new Set(pages.flat()).size).toBe(LIST_AGENTS_MAX);
});
