/** Registering. */
import { z } from "zod";
import "zod-openapi";
import { agentId, exampleKey, identityKey, timestamp } from "./value-schemas.ts";

/** What nginx takes in a header by default; providers' tokens have 1 to 4 KB. */
const OWNER_STATEMENT_LENGTH_MAX = 8_192;

export const owner = z
  .strictObject({
    issuer: z.string().describe("Who vouches for the owner"),
    subject: z.string().describe("What the issuer calls it"),
  })
  .meta({ id: "Owner" });

export const registerBody = z
  .strictObject({
    identity_key: identityKey.optional().describe("Of an agent that holds its keys; the key that signs this call"),
    access_key: identityKey
      .optional()
      .describe("Instead of identity_key, with custody server: the key that signs this and all later calls"),
    custody: z
      .enum(["agent", "server"])
      .optional()
      .describe(
        "Who holds the keys: the agent itself (default), or the service, whose operator can then read its messages",
      ),
    owner_statement: z
      .string()
      .regex(/^[A-Za-z0-9_.-]+$/, { error: "not a compact JWS" })
      .max(OWNER_STATEMENT_LENGTH_MAX)
      .optional()
      .describe(
        "Who answers for the agent: its owner's statement for this key, or a token of its provider (docs/identity.md)",
      ),
  })
  .superRefine(({ identity_key: identity, access_key: access, custody }, { addIssue }) => {
    const [needed, other] = custody === "server" ? [access, identity] : [identity, access];
    const [neededName, otherName] =
      custody === "server" ? ["access_key", "identity_key"] : ["identity_key", "access_key"];
    if (needed === undefined) addIssue({ code: "custom", path: [neededName], message: "this member is missing" });
    if (other !== undefined) {
      addIssue({ code: "custom", path: [otherName], message: "this member is for agents of the other custody" });
    }
  })
  .meta({ id: "Registration", example: { identity_key: exampleKey } });

export const agentAnswer = z
  .strictObject({
    agent_id: agentId,
    identity_key: identityKey,
    custody: z.enum(["agent", "server"]),
    readable_by: z
      .enum(["agent", "agent-and-operator"])
      .describe("Who can read the agent's messages: with custody server whoever runs the encryption tier can, too"),
    status: z.enum(["active", "suspended", "revoked"]),
    created_at: timestamp,
    owner: owner.optional().describe("As this registration's statement says it"),
  })
  .meta({ id: "Agent" });
