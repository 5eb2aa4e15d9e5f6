/** Who may message this agent because both have said so. */
import type { Contact, ContactState, Policies } from "../../sdk/policies.ts";
import { type Command, readWords, WrongWords, withAgent, writeFacts, writeOut } from "./terminal.ts";

const STATES: readonly ContactState[] = ["accepted", "pending", "requested", "declined", "refused"];

const acts: Readonly<Record<string, (policies: Policies, agentId: string) => Promise<Contact | boolean>>> = {
  request: (policies, agentId) => policies.request(agentId),
  accept: (policies, agentId) => policies.accept(agentId),
  decline: (policies, agentId) => policies.decline(agentId),
  remove: (policies, agentId) => policies.remove(agentId),
};

export const contacts: Command = {
  summary: "see one's contacts, ask to be one, and answer who asks",
  usage: `Usage: sealpost contacts [--state STATE] [--json]
       sealpost contacts request | accept | decline | remove ID [--json]

Lists one agent a line, or asks an agent, answers one that asks (--state pending), ends a contact or takes a request back.

  --state STATE    accepted (default), pending, requested, declined or refused`,
  run: async (args, interrupted) => {
    const { values, positionals } = readWords(args, { state: { type: "string", default: "accepted" } });
    const [word, agentId, ...rest] = positionals;
    const state = STATES.find((known) => known === values.state);
    if (state === undefined) throw new WrongWords(`--state takes one of ${STATES.join(", ")}`);
    const act = word !== undefined && Object.hasOwn(acts, word) ? acts[word] : undefined;
    if (word !== undefined && (act === undefined || agentId === undefined || rest.length > 0)) {
      throw new WrongWords("contacts takes request, accept, decline or remove, and the id of one agent");
    }
    return withAgent(values, { signal: interrupted }, async ({ policies }) => {
      if (act === undefined || agentId === undefined)
        return writeOut(textOf(values.json, await policies.contacts(state)));
      const answer = await act(policies, agentId);
      return writeFacts(
        values.json,
        typeof answer === "boolean" ? { agent_id: agentId, removed: answer } : factsOf(answer),
      );
    });
  },
};

function textOf(isJson: boolean, found: readonly Contact[]): string {
  return found.map((contact) => `${isJson ? JSON.stringify(factsOf(contact)) : contact.agentId}\n`).join("");
}

function factsOf({ agentId, state, changedAt }: Contact): Record<string, string> {
  return { agent_id: agentId, state, changed_at: new Date(changedAt).toISOString() };
}
