/**
 * Policies and contacts in memory, for tests: decided by the same rules as the store's (`decide`), without facts, ages and bounds.
 */
import { Refusal } from "../protocol/refusal.ts";
import type { Contact, ContactPair, ContactState } from "../store/contacts.ts";
import { decide, ownWord, type Policy } from "../store/permissions.ts";
import type { Page, PolicyList } from "../store/policies.ts";
import type { Agent } from "./agents.ts";
import type { PermissionDeps } from "./authz/permission.ts";
import type { ContactsDeps } from "./operations/contacts.ts";
import type { PoliciesDeps } from "./operations/policies.ts";

export interface InMemoryPolicies {
  readonly policies: Map<string, Policy>;
  /** `agent list peer`. */
  readonly listed: Set<string>;
  /** By `agent peer`; two entries a pair. */
  readonly contacts: Map<string, Contact>;
}

type PolicyPorts = PermissionDeps & Omit<PoliciesDeps & ContactsDeps, "limits" | "now" | "findAgents">;

export function noPolicies(): InMemoryPolicies {
  return { policies: new Map(), listed: new Set(), contacts: new Map() };
}

/** @param need throws `Unavailable` while PostgreSQL is said to be away */
export function inMemoryPolicies(
  { policies, listed, contacts }: InMemoryPolicies,
  agents: ReadonlyMap<string, Agent>,
  need: () => void,
): PolicyPorts {
  const isOn = (agentId: string, list: PolicyList, peerId: string) => listed.has(`${agentId} ${list} ${peerId}`);
  const onList = (agentId: string, list: PolicyList) =>
    [...listed].flatMap((entry) => {
      const [owner, ofList, peerId] = entry.split(" ") as [string, string, string];
      return owner === agentId && ofList === list ? [peerId] : [];
    });
  const summaryOf = (agentId: string) => ({
    policy: policies.get(agentId) ?? "open",
    allowed: onList(agentId, "allow").length,
    blocked: onList(agentId, "block").length,
  });
  const write = ({ agentId, peerId }: ContactPair, own: ContactState, others: ContactState, now: number): Contact => {
    contacts.set(`${agentId} ${peerId}`, { peerId, state: own, changedAt: now });
    contacts.set(`${peerId} ${agentId}`, { peerId: agentId, state: others, changedAt: now });
    return { peerId, state: own, changedAt: now };
  };
  const stateOf = ({ agentId, peerId }: ContactPair) => contacts.get(`${agentId} ${peerId}`)?.state;

  return {
    authorize: async (asks) => {
      need();
      return asks.map((ask) => {
        const { senderId, recipientId, principalId } = ask;
        const either = [senderId, principalId];
        const { isOwn, isDelegates } = ownWord(ask);
        return decide({
          isActive: agents.get(recipientId)?.status === "active",
          isBlocked: !isOwn && either.some((id) => isOn(recipientId, "block", id)),
          isListed: isOwn || isDelegates || either.some((id) => isOn(recipientId, "allow", id)),
          isContact: either.some((peerId) => stateOf({ agentId: recipientId, peerId }) === "accepted"),
          policy: policies.get(recipientId) ?? "open",
        });
      });
    },
    findPolicy: async (agentId) => {
      need();
      return summaryOf(agentId);
    },
    setPolicy: async ({ agentId, policy }) => {
      need();
      policies.set(agentId, policy);
      return summaryOf(agentId);
    },
    addToList: async ({ agentId, list, peerId }) => {
      need();
      const isNew = !isOn(agentId, list, peerId);
      listed.add(`${agentId} ${list} ${peerId}`);
      return isNew;
    },
    takeOffList: async ({ agentId, list, peerId }) => {
      need();
      return listed.delete(`${agentId} ${list} ${peerId}`);
    },
    readList: async ({ agentId, list, after }, limit) => {
      need();
      return pageOf(onList(agentId, list).toSorted(), (peerId) => peerId > after, limit);
    },
    requestContact: async (pair, now) => {
      need();
      const state = stateOf(pair);
      if (state === "accepted" || state === "requested") {
        return { contact: contacts.get(`${pair.agentId} ${pair.peerId}`) as Contact, isNew: false };
      }
      if (isOn(pair.peerId, "block", pair.agentId)) throw new Refusal("contact-blocked");
      if (state === "refused") throw new Refusal("contact-declined");
      const isAnswer = state === "pending";
      const contact = isAnswer ? write(pair, "accepted", "accepted", now) : write(pair, "requested", "pending", now);
      return { contact, isNew: true };
    },
    acceptContact: async (pair, now) => {
      need();
      if (stateOf(pair) !== "pending") throw new Refusal("contact-unknown");
      return write(pair, "accepted", "accepted", now);
    },
    declineContact: async (pair, now) => {
      need();
      if (stateOf(pair) !== "pending") throw new Refusal("contact-unknown");
      return write(pair, "declined", "refused", now);
    },
    removeContact: async ({ agentId, peerId }) => {
      need();
      contacts.delete(`${peerId} ${agentId}`);
      return contacts.delete(`${agentId} ${peerId}`);
    },
    readContacts: async ({ agentId, state, after }, limit) => {
      need();
      const own = [...contacts].flatMap(([name, contact]) => (name.startsWith(`${agentId} `) ? [contact] : []));
      const inState = own.filter((contact) => contact.state === state);
      return pageOf(
        inState.toSorted((a, b) => (a.peerId < b.peerId ? -1 : 1)),
        ({ peerId }) => peerId > after,
        limit,
      );
    },
  };
}

function pageOf<Entry>(all: readonly Entry[], isBehind: (entry: Entry) => boolean, limit: number): Page<Entry> {
  const behind = all.filter(isBehind);
  return { entries: behind.slice(0, limit), more: behind.length > limit };
}
