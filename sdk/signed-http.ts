/**
 * Calls of the service's HTTP operations, signed by one key. No state, no retries but one: a service whose replay memory is new
 * asks for a fresh signature (`sign-again`).
 *
 * Throws `ServiceUnavailable` (try again), `ServiceRefused`, `ClockSkew`, and the signal's reason.
 */
import { ServiceUnavailable } from "./errors.ts";
import { type AnswerHead, readProblem, refusedBy } from "./problem.ts";
import { type Signer, signRequest } from "./request-signature.ts";

/** Slower answers are taken for none: everything asked here takes milliseconds, unless it is asked to wait. */
const ANSWER_MS_MAX = 15_000;
const SIGNINGS_MAX = 3;

interface Call {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly json?: unknown;
  readonly headers?: Record<string, string>;
  /** For how long the service is asked to wait before it answers, milliseconds. */
  readonly waitMs?: number;
  /** Calls off this call. */
  readonly signal?: AbortSignal;
}

export class SignedHttp {
  readonly #base: URL;
  readonly #signer: Signer;
  readonly #signal: AbortSignal;

  /** `signal` ends everything that is under way. */
  constructor(base: URL, signer: Signer, signal: AbortSignal) {
    this.#base = base;
    this.#signer = signer;
    this.#signal = signal;
  }

  /** The answer's JSON; null when it is none. */
  async call(call: Call): Promise<unknown> {
    for (let signings = 1; ; signings++) {
      const answer = await this.#attempt(call);
      if (answer.ok) return answer.json;
      const problem = readProblem(answer.json, answer.status);
      if (problem.code === "sign-again" && signings < SIGNINGS_MAX) continue;
      throw refusedBy(problem, answer);
    }
  }

  url(path: string): URL {
    const url = new URL(this.#base);
    url.pathname = url.pathname.replace(/\/$/, "") + path;
    return url;
  }

  async #attempt({ method, path, query = {}, json, headers = {}, waitMs = 0, signal }: Call): Promise<Answer> {
    const url = this.url(path);
    url.search = new URLSearchParams(query).toString();
    const body = json === undefined ? null : Buffer.from(JSON.stringify(json));
    const signed = signRequest(this.#signer, { method, url, body, now: Date.now() });
    try {
      const response = await fetch(url, {
        method,
        headers: { ...headers, ...signed, ...(body !== null && { "content-type": "application/json" }) },
        body,
        redirect: "error",
        signal: AbortSignal.any([
          this.#signal,
          AbortSignal.timeout(waitMs + ANSWER_MS_MAX),
          ...(signal === undefined ? [] : [signal]),
        ]),
      });
      const text = await response.text();
      return {
        ok: response.ok,
        status: response.status,
        json: parse(text),
        date: response.headers.get("date"),
        retryAfter: response.headers.get("retry-after"),
      };
    } catch (error) {
      this.#signal.throwIfAborted();
      signal?.throwIfAborted();
      throw new ServiceUnavailable({ cause: error });
    }
  }
}

interface Answer extends AnswerHead {
  readonly ok: boolean;
  /** Null when it is none. */
  readonly json: unknown;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
