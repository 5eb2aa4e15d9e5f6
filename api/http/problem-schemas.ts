/** What is wrong, and whether the process is well. */
import { z } from "zod";
import "zod-openapi";
import { delegationRules } from "../../protocol/delegation.ts";
import type { Rule } from "../../store/permissions.ts";
import { type ProblemCode, problemCodes } from "../problem.ts";
import { timestamp } from "./value-schemas.ts";

const problemCode = z.enum(problemCodes as [ProblemCode, ...ProblemCode[]]).meta({ id: "ProblemCode" });

const rule = z
  .enum(["recipient-inactive", "blocked", "contacts-only", "not-on-allow-list"] satisfies Rule[])
  .meta({ id: "Rule", description: "Of not-allowed: which rule of the recipient (docs/policies.md)" });

const delegationRule = z.enum(delegationRules).meta({
  id: "DelegationRule",
  description: "Of delegation-refused: which rule the chain breaks (docs/delegation.md)",
});

export const problem = z
  .strictObject({
    type: z.string().meta({ format: "uri", example: "https://sealpost.dev/problems/malformed" }),
    title: z.string(),
    status: z.int(),
    code: problemCode,
    detail: z.string(),
    field: z.string().optional().describe("JSON pointer, header, parameter or signature component"),
    fix: z.string().optional(),
    retryable: z.boolean().describe("The same content, signed anew and sent later, may be taken"),
    rule: z.union([rule, delegationRule]).optional(),
    errors: z
      .array(
        z.strictObject({
          pointer: z.string(),
          code: problemCode,
          detail: z.string(),
          message_id: z.string().optional(),
          recipient_id: z.string().optional().describe("Where it is about the pair of sender and recipient"),
          rule: rule.optional(),
        }),
      )
      .optional(),
    retry_after: z.int().optional().describe("Seconds, as in the header Retry-After"),
    policy: z.string().optional().describe("The limit that was met, as in the header RateLimit-Policy"),
    server_time: timestamp.optional(),
    server_authority: z.string().optional().describe("What @authority is checked against"),
  })
  .meta({ id: "Problem", description: "RFC 9457; codes in docs/api.md" });

export const readinessAnswer = z
  .strictObject({ ready: z.boolean(), missing: z.array(z.string()) })
  .meta({ id: "Readiness", example: { ready: true, missing: [] } });

export const liveAnswer = z.strictObject({ live: z.literal(true) }).meta({ id: "Live" });
