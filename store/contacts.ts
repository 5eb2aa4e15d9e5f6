/**
 * Contacts: who may message an agent that takes messages from its contacts only, because both of the two have said so.
 *
 * Promises: a contact is mutual; the two rows of a pair agree, for whoever changes them holds both agents' locks. Each change and the fact that tells the world,
 * keyed by the agent that made it, are one transaction; the same again changes nothing and is no news. Nobody fills up another's list of requests, or asks again
 * soon after it was declined.
 */
import { DAY_MS } from "../protocol/limits.ts";
import { Refusal } from "../protocol/refusal.ts";
import type { Custody } from "../schemas/values.ts";
import { lockAgent } from "./agents.ts";
import { addFact } from "./facts.ts";
import { findDecisions } from "./permissions.ts";
import type { MakeAgentFact, Page } from "./policies.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";

/** As one of the two sees it. `requested`: it has asked; `pending`: it is asked; `refused`: its request was declined; `declined`: by itself. */
export type ContactState = "requested" | "pending" | "accepted" | "refused" | "declined";

export interface Contact {
  readonly peerId: string;
  readonly state: ContactState;
  /** ms since the epoch. */
  readonly changedAt: number;
}

export interface ContactPair {
  /** Who acts. */
  readonly agentId: string;
  readonly peerId: string;
}

/** More than an agent waits for at a time, unless it asks everybody there is. */
export const REQUESTS_MAX = 100;

/** More than somebody looks through; so many strangers can keep others from asking, and are declined or blocked by then. */
export const PENDING_MAX = 1_000;

/** As many as an allow list has. */
export const CONTACTS_MAX = 10_000;

/** A no is a no for a month: shorter, and asking again and again is a way to be heard. */
export const DECLINED_MS = 30 * DAY_MS;

/** Why a request is not taken. */
type ContactCode =
  | "contact-blocked"
  | "contact-declined"
  | "contacts-full"
  | "contact-requests-full"
  | "contact-unknown";

/** What the other of the two sees. */
const seenByPeer: Readonly<Record<ContactState, ContactState>> = {
  requested: "pending",
  pending: "requested",
  accepted: "accepted",
  refused: "declined",
  declined: "refused",
};

/**
 * Asks to be a contact; accepts where the other has asked before. Answers the state and whether it is new.
 *
 * @throws Refusal `agent-unknown`, `recipient-unknown`, `contact-blocked`, `contact-declined`, `contacts-full`, `contact-requests-full`; `Unavailable`
 */
export function requestContact(
  postgres: Postgres,
  makeFact: MakeAgentFact,
  pair: ContactPair,
  now: number,
): Promise<{ readonly contact: Contact; readonly isNew: boolean }> {
  return changing(postgres, pair, async (client, custody, before) => {
    if (before?.state === "accepted" || before?.state === "requested") return { contact: before, isNew: false };
    if (await isBlocked(client, pair)) throw new Refusal<ContactCode>("contact-blocked");
    if (before?.state === "refused" && now - before.changedAt < DECLINED_MS) {
      throw new Refusal<ContactCode>("contact-declined");
    }
    const state = before?.state === "pending" ? "accepted" : "requested";
    if (state === "accepted") await requireRoom(client, pair);
    else await requireRequestRoom(client, pair);
    const contact = await write(client, pair, state, now);
    const change = state === "accepted" ? "contact-accepted" : "contact-requested";
    await addFact(client, makeFact({ ...pair, change, custody, changedAt: now }), now);
    return { contact, isNew: true };
  });
}

type Answering = (postgres: Postgres, makeFact: MakeAgentFact, pair: ContactPair, now: number) => Promise<Contact>;

/** Accepts what waits. @throws Refusal `agent-unknown`, `contact-unknown`, `contacts-full`; `Unavailable` */
export const acceptContact = answering("accepted");

/** Declines what waits. @throws Refusal `agent-unknown`, `contact-unknown`; `Unavailable` */
export const declineContact = answering("declined");

function answering(answer: "accepted" | "declined"): Answering {
  return (postgres, makeFact, pair, now) =>
    changing(postgres, pair, async (client, custody, before) => {
      if (before?.state === answer) return before;
      if (before?.state !== "pending") throw new Refusal<ContactCode>("contact-unknown");
      if (answer === "accepted") await requireRoom(client, pair);
      const contact = await write(client, pair, answer, now);
      await addFact(client, makeFact({ ...pair, change: `contact-${answer}`, custody, changedAt: now }), now);
      return contact;
    });
}

/**
 * Ends a contact, takes a request back, or forgets one: it may be asked again. Only who declined forgets that. Answers whether there was something.
 *
 * @throws Refusal `agent-unknown`; `Unavailable`
 */
export function removeContact(
  postgres: Postgres,
  makeFact: MakeAgentFact,
  pair: ContactPair,
  now: number,
): Promise<boolean> {
  return changing(postgres, pair, async (client, custody, before) => {
    if (before === null || before.state === "refused") return false;
    await client.query({
      name: "remove-contact",
      text: `DELETE FROM messaging_contacts WHERE (agent_id, peer_id) IN (($1, $2), ($2, $1))`,
      values: [pair.agentId, pair.peerId],
    });
    await addFact(client, makeFact({ ...pair, change: "contact-removed", custody, changedAt: now }), now);
    return true;
  });
}

/** Those in a state, by id, behind `after`. @throws Unavailable */
export async function readContacts(
  db: Queryable,
  { agentId, state, after }: { readonly agentId: string; readonly state: ContactState; readonly after: string },
  limit: number,
): Promise<Page<Contact>> {
  const { rows } = await db.query<ContactRow>({
    name: "read-contacts",
    text: `SELECT peer_id, state, changed_at FROM messaging_contacts
           WHERE agent_id = $1 AND state = $2 AND peer_id > $3 ORDER BY peer_id LIMIT $4`,
    values: [agentId, state, after, limit + 1],
  });
  return { entries: rows.slice(0, limit).map(contactOf), more: rows.length > limit };
}

/** What the agent sees of the peer, while both are locked: those who change one pair from both sides do so one after the other. */
function changing<Result>(
  postgres: Postgres,
  { agentId, peerId }: ContactPair,
  work: (client: Queryable, custody: Custody, before: Contact | null) => Promise<Result>,
): Promise<Result> {
  return inTransaction(postgres, async (client) => {
    const custodies = new Map<string, Custody>();
    // In one order, whoever acts: two that ask each other wait, and do not lock each other out.
    for (const id of [agentId, peerId].toSorted()) {
      const locked = await lockAgent(client, id);
      if (locked === null) throw new Refusal(id === agentId ? "agent-unknown" : "recipient-unknown");
      custodies.set(id, locked.custody);
    }
    const { rows } = await client.query<ContactRow>({
      name: "find-contact",
      text: "SELECT peer_id, state, changed_at FROM messaging_contacts WHERE agent_id = $1 AND peer_id = $2",
      values: [agentId, peerId],
    });
    const [row] = rows;
    return work(client, custodies.get(agentId) as Custody, row === undefined ? null : contactOf(row));
  });
}

async function isBlocked(client: Queryable, { agentId, peerId }: ContactPair): Promise<boolean> {
  const [decision] = await findDecisions(client, [{ senderId: agentId, recipientId: peerId, principalId: agentId }]);
  return decision?.allowed === false && decision.rule === "blocked";
}

/** Both of the two get one more. */
async function requireRoom(client: Queryable, { agentId, peerId }: ContactPair): Promise<void> {
  for (const id of [agentId, peerId]) {
    if ((await countContacts(client, id, "accepted")) >= CONTACTS_MAX) throw new Refusal<ContactCode>("contacts-full");
  }
}

async function requireRequestRoom(client: Queryable, { agentId, peerId }: ContactPair): Promise<void> {
  if ((await countContacts(client, agentId, "requested")) >= REQUESTS_MAX)
    throw new Refusal<ContactCode>("contacts-full");
  if ((await countContacts(client, peerId, "pending")) >= PENDING_MAX) {
    throw new Refusal<ContactCode>("contact-requests-full");
  }
}

async function countContacts(client: Queryable, agentId: string, state: ContactState): Promise<number> {
  const { rows } = await client.query<{ count: number }>({
    name: "count-contacts",
    text: "SELECT count(*) FROM messaging_contacts WHERE agent_id = $1 AND state = $2",
    values: [agentId, state],
  });
  return rows[0]?.count ?? 0;
}

async function write(client: Queryable, { agentId, peerId }: ContactPair, state: ContactState, now: number) {
  await client.query({
    name: "write-contact",
    text: `INSERT INTO messaging_contacts (agent_id, peer_id, state, changed_at) VALUES ($1, $2, $3, $5), ($2, $1, $4, $5)
           ON CONFLICT (agent_id, peer_id) DO UPDATE SET state = excluded.state, changed_at = excluded.changed_at`,
    values: [agentId, peerId, state, seenByPeer[state], now],
  });
  return { peerId, state, changedAt: now };
}

interface ContactRow {
  readonly peer_id: string;
  readonly state: ContactState;
  readonly changed_at: number;
}

function contactOf({ peer_id: peerId, state, changed_at: changedAt }: ContactRow): Contact {
  return { peerId, state, changedAt };
}
