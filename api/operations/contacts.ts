/**
 * Contacts: asking to be let in by an agent that takes messages from its contacts only, and answering who asks.
 *
 * Promise: a request says who asks and nothing else: words in it would be a channel that nobody encrypts, to agents that want to hear from nobody. What is refused is told:
 * also that one is blocked, for every refused message would say so.
 */
import { Refusal } from "../../protocol/refusal.ts";
import type { Contact, ContactPair, ContactState } from "../../store/contacts.ts";
import type { Limit, LimitsDoor } from "../../store/limits.ts";
import type { Page } from "../../store/policies.ts";
import type { FindAgents } from "../agents.ts";
import type { Caller } from "../auth.ts";
import { refusalOf } from "../authz/permission.ts";
import { mayBeMessaged } from "../may-message.ts";
import { ApiRefusal } from "../problem.ts";

export interface ContactsDeps {
  /** In one transaction with its fact, like the three below (store/contacts.ts: what they throw, too). */
  readonly requestContact: (
    pair: ContactPair,
    now: number,
  ) => Promise<{ readonly contact: Contact; readonly isNew: boolean }>;
  readonly acceptContact: (pair: ContactPair, now: number) => Promise<Contact>;
  readonly declineContact: (pair: ContactPair, now: number) => Promise<Contact>;
  readonly removeContact: (pair: ContactPair, now: number) => Promise<boolean>;
  readonly readContacts: (
    from: { readonly agentId: string; readonly state: ContactState; readonly after: string },
    limit: number,
  ) => Promise<Page<Contact>>;
  readonly findAgents: FindAgents;
  readonly limits: LimitsDoor;
  /** ms since the epoch. */
  readonly now: () => number;
}

/** Entries of one answer: some 100 KB. */
const CONTACTS_PAGE_MAX = 1_000;

/** Whoever asks everybody is heard by sixty an hour; who asks for work has a handful to ask. */
const REQUESTS: Limit = { name: "contact-requests", points: 60, seconds: 3_600 };

/** As many as changes of policies: a thousand that wait are answered in half an hour. Each waits for the other's row, and has others wait for it, also where there is nothing to change. */
const CHANGES: Limit = { name: "contacts", points: 2_000, seconds: 3_600 };

/**
 * Asks; accepts where the other has asked before.
 *
 * @throws ApiRefusal `malformed`, `recipient-unknown`, `not-allowed`, `rate-limited`; Refusal `contact-declined`, `contacts-full`, `contact-requests-full`; `Unavailable`
 */
export async function askContact(
  deps: ContactsDeps,
  caller: Caller,
  peerId: string,
): Promise<{ readonly contact: Contact; readonly isNew: boolean }> {
  if (peerId === caller.agentId) {
    throw new ApiRefusal("malformed", {
      field: "/agent",
      detail: "this is the caller itself",
      fix: "Name another agent.",
    });
  }
  if (!mayBeMessaged((await deps.findAgents([peerId])).get(peerId))) {
    throw new ApiRefusal("recipient-unknown", { field: "/agent" });
  }
  await requireAllowance(deps, REQUESTS, caller);
  try {
    return await deps.requestContact({ agentId: caller.agentId, peerId }, deps.now());
  } catch (error) {
    if (error instanceof Refusal && error.code === "contact-blocked") throw refusalOf("blocked", "/agent");
    throw error;
  }
}

/** @throws ApiRefusal `rate-limited`; Refusal `contact-unknown`, `contacts-full`, `recipient-unknown`; `Unavailable` */
export async function acceptContact(deps: ContactsDeps, caller: Caller, peerId: string): Promise<Contact> {
  await requireAllowance(deps, CHANGES, caller);
  return deps.acceptContact({ agentId: caller.agentId, peerId }, deps.now());
}

/** @throws ApiRefusal `rate-limited`; Refusal `contact-unknown`, `recipient-unknown`; `Unavailable` */
export async function declineContact(deps: ContactsDeps, caller: Caller, peerId: string): Promise<Contact> {
  await requireAllowance(deps, CHANGES, caller);
  return deps.declineContact({ agentId: caller.agentId, peerId }, deps.now());
}

/** Answers whether there was something. @throws ApiRefusal `rate-limited`; Refusal `recipient-unknown`; `Unavailable` */
export async function removeContact(deps: ContactsDeps, caller: Caller, peerId: string): Promise<boolean> {
  await requireAllowance(deps, CHANGES, caller);
  return deps.removeContact({ agentId: caller.agentId, peerId }, deps.now());
}

async function requireAllowance({ limits }: ContactsDeps, limit: Limit, { agentId }: Caller): Promise<void> {
  const { allowed, retryAfterMs } = await limits.consume(limit, agentId);
  if (!allowed) throw new ApiRefusal("rate-limited", { retryAfterMs });
}

/** By id, behind `after`. @throws Unavailable */
export function ownContacts(
  deps: ContactsDeps,
  { agentId }: Caller,
  state: ContactState,
  after: string,
): Promise<Page<Contact>> {
  return deps.readContacts({ agentId, state, after }, CONTACTS_PAGE_MAX);
}
