/** Problem documents (RFC 9457) as the service gives them, in an answer or in a frame. What is missing or of another type is taken as absent. */
import { parseTimestamp } from "../protocol/timestamp.ts";
import { type AgentError, ClockSkew, ServiceRefused, ServiceUnavailable } from "./errors.ts";

/** What is wrong with one envelope, or message, of a call. */
export interface ItemFault {
  /** Its place in the call. */
  readonly index: number;
  readonly code: string;
  /** Of `not-allowed`: which rule of the recipient; else null. */
  readonly rule: string | null;
}

export interface Problem {
  readonly code: string;
  readonly status: number;
  readonly retryable: boolean;
  readonly field: string | null;
  readonly fix: string | null;
  /** Of `not-allowed`: which rule of the recipient; of `delegation-refused`: which rule the chain breaks; else null. */
  readonly rule: string | null;
  /** What the service asks to wait; null where it does not. A stream's only way to say so. */
  readonly retryAfterMs: number | null;
  /** The service's clock, milliseconds, where it matters. */
  readonly serverTime: number | null;
  /** Empty when the problem is not one of single items. */
  readonly itemFaults: readonly ItemFault[];
}

const CODE = /^[a-z][a-z0-9-]{0,63}$/;
const POINTER = /^\/(?:envelopes|messages)\/(\d{1,3})(?:\/|$)/;

/** Longer is not believed. */
const RETRY_AFTER_S_MAX = 3_600;

/** `status` is the answer's; a frame has only the one in the document. */
export function readProblem(json: unknown, status?: number): Problem {
  const document = typeof json === "object" && json !== null ? (json as Record<string, unknown>) : {};
  const { code, status: stated, retryable, field, fix, rule, retry_after, server_time, errors } = document;
  const number = status ?? (typeof stated === "number" ? stated : 500);
  return {
    code: isCode(code) ? code : `http-${number}`,
    status: number,
    retryable: typeof retryable === "boolean" ? retryable : number === 429 || number >= 500,
    field: typeof field === "string" ? field : null,
    fix: typeof fix === "string" ? fix : null,
    rule: isCode(rule) ? rule : null,
    retryAfterMs: typeof retry_after === "number" ? believedMs(retry_after) : null,
    serverTime: typeof server_time === "string" ? parseTimestamp(server_time) : null,
    itemFaults: Array.isArray(errors) ? errors.flatMap(readFault) : [],
  };
}

/** Codes stand in error messages; nothing else from outside does. */
function isCode(code: unknown): code is string {
  return typeof code === "string" && CODE.test(code);
}

function readFault(json: unknown): ItemFault[] {
  const { pointer, code, rule } = (typeof json === "object" && json !== null ? json : {}) as Record<string, unknown>;
  const index = typeof pointer === "string" ? POINTER.exec(pointer)?.[1] : undefined;
  if (index === undefined) return [];
  return [{ index: Number(index), code: isCode(code) ? code : "malformed", rule: isCode(rule) ? rule : null }];
}

/** What must be known of an answer that is not 2xx. */
export interface AnswerHead {
  readonly status: number;
  readonly date: string | null;
  readonly retryAfter: string | null;
}

/** The error that an answer means. A refusal that names items is about these, however long it lasts; the service is there. */
export function refusedBy(problem: Problem, { status, date, retryAfter }: AnswerHead): AgentError {
  if (problem.code === "signature-expired") {
    return new ClockSkew(Date.now(), problem.serverTime ?? (date === null ? null : Date.parse(date)));
  }
  const seconds = retryAfter === null ? Number.NaN : Number(retryAfter);
  const retryAfterMs = Number.isFinite(seconds) ? believedMs(seconds) : problem.retryAfterMs;
  const refused = new ServiceRefused({ ...problem, retryAfterMs });
  const passes = status >= 500 || status === 429 || problem.code === "sign-again";
  return passes && problem.itemFaults.length === 0 ? new ServiceUnavailable({ cause: refused, retryAfterMs }) : refused;
}

function believedMs(seconds: number): number {
  return Math.min(Math.max(0, seconds), RETRY_AFTER_S_MAX) * 1_000;
}
