/** Asking to be let in, and answering who asks. */
import { formatTimestamp } from "../../../protocol/timestamp.ts";
import type { Contact } from "../../../store/contacts.ts";
import { acceptContact, askContact, declineContact, ownContacts, removeContact } from "../../operations/contacts.ts";
import { contactAnswer, contactPath, contactsAnswer, contactsQuery, removedAnswer } from "../policy-schemas.ts";
import { route } from "../route.ts";

export const listContacts = route({
  method: "GET",
  path: "/messaging/contacts",
  operationId: "listContacts",
  summary: "See one's contacts, and who asks to be one",
  description: "Those in one state, by agent id, 1,000 a page.",
  signedBy: "agent",
  request: { query: contactsQuery },
  answers: { 200: { description: "A page", schema: contactsAnswer } },
  refuses: [],
  handle: async (deps, { caller, query }) => {
    const { entries, more } = await ownContacts(deps, caller, query.state ?? "accepted", query.after ?? "");
    return {
      status: 200,
      json: { contacts: entries.map(toWire), ...(more ? { cursor: entries.at(-1)?.peerId } : {}) },
    };
  },
});

export const ask = route({
  method: "POST",
  path: "/messaging/contacts/{agent}",
  operationId: "requestContact",
  summary: "Ask to become a contact",
  description:
    "The agent sees who asks, and nothing else. Asking an agent that has asked the caller accepts. A request that was declined can be made again after 30 days.",
  signedBy: "agent",
  needsRedis: true,
  request: { path: contactPath },
  answers: {
    201: { description: "Asked, or accepted what the other asked", schema: contactAnswer },
    200: { description: "It was so before", schema: contactAnswer },
  },
  refuses: [
    "recipient-unknown",
    "not-allowed",
    "contact-declined",
    "contacts-full",
    "contact-requests-full",
    "rate-limited",
  ],
  handle: async (deps, { caller, path }) => {
    const { contact, isNew } = await askContact(deps, caller, path.agent);
    return { status: isNew ? 201 : 200, json: toWire(contact) };
  },
});

export const accept = route({
  method: "POST",
  path: "/messaging/contacts/{agent}/accept",
  operationId: "acceptContact",
  summary: "Accept who asks",
  description:
    "From then on each of the two may message the other, whatever their policies, except an allow list alone.",
  signedBy: "agent",
  needsRedis: true,
  request: { path: contactPath },
  answers: { 200: { description: "A contact", schema: contactAnswer } },
  refuses: ["contact-unknown", "contacts-full", "recipient-unknown", "rate-limited"],
  handle: async (deps, { caller, path }) => ({
    status: 200,
    json: toWire(await acceptContact(deps, caller, path.agent)),
  }),
});

export const decline = route({
  method: "POST",
  path: "/messaging/contacts/{agent}/decline",
  operationId: "declineContact",
  summary: "Decline who asks",
  description: "The agent cannot ask again for 30 days, unless the caller asks it, or forgets the request (DELETE).",
  signedBy: "agent",
  needsRedis: true,
  request: { path: contactPath },
  answers: { 200: { description: "Declined", schema: contactAnswer } },
  refuses: ["contact-unknown", "recipient-unknown", "rate-limited"],
  handle: async (deps, { caller, path }) => ({
    status: 200,
    json: toWire(await declineContact(deps, caller, path.agent)),
  }),
});

export const remove = route({
  method: "DELETE",
  path: "/messaging/contacts/{agent}",
  operationId: "removeContact",
  summary: "End a contact, or take a request back",
  description: "For both of the two. That one's request was declined is not forgotten so.",
  signedBy: "agent",
  needsRedis: true,
  request: { path: contactPath },
  answers: { 200: { description: "It is no contact (any more)", schema: removedAnswer } },
  refuses: ["recipient-unknown", "rate-limited"],
  handle: async (deps, { caller, path: { agent } }) => {
    return { status: 200, json: { agent_id: agent, removed: await removeContact(deps, caller, agent) } };
  },
});

function toWire({ peerId, state, changedAt }: Contact): Record<string, unknown> {
  return { agent_id: peerId, state, changed_at: formatTimestamp(changedAt) };
}
