/**
 * From bytes to checked values: strict JSON, then a schema; what does not fit is refused with pointer, reason and fix.
 */
import type { z } from "zod";
import { decodeBase64Url } from "../../protocol/base64url.ts";
import { parseTimestamp } from "../../protocol/timestamp.ts";
import { ApiRefusal, BatchRefusal, type Fault, type ProblemCode } from "../problem.ts";

/** More help nobody; a call of a hundred wrong items must not be answered with thousands. */
const FAULTS_MAX = 100;

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * The JSON value of a body.
 *
 * Of two members with one name the last one counts (as everywhere in JavaScript); the signature covers the bytes, so nobody on the way
 * can make use of it. `__proto__` is a member like any other, which every schema refuses.
 */
export function parseJson(body: Uint8Array | null): unknown {
  if (body === null) throw notJson("the body is empty");
  try {
    return JSON.parse(utf8.decode(body));
  } catch {
    // Neither error says anything that would help, and JSON.parse's repeats the input.
    throw notJson("the body is not JSON in UTF-8");
  }
}

function notJson(detail: string): ApiRefusal {
  return new ApiRefusal("malformed", {
    field: "",
    detail,
    fix: "Send one JSON object in UTF-8, without a byte order mark.",
  });
}

/** A name for the item a pointer leads to, if there is one. */
export type NameItem = (path: readonly PropertyKey[]) => string | undefined;

/** The value as the schema gives it; else a refusal that names every place at fault. */
export function validated<Schema extends z.ZodType>(
  schema: Schema,
  value: unknown,
  messageIdAt: NameItem = () => undefined,
): z.output<Schema> {
  const result = schema.safeParse(value, { reportInput: true });
  if (result.success) return result.data;
  const faults = result.error.issues.flatMap((issue) => faultsOf(issue, messageIdAt)).slice(0, FAULTS_MAX);
  const [first, ...others] = faults;
  if (first === undefined) throw new Error("a schema refused without a reason");
  throw new BatchRefusal([first, ...others], { fix: fixOf(result.error.issues[0]) });
}

function faultsOf(issue: z.core.$ZodIssue, messageIdAt: NameItem): Fault[] {
  const messageId = messageIdAt(issue.path);
  const named = messageId === undefined ? {} : { messageId };
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => ({
      pointer: pointerOf([...issue.path, key]),
      code: "malformed",
      detail: "there is no such member",
      ...named,
    }));
  }
  return [{ pointer: pointerOf(issue.path), code: codeOf(issue), detail: detailOf(issue), ...named }];
}

function codeOf(issue: z.core.$ZodIssue): ProblemCode {
  return issue.code === "too_big" && issue.origin === "array" ? "too-many" : "malformed";
}

function detailOf(issue: z.core.$ZodIssue): string {
  if (issue.code === "invalid_type" && issue.input === undefined) return "this member is missing";
  return issue.message;
}

function fixOf(issue: z.core.$ZodIssue | undefined): string {
  if (issue?.code === "unrecognized_keys") return "Leave the unknown member out.";
  if (issue?.code === "invalid_type" && issue.input === undefined) return "Add the member.";
  if (issue?.code === "too_big" && issue.origin === "array") return `Send at most ${issue.maximum} in one call.`;
  return "Give the member the type and form that /openapi.json describes.";
}

/** RFC 6901. */
function pointerOf(path: readonly PropertyKey[]): string {
  return path.map((step) => `/${String(step).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
}

/** Of a member that the schema has checked. */
export function checkedBytes(text: string): Uint8Array {
  const bytes = decodeBase64Url(text);
  if (bytes === null) throw new Error("the schema let something through that is not base64url");
  return bytes;
}

/** The same; ms since the epoch. */
export function checkedTime(text: string): number {
  const ms = parseTimestamp(text);
  if (ms === null) throw new Error("the schema let something through that is not a time");
  return ms;
}
