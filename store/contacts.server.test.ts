import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openSampleDatabase, sampleAgentId } from "../tests/messaging.ts";
import {
  acceptContact,
  CONTACTS_MAX,
  type ContactState,
  DECLINED_MS,
  declineContact,
  PENDING_MAX,
  REQUESTS_MAX,
  readContacts,
  removeContact,
  requestContact,
} from "./contacts.ts";
import { addToList, type MakeAgentFact } from "./policies.ts";
import type { Postgres } from "./postgres.ts";

const now = 1_800_000_000_000;

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase(8);
});
afterAll(() => postgres.close());

const fact: MakeAgentFact = ({ agentId, change, peerId }) => ({
  ...{ id: randomUUID(), topic: "agent.changed.v1", key: agentId, headers: {} },
  value: Buffer.from(`${change} ${peerId}`),
});

async function newAgent(): Promise<string> {
  const agentId = sampleAgentId();
  await postgres.query({
    text: `INSERT INTO messaging_agents (agent_id, identity_key, custody, created_at) VALUES ($1, $2, 'agent', 1)`,
    values: [agentId, Buffer.alloc(32)],
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

/** What each of the two sees of the other; null: nothing. */
async function seen(one: string, other: string): Promise<(ContactState | null)[]> {
  const { rows } = await postgres.query<{ agent_id: string; state: ContactState }>({
    text: "SELECT agent_id, state FROM messaging_contacts WHERE (agent_id, peer_id) IN (($1, $2), ($2, $1))",
    values: [one, other],
  });
  return [one, other].map((id) => rows.find((row) => row.agent_id === id)?.state ?? null);
}

const request = (agentId: string, peerId: string, at = now) => requestContact(postgres, fact, { agentId, peerId }, at);
const accept = (agentId: string, peerId: string) => acceptContact(postgres, fact, { agentId, peerId }, now);
const decline = (agentId: string, peerId: string, at = now) => declineContact(postgres, fact, { agentId, peerId }, at);
const remove = (agentId: string, peerId: string) => removeContact(postgres, fact, { agentId, peerId }, now);

/** Rows of peers that do not exist. */
async function fill(agentId: string, state: ContactState, count: number): Promise<void> {
  await postgres.query({
    text: `INSERT INTO messaging_contacts (agent_id, peer_id, state, changed_at)
           SELECT $1, lpad(n::text, 43, '0'), $2, 1 FROM generate_series(1, $3::int) AS n`,
    values: [agentId, state, count],
  });
}

async function settled(...works: Promise<unknown>[]): Promise<string[]> {
  const results = await Promise.allSettled(works);
  return results.map((result) => (result.status === "fulfilled" ? "done" : (result.reason as { code: string }).code));
}

test("both of the two see the same, each from its side, from the request to the end", async () => {
  const [alice, bob] = [await newAgent(), await newAgent()];
  expect(await request(alice, bob)).toMatchObject({ isNew: true, contact: { peerId: bob, state: "requested" } });
  expect(await seen(alice, bob)).toEqual(["requested", "pending"]);
  expect((await request(alice, bob)).isNew).toBe(false);
  await expect(accept(alice, bob)).rejects.toMatchObject({ code: "contact-unknown" });
  expect(await accept(bob, alice)).toMatchObject({ peerId: alice, state: "accepted" });
  await accept(bob, alice);
  expect((await request(bob, alice)).isNew).toBe(false);
  expect(await seen(alice, bob)).toEqual(["accepted", "accepted"]);
  await expect(decline(bob, alice)).rejects.toMatchObject({ code: "contact-unknown" });
  expect([await remove(alice, bob), await remove(alice, bob)]).toEqual([true, false]);
  expect(await seen(alice, bob)).toEqual([null, null]);
  expect(await facts(alice)).toEqual([`contact-requested ${bob}`, `contact-removed ${bob}`]);
  expect(await facts(bob)).toEqual([`contact-accepted ${alice}`]);
});

test("who was declined asks again after 30 days and not before, unless the other wants it", async () => {
  const [alice, bob] = [await newAgent(), await newAgent()];
  await request(alice, bob);
  await decline(bob, alice);
  await decline(bob, alice);
  expect(await seen(alice, bob)).toEqual(["refused", "declined"]);
  await expect(request(alice, bob, now + DECLINED_MS - 1)).rejects.toMatchObject({ code: "contact-declined" });
  expect(await remove(alice, bob)).toBe(false);
  await expect(request(alice, bob)).rejects.toMatchObject({ code: "contact-declined" });
  expect((await request(alice, bob, now + DECLINED_MS)).isNew).toBe(true);
  await decline(bob, alice, now + DECLINED_MS);
  expect(await remove(bob, alice)).toBe(true);
  expect((await request(alice, bob)).contact.state).toBe("requested");
  await decline(bob, alice);
  expect((await request(bob, alice)).contact.state).toBe("requested");
  expect(await seen(alice, bob)).toEqual(["pending", "requested"]);
  expect((await facts(bob)).filter((text) => text.startsWith("contact-declined"))).toHaveLength(3);
});

test("two requests that cross make a contact, in whichever order they come", async () => {
  for (let n = 0; n < 20; n++) {
    const [alice, bob] = [await newAgent(), await newAgent()];
    const both = await Promise.all([request(alice, bob), request(bob, alice)]);
    expect(both.map(({ contact }) => contact.state).toSorted()).toEqual(["accepted", "requested"]);
    expect(await seen(alice, bob)).toEqual(["accepted", "accepted"]);
    const told = [...(await facts(alice)), ...(await facts(bob))].map((text) => text.split(" ")[0]);
    expect(told.toSorted()).toEqual(["contact-accepted", "contact-requested"]);
  }
});

test("an acceptance that races with its request being taken back leaves both with a contact that is gone, or with none", async () => {
  for (let n = 0; n < 20; n++) {
    const [alice, bob] = [await newAgent(), await newAgent()];
    await request(alice, bob);
    const [accepted, removed] = await settled(accept(bob, alice), remove(alice, bob));
    expect(removed).toBe("done");
    expect(await seen(alice, bob)).toEqual([null, null]);
    expect(await facts(bob)).toEqual(accepted === "done" ? [`contact-accepted ${alice}`] : []);
    if (accepted !== "done") expect(accepted).toBe("contact-unknown");
  }
});

test("of an acceptance and a refusal at once one holds, for both", async () => {
  for (let n = 0; n < 20; n++) {
    const [alice, bob] = [await newAgent(), await newAgent()];
    await request(alice, bob);
    const outcomes = await settled(accept(bob, alice), decline(bob, alice));
    expect(outcomes.toSorted()).toEqual(["contact-unknown", "done"]);
    const states = outcomes[0] === "done" ? ["accepted", "accepted"] : ["refused", "declined"];
    expect(await seen(alice, bob)).toEqual(states);
  }
});

test("who is blocked, unknown or without room does not ask; nor is room made by asking at once", async () => {
  const [alice, bob] = [await newAgent(), await newAgent()];
  await addToList(postgres, fact, { agentId: bob, list: "block", peerId: alice }, now);
  expect(await settled(request(alice, bob), request(alice, sampleAgentId()), request(sampleAgentId(), bob))).toEqual([
    ...["contact-blocked", "recipient-unknown", "agent-unknown"],
  ]);
  const eager = await newAgent();
  await fill(eager, "requested", REQUESTS_MAX - 1);
  const peers = [await newAgent(), await newAgent(), await newAgent()];
  const answers = await settled(...peers.map((peer) => request(eager, peer)));
  expect(answers.toSorted()).toEqual(["contacts-full", "contacts-full", "done"]);
  const popular = await newAgent();
  await fill(popular, "pending", PENDING_MAX - 1);
  const crowd = await settled(...peers.map((peer) => request(peer, popular)));
  expect(crowd.toSorted()).toEqual(["contact-requests-full", "contact-requests-full", "done"]);
});

test("an agent has no more contacts than it may, also when it accepts", async () => {
  const [alice, bob, carol] = [await newAgent(), await newAgent(), await newAgent()];
  await fill(bob, "accepted", CONTACTS_MAX - 1);
  await request(alice, bob);
  await request(carol, bob);
  await accept(bob, alice);
  await expect(accept(bob, carol)).rejects.toMatchObject({ code: "contacts-full" });
  expect(await seen(carol, bob)).toEqual(["requested", "pending"]);
});

test("contacts are read by their state, page by page", async () => {
  const agentId = await newAgent();
  await fill(agentId, "pending", 25);
  const from = { agentId, state: "pending" } as const;
  const first = await readContacts(postgres, { ...from, after: "" }, 20);
  expect([first.entries.length, first.more]).toEqual([20, true]);
  const second = await readContacts(postgres, { ...from, after: first.entries.at(-1)?.peerId ?? "" }, 20);
  expect([second.entries.length, second.more]).toEqual([5, false]);
  expect(await readContacts(postgres, { agentId, state: "accepted", after: "" }, 20)).toEqual({
    ...{ entries: [], more: false },
  });
});
