/**
 * The values that stand in requests and answers, in zod: the same schemas check what arrives and make `/openapi.json`. What they stand in has a file each
 * beside this one.
 *
 * Every object is strict (an unknown member is refused), every string has one form. So no NUL byte, no control character and no
 * other spelling of an id ever gets past these files.
 */
import { z } from "zod";
import "zod-openapi";
import { decodeBase64Url } from "../../protocol/base64url.ts";
import { isAgentId } from "../../protocol/identity.ts";
import { parseTimestamp } from "../../protocol/timestamp.ts";
import { isUuid } from "../../protocol/uuid.ts";

export const exampleAgent = "Zk1xv0Tn3oY3rW1mZ8v1Rk3eFhQx0mC5s2b7uJ4dN6A";
export const exampleId = "0198c0de-7a11-7b2c-9d3e-4f5061728394";
export const exampleTime = "2025-08-19T05:47:42.481Z";
export const exampleKey = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

/** Binary as base64url without padding, of so many bytes. */
export function base64url(bytes: number) {
  const length = textLength(bytes);
  return z
    .string()
    .refine((text) => text.length === length && decodeBase64Url(text) !== null, {
      error: `not base64url without padding of ${bytes} bytes`,
    })
    .meta({
      description: `base64url without padding of ${bytes} bytes`,
      pattern: "^[A-Za-z0-9_-]*$",
      minLength: length,
      maxLength: length,
    });
}

/** Of any length: the envelope's codec decodes it anyway, once is enough. */
export const longBase64url = z.string().regex(/^[A-Za-z0-9_-]*$/, { error: "not base64url without padding" });

/** The platform's codec, a hundred times as fast as ours: what it spells the same is the one right spelling. */
export const contentBase64url = longBase64url.refine(
  (text) => Buffer.from(text, "base64url").toString("base64url") === text,
  {
    error: "not base64url without padding",
  },
);

/** Longer ones name no type; the protocol's own limit is 65,535 bytes. */
export const CONTENT_TYPE_LENGTH_MAX = 1_000;

function textLength(bytes: number): number {
  return Math.ceil((bytes * 4) / 3);
}

export const agentId = z.string().refine(isAgentId, { error: "not an agent id: 43 characters of base64url" }).meta({
  id: "AgentId",
  description: "RFC 7638 thumbprint of the agent's Ed25519 key",
  pattern: "^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$",
  example: exampleAgent,
});

export const uuid = z
  .string()
  .refine(isUuid, { error: "not a UUID in lower case" })
  .meta({ id: "Uuid", format: "uuid", pattern: "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", example: exampleId });

export const messageId = uuid.meta({
  id: "MessageId",
  description: "UUIDv7 made by the sender; unique per sender",
  format: "uuid",
  example: exampleId,
});

export const timestamp = z
  .string()
  .refine((text) => parseTimestamp(text) !== null, { error: "not a time like 2026-08-19T09:30:00.000Z" })
  .meta({ id: "Timestamp", description: "RFC 3339, UTC, three decimals", format: "date-time", example: exampleTime });

export const identityKey = base64url(32).meta({
  id: "IdentityKey",
  description: "Ed25519 public key, 32 bytes as base64url",
  example: exampleKey,
});

export const u32 = z.int().min(0).max(0xffff_ffff);

export const seq = z.int().min(1).max(Number.MAX_SAFE_INTEGER);

export const wholeNumber = z.string().regex(/^(0|[1-9]\d{0,15})$/, { error: "not a whole number" });
