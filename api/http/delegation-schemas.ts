/** Taking delegations back. */
import { z } from "zod";
import "zod-openapi";
import { isTokenId } from "../../protocol/delegation.ts";
import { agentId, exampleId, timestamp } from "./value-schemas.ts";

const tokenId = z
  .string()
  .refine(isTokenId, { error: "16 to 64 characters of A-Z, a-z, 0-9, - and _" })
  .meta({ pattern: "^[A-Za-z0-9_-]{16,64}$", example: exampleId });

export const delegationPath = z.strictObject({ jti: tokenId });

export const revokedDelegationAnswer = z
  .strictObject({
    issuer_id: agentId.describe("The caller"),
    jti: tokenId,
    revoked_at: timestamp.describe("When it was revoked first"),
  })
  .meta({ id: "RevokedDelegation" });
