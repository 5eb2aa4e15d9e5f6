/**
 * What stands in requests and answers of the audit's calls, in zod; strict, like `value-schemas.ts`.
 */
import { z } from "zod";
import "zod-openapi";

/** A size or a place in a query, in one spelling. */
const NUMBER = /^(0|[1-9]\d{0,15})$/;

function number(min: number) {
  return z
    .string()
    .regex(NUMBER, { error: "not a whole number" })
    .transform(Number)
    .refine((value) => Number.isSafeInteger(value) && value >= min, { error: `not a whole number from ${min} on` });
}

export const checkpointQuery = z
  .strictObject({
    size: number(1).optional().meta({ description: "The checkpoint of this size; absent: the newest" }),
    at_least: number(1).optional().meta({ description: "Or the first one that has so many records" }),
  })
  .refine(({ size, at_least }) => size === undefined || at_least === undefined, {
    error: "either size or at_least",
    path: ["at_least"],
  });

export const inclusionQuery = z.strictObject({
  index: number(0).meta({ description: "log_index of the record" }),
  size: number(1).optional().meta({ description: "Of the tree; absent: of the newest checkpoint" }),
});

export const consistencyQuery = z.strictObject({
  from: number(1).meta({ description: "Size of the older tree" }),
  to: number(1).optional().meta({ description: "Size of the newer one; absent: of the newest checkpoint" }),
});

const hash = z
  .string()
  .regex(/^[A-Za-z0-9+/]{43}=$/)
  .describe("SHA-256, in base64");
const count = z.int().min(0);

export const inclusionAnswer = z
  .strictObject({
    index: count,
    size: count.describe("Of the tree"),
    leaf_hash: hash,
    proof: z.array(hash).describe("From the leaf upwards (RFC 9162 §2.1.3)"),
  })
  .meta({ id: "InclusionProof" });

export const consistencyAnswer = z
  .strictObject({ from: count, to: count, proof: z.array(hash).describe("RFC 9162 §2.1.4") })
  .meta({ id: "ConsistencyProof" });
