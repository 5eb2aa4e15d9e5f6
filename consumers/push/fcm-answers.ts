/**
 * What an answer of FCM means (HTTP v1). Pure.
 *
 * | answer | meaning |
 * | --- | --- |
 * | 404 `UNREGISTERED` | the device is gone |
 * | 400 `INVALID_ARGUMENT` with an `FcmError`, without violations of fields | the token is none: the device is gone. Otherwise our call is wrong |
 * | 403 `SENDER_ID_MISMATCH` | a token of another project, or we ask for another |
 * | 401, 403, `THIRD_PARTY_AUTH_ERROR` | our credentials: leave the provider alone, and tell somebody |
 * | 429 `QUOTA_EXCEEDED` | after Retry-After, or a minute: quotas fill by the minute |
 * | 5xx | after Retry-After, or as the retries go |
 */
import { again, type Outcome, retryAfterMs } from "./outcomes.ts";

export interface FcmAnswer {
  readonly status: number;
  /** Parsed JSON, or whatever came. */
  readonly body: unknown;
  readonly retryAfter: string | null;
}

const quotaMs = 60_000;
const fcmErrorType = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
const badRequestType = "type.googleapis.com/google.rpc.BadRequest";

/** Of an answer that is no success. */
export function fcmOutcome({ status, body, retryAfter }: FcmAnswer, now: number): Outcome {
  const { errorCode, hasViolations } = errorOf(body);
  const afterMs = retryAfterMs(retryAfter, now);
  if (status === 404 && errorCode === "UNREGISTERED") return gone("unregistered");
  if (status === 400 && errorCode === "INVALID_ARGUMENT" && !hasViolations) return gone("invalid-token");
  if (status === 403 && errorCode === "SENDER_ID_MISMATCH") return { kind: "foreign", code: "sender-id-mismatch" };
  if (errorCode === "THIRD_PARTY_AUTH_ERROR") return { kind: "fault", code: "third-party-auth-error" };
  if (status === 401 || status === 403) return { kind: "fault", code: "not-authorized" };
  if (status === 429) return again(afterMs ?? quotaMs);
  if (status >= 500) return again(afterMs);
  // Of a project that is not there, too: no token is to blame.
  if (status === 404) return { kind: "fault", code: "not-found" };
  return { kind: "bug", code: `fcm-${status}` };
}

function gone(code: string): Outcome {
  return { kind: "gone", registeredBefore: null, code };
}

/** The code of an `FcmError` alone: a general status may be about anything in the call. */
function errorOf(body: unknown): { readonly errorCode: string | null; readonly hasViolations: boolean } {
  const details = membersOf(membersOf(body)["error"])["details"];
  const listed = Array.isArray(details) ? details.map(membersOf) : [];
  const code = listed.find((detail) => detail["@type"] === fcmErrorType)?.["errorCode"];
  const hasViolations = listed.some((detail) => detail["@type"] === badRequestType);
  return { errorCode: typeof code === "string" ? code : null, hasViolations };
}

function membersOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}
