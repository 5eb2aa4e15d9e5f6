/**
 * What stands in requests and answers about owners, the agents they answer for, and signing keys, in zod; strict, like `value-schemas.ts`.
 */
import { z } from "zod";
import "zod-openapi";
import { AGENTS_PAGE_MAX } from "../operations/manage-agents.ts";
import { owner } from "./agent-schemas.ts";
import { limit } from "./operator-schemas.ts";
import { agentId, base64url, identityKey, timestamp } from "./value-schemas.ts";

const status = z.enum(["active", "suspended", "revoked"]);

const paging = {
  status: status.optional().describe("Absent: all"),
  after: agentId.optional().describe("The cursor of the answer before; left out for the first page"),
  limit: limit(AGENTS_PAGE_MAX),
};

export const ownAgentsQuery = z.strictObject(paging);

/** As in facts and listings: one line, no control characters. */
const name = z.string().regex(/^[\x20-\x7e]{1,255}$/, { error: "not 1 to 255 printable characters" });

export const agentsQuery = z
  .strictObject({
    owner_issuer: name.optional().describe("With owner_subject: this owner's only"),
    owner_subject: name.optional(),
    ...paging,
  })
  .superRefine(({ owner_issuer: issuer, owner_subject: subject }, { addIssue }) => {
    if ((issuer === undefined) === (subject === undefined)) return;
    const missing = issuer === undefined ? "owner_issuer" : "owner_subject";
    addIssue({ code: "custom", path: [missing], message: "an owner is issuer and subject together" });
  });

const agentSummary = {
  agent_id: agentId,
  custody: z.enum(["agent", "server"]),
  status,
  created_at: timestamp,
  owner: owner.optional().describe("Absent: it was registered without one"),
};

export const managedAgentAnswer = z.strictObject(agentSummary).meta({ id: "ManagedAgent" });

export const managedAgentsAnswer = z
  .strictObject({
    agents: z.array(managedAgentAnswer),
    cursor: agentId.optional().describe("There are more: give it as after"),
  })
  .meta({ id: "ManagedAgents" });

export const decisionBody = z
  .strictObject({
    reason: z
      .string()
      .regex(/^[\x20-\x7e]{1,200}$/, { error: "not 1 to 200 printable characters" })
      .describe("Why; stands in agent.changed.v1"),
  })
  .meta({ id: "Decision", example: { reason: "lost laptop" } });

export const signingKeyPath = z.strictObject({ key_id: agentId.describe("RFC 7638 thumbprint of the key") });

export const signingKeyBody = z
  .strictObject({
    public_key: identityKey,
    not_after: timestamp.describe("At most 366 days ahead; from then on it signs nothing"),
    certificate: base64url(64).describe("By the agent's own key (protocol.md §9)"),
    proof: base64url(64).describe("By the signing key itself (protocol.md §9)"),
  })
  .meta({ id: "NewSigningKey" });

export const signingKeyAnswer = z
  .strictObject({ key_id: agentId, public_key: identityKey, not_after: timestamp, created_at: timestamp })
  .meta({ id: "SigningKey" });

export const signingKeysAnswer = z.strictObject({ keys: z.array(signingKeyAnswer) }).meta({ id: "SigningKeys" });

export const removedSigningKeyAnswer = z
  .strictObject({ key_id: agentId, removed: z.boolean().describe("It was in force") })
  .meta({ id: "RemovedSigningKey" });
