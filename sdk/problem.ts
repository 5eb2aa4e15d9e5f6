/** Problem documents (RFC 9457) as the service gives them, in an answer or in a frame. What is missing or of another type is taken as absent. */
import { parseTimestamp } from "../protocol/timestamp.ts";
import { type AgentError, ClockSkew, ServiceRefused, ServiceUnavailable } from "./errors.ts";

/** What is wrong with one envelope of a call. */
export interface EnvelopeFault {
  /** Its place in the call. */
  readonly index: number;
  readonly code: string;
}

export interface Problem {
  readonly code: string;
  readonly status: number;
  readonly retryable: boolean;
  readonly field: string | null;
  readonly fix: string | null;
  /** The service's clock, milliseconds, where it matters. */
  readonly serverTime: number | null;
  /** Empty when the problem is not one of single envelopes. */
  readonly envelopeFaults: readonly EnvelopeFault[];
}

const CODE = /^[a-z][a-z0-9-]{0,63}$/;
const POINTER = /^\/envelopes\/(\d{1,3})(?:\/|$)/;

/** `status` is the answer's; a frame has only the one in the document. */
export function readProblem(json: unknown, status?: number): Problem {
  const document = typeof json === "object" && json !== null ? (json as Record<string, unknown>) : {};
  const { code, status: stated, retryable, field, fix, server_time, errors } = document;
  const number = status ?? (typeof stated === "number" ? stated : 500);
  return {
    code: isCode(code) ? code : `http-${number}`,
    status: number,
    retryable: typeof retryable === "boolean" ? retryable : number === 429 || number >= 500,
    field: typeof field === "string" ? field : null,
    fix: typeof fix === "string" ? fix : null,
    serverTime: typeof server_time === "string" ? parseTimestamp(server_time) : null,
    envelopeFaults: Array.isArray(errors) ? errors.flatMap(readFault) : [],
  };
}

/** Codes stand in error messages; nothing else from outside does. */
function isCode(code: unknown): code is string {
  return typeof code === "string" && CODE.test(code);
}

function readFault(json: unknown): EnvelopeFault[] {
  const { pointer, code } = (typeof json === "object" && json !== null ? json : {}) as Record<string, unknown>;
  const index = typeof pointer === "string" ? POINTER.exec(pointer)?.[1] : undefined;
  return index === undefined ? [] : [{ index: Number(index), code: isCode(code) ? code : "malformed" }];
}

/** What must be known of an answer that is not 2xx. */
export interface AnswerHead {
  readonly status: number;
  readonly date: string | null;
  readonly retryAfter: string | null;
}

/** The error that an answer means. */
export function refusedBy(problem: Problem, { status, date, retryAfter }: AnswerHead): AgentError {
  if (problem.code === "signature-expired") {
    return new ClockSkew(Date.now(), problem.serverTime ?? (date === null ? null : Date.parse(date)));
  }
  if (status >= 500 || status === 429 || problem.code === "sign-again") {
    const seconds = retryAfter === null ? Number.NaN : Number(retryAfter);
    return new ServiceUnavailable({
      cause: new ServiceRefused(problem),
      retryAfterMs: Number.isFinite(seconds) ? seconds * 1000 : null,
    });
  }
  return new ServiceRefused(problem);
}
