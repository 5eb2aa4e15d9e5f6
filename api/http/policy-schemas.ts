/** What stands in requests and answers about policies and contacts, in zod; strict, like `value-schemas.ts`. */
import { z } from "zod";
import "zod-openapi";
import type { ContactState } from "../../store/contacts.ts";
import type { Policy } from "../../store/permissions.ts";
import type { PolicyList } from "../../store/policies.ts";
import { agentId, timestamp } from "./value-schemas.ts";

const exampleAgent = "Zk1xv0Tn3oY3rW1mZ8v1Rk3eFhQx0mC5s2b7uJ4dN6A";

const policy = z
  .enum(["open", "contacts", "allow-list"] satisfies Policy[])
  .describe(
    "Whom the agent lets in: everybody; its contacts and its allow list; its allow list alone. Never who is on its block list",
  );

const list = z.enum(["allow", "block"] satisfies PolicyList[]);

const state = z
  .enum(["requested", "pending", "accepted", "refused", "declined"] satisfies ContactState[])
  .describe(
    "As the caller sees it. requested: it has asked; pending: it is asked; refused: its request was declined; declined: by itself",
  );

const after = agentId.optional().describe("The cursor of the answer before; left out for the first page");

const cursor = agentId.optional().describe("Of the next page; missing at the end");

export const policyBody = z.strictObject({ policy }).meta({ id: "PolicySetting", example: { policy: "contacts" } });

export const policyAnswer = z
  .strictObject({
    policy,
    allowed: z.int().describe("How many agents are on the allow list"),
    blocked: z.int().describe("How many are on the block list"),
  })
  .meta({ id: "Policy", example: { policy: "contacts", allowed: 0, blocked: 2 } });

export const listPath = z.strictObject({ list });

export const listedPath = z.strictObject({ list, agent: agentId });

export const pageQuery = z.strictObject({ after });

export const listAnswer = z
  .strictObject({ agents: z.array(agentId), cursor })
  .meta({ id: "ListedAgents", example: { agents: [exampleAgent] } });

export const addedAnswer = z
  .strictObject({ agent_id: agentId, added: z.boolean().describe("It was not there before") })
  .meta({ id: "AgentAdded" });

export const removedAnswer = z
  .strictObject({ agent_id: agentId, removed: z.boolean().describe("It was there") })
  .meta({ id: "AgentRemoved" });

export const contactPath = z.strictObject({ agent: agentId });

export const contactsQuery = z.strictObject({
  state: state.optional().describe("Default: accepted"),
  after,
});

export const contactAnswer = z.strictObject({ agent_id: agentId, state, changed_at: timestamp }).meta({
  id: "Contact",
  example: { agent_id: exampleAgent, state: "pending", changed_at: "2025-08-19T05:47:42.481Z" },
});

export const contactsAnswer = z.strictObject({ contacts: z.array(contactAnswer), cursor }).meta({ id: "Contacts" });
