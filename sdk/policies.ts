/**
 * Whom an agent lets in, and who lets it in (docs/policies.md), for agents of both custodies.
 *
 * Nothing of it is kept here: each call is the service's answer. Methods throw `ServiceUnavailable` (try again), `ServiceRefused`, `ClockSkew`, and the signal's reason.
 */
import { isAgentId } from "../protocol/identity.ts";
import { JsonReader } from "../protocol/json-reader.ts";
import { memberOf, notUnderstood, understood } from "./answers.ts";
import { AgentError } from "./errors.ts";
import type { SignedHttp } from "./signed-http.ts";

/** Everybody; contacts and the allow list; the allow list alone. Never who is blocked. */
export type Policy = "open" | "contacts" | "allow-list";

/** As this agent sees it. `requested`: it has asked; `pending`: it is asked; `refused`: its request was declined; `declined`: by itself. */
export type ContactState = "requested" | "pending" | "accepted" | "refused" | "declined";

/** @public */
export interface Contact {
  readonly agentId: string;
  readonly state: ContactState;
  /** ms since the epoch. */
  readonly changedAt: number;
}

/** @public */
export interface PolicySummary {
  readonly policy: Policy;
  /** How many agents are on each list. */
  readonly allowed: number;
  readonly blocked: number;
}

const POLICIES: readonly Policy[] = ["open", "contacts", "allow-list"];
const STATES: readonly ContactState[] = ["requested", "pending", "accepted", "refused", "declined"];

export class Policies {
  readonly #http: () => Pick<SignedHttp, "call">;

  constructor(http: () => Pick<SignedHttp, "call">) {
    this.#http = http;
  }

  async get(): Promise<PolicySummary> {
    return readPolicy(await this.#http().call({ method: "GET", path: "/messaging/policy" }));
  }

  async set(policy: Policy): Promise<PolicySummary> {
    return readPolicy(await this.#http().call({ method: "PUT", path: "/messaging/policy", json: { policy } }));
  }

  /** Lets an agent in under any policy, unless it is blocked. Answers whether that is new. */
  allow(agentId: string): Promise<boolean> {
    return this.#change("PUT", `policy/allow/${checked(agentId)}`, "added");
  }

  disallow(agentId: string): Promise<boolean> {
    return this.#change("DELETE", `policy/allow/${checked(agentId)}`, "removed");
  }

  /** Keeps an agent out, also as a contact. Answers whether that is new. */
  block(agentId: string): Promise<boolean> {
    return this.#change("PUT", `policy/block/${checked(agentId)}`, "added");
  }

  unblock(agentId: string): Promise<boolean> {
    return this.#change("DELETE", `policy/block/${checked(agentId)}`, "removed");
  }

  /** All of them, by id. */
  listed(list: "allow" | "block"): Promise<string[]> {
    return this.#pages(`policy/${list}`, "agents", {}, (agentId) => {
      if (typeof agentId !== "string" || !isAgentId(agentId)) throw notUnderstood();
      return agentId;
    });
  }

  /** All in this state, by id. */
  contacts(state: ContactState = "accepted"): Promise<Contact[]> {
    return this.#pages("contacts", "contacts", { state }, readContact);
  }

  /** Asks to become a contact, or accepts where the other has asked. */
  request(agentId: string): Promise<Contact> {
    return this.#contact(checked(agentId));
  }

  accept(agentId: string): Promise<Contact> {
    return this.#contact(`${checked(agentId)}/accept`);
  }

  /** It cannot ask again for 30 days. */
  decline(agentId: string): Promise<Contact> {
    return this.#contact(`${checked(agentId)}/decline`);
  }

  /** Ends a contact for both, or takes a request back. Answers whether there was something. */
  remove(agentId: string): Promise<boolean> {
    return this.#change("DELETE", `contacts/${checked(agentId)}`, "removed");
  }

  async #contact(path: string): Promise<Contact> {
    return readContact(await this.#http().call({ method: "POST", path: `/messaging/contacts/${path}` }));
  }

  async #change(method: "PUT" | "DELETE", path: string, member: string): Promise<boolean> {
    return memberOf(await this.#http().call({ method, path: `/messaging/${path}` }), member) === true;
  }

  async #pages<Entry>(
    path: string,
    member: string,
    query: Readonly<Record<string, string>>,
    read: (json: unknown) => Entry,
  ): Promise<Entry[]> {
    const entries: Entry[] = [];
    for (let after: string | null = null; ; ) {
      const page: unknown = await this.#http().call({
        ...{ method: "GET", path: `/messaging/${path}` },
        query: after === null ? query : { ...query, after },
      });
      const found = memberOf(page, member);
      if (!Array.isArray(found)) throw notUnderstood();
      entries.push(...found.map(read));
      const cursor = memberOf(page, "cursor");
      if (typeof cursor !== "string") return entries;
      // One that does not move on would be asked for for ever.
      if (after !== null && cursor <= after) throw notUnderstood();
      after = cursor;
    }
  }
}

/** It becomes a part of a path. */
function checked(agentId: string): string {
  if (!isAgentId(agentId)) throw new AgentError("agent-malformed", "this is not the id of an agent");
  return agentId;
}

function readPolicy(json: unknown): PolicySummary {
  return understood(() => {
    const object = new JsonReader(json);
    const policy = POLICIES.find((known) => known === object.string("policy"));
    if (policy === undefined) throw notUnderstood();
    return { policy, allowed: object.number("allowed"), blocked: object.number("blocked") };
  });
}

function readContact(json: unknown): Contact {
  return understood(() => {
    const object = new JsonReader(json);
    const state = STATES.find((known) => known === object.string("state"));
    if (state === undefined) throw notUnderstood();
    return { agentId: object.string("agent_id"), state, changedAt: object.timestamp("changed_at") };
  });
}
