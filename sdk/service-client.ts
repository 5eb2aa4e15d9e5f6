/**
 * The service's HTTP operations for one agent, signed. No state but the identity, no retries but one: a service whose replay memory is new
 * asks for a fresh signature (`sign-again`).
 *
 * Throws `ServiceUnavailable` (try again), `ServiceRefused`, `ClockSkew`, and the signal's reason.
 */
import { encodeBase64Url } from "../protocol/base64url.ts";
import type { Identity } from "../protocol/identity.ts";
import {
  type Bundle,
  bundleFromJson,
  type OneTimePrekey,
  oneTimePrekeyToJson,
  type SignedPrekey,
  signedPrekeyToJson,
} from "../protocol/prekeys.ts";
import { Refusal } from "../protocol/refusal.ts";
import { AgentError, ClockSkew, ServiceRefused, ServiceUnavailable } from "./errors.ts";
import { readProblem } from "./problem.ts";
import { signRequest } from "./request-signature.ts";

/** Slower answers are taken for none: everything asked here takes milliseconds. */
const ANSWER_MS_MAX = 15_000;
const SIGNINGS_MAX = 3;

interface Upload {
  readonly signedPrekey: SignedPrekey;
  /** At most 200. */
  readonly oneTimePrekeys: readonly OneTimePrekey[];
}

const STATUSES = ["queued", "delivered", "acknowledged", "refused", "evicted", "expired", "deleted"] as const;

export interface MessageOutcome {
  readonly messageId: string;
  readonly status: (typeof STATUSES)[number];
  readonly code: string | null;
}

interface Call {
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly json?: unknown;
  readonly headers?: Record<string, string>;
}

export class ServiceClient {
  readonly #base: URL;
  readonly #me: Identity;
  readonly #signal: AbortSignal;

  /** `signal` ends everything that is under way. */
  constructor(base: URL, me: Identity, signal: AbortSignal) {
    this.#base = base;
    this.#me = me;
    this.#signal = signal;
  }

  /** Where the stream is, with fresh signature headers. */
  streamRequest(): { url: URL; headers: Record<string, string> } {
    const url = this.#url("/messaging/stream");
    const headers = signRequest(this.#me, { method: "GET", url, body: null, now: Date.now() });
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    return { url, headers };
  }

  async register(): Promise<void> {
    const json = { identity_key: encodeBase64Url(this.#me.signing.publicKey), custody: "agent" };
    await this.#call({ method: "POST", path: "/messaging/agents", json });
  }

  /** One-time prekeys the service has left to hand out. */
  async uploadPrekeys({ signedPrekey, oneTimePrekeys }: Upload): Promise<number> {
    const json = {
      signed_prekey: signedPrekeyToJson(signedPrekey),
      ...(oneTimePrekeys.length > 0 && { one_time_prekeys: oneTimePrekeys.map(oneTimePrekeyToJson) }),
    };
    const answer = await this.#call({ method: "POST", path: "/messaging/upload-prekeys", json });
    return numberIn(answer, "one_time_prekeys_remaining");
  }

  /** Not checked. The same request id gives the same bundle. */
  async claimBundle(agentId: string, requestId: string): Promise<Bundle> {
    const answer = await this.#call({
      method: "POST",
      path: `/messaging/prekeys/${agentId}`,
      headers: { "idempotency-key": requestId },
    });
    try {
      return bundleFromJson(memberOf(answer, "bundle"));
    } catch (error) {
      if (error instanceof Refusal) throw notUnderstood(error);
      throw error;
    }
  }

  /** What became of messages of this agent, of at most 100; those that the service does not know are missing. */
  async messageOutcomes(messageIds: readonly string[]): Promise<MessageOutcome[]> {
    const json = { messages: messageIds.map((message_id) => ({ message_id })) };
    try {
      const answer = await this.#call({ method: "POST", path: "/messaging/messages/status", json });
      const messages = memberOf(answer, "messages");
      // Taken for none, every message would be one that the service does not know.
      if (!Array.isArray(messages)) throw notUnderstood();
      return messages.flatMap(readOutcome);
    } catch (error) {
      if (error instanceof ServiceRefused && error.code === "message-unknown") return [];
      throw error;
    }
  }

  async #call(call: Call): Promise<unknown> {
    for (let signings = 1; ; signings++) {
      const answer = await this.#attempt(call);
      if (answer.ok) return answer.json;
      const problem = readProblem(answer.json, answer.status);
      if (problem.code === "sign-again" && signings < SIGNINGS_MAX) continue;
      throw refusedBy(problem, answer);
    }
  }

  async #attempt({ method, path, json, headers = {} }: Call): Promise<Answer> {
    const url = this.#url(path);
    const body = json === undefined ? null : Buffer.from(JSON.stringify(json));
    const signed = signRequest(this.#me, { method, url, body, now: Date.now() });
    try {
      const response = await fetch(url, {
        method,
        headers: { ...headers, ...signed, ...(body !== null && { "content-type": "application/json" }) },
        body,
        redirect: "error",
        signal: AbortSignal.any([this.#signal, AbortSignal.timeout(ANSWER_MS_MAX)]),
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
      throw new ServiceUnavailable({ cause: error });
    }
  }

  #url(path: string): URL {
    const url = new URL(this.#base);
    url.pathname = url.pathname.replace(/\/$/, "") + path;
    return url;
  }
}

/** What must be known of an answer that is not 2xx. */
export interface AnswerHead {
  readonly status: number;
  readonly date: string | null;
  readonly retryAfter: string | null;
}

interface Answer extends AnswerHead {
  readonly ok: boolean;
  /** Null when it is none. */
  readonly json: unknown;
}

/** The error that an answer means. */
export function refusedBy(
  problem: ReturnType<typeof readProblem>,
  { status, date, retryAfter }: AnswerHead,
): AgentError {
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

/** None for a message that is not known. */
function readOutcome(json: unknown): MessageOutcome[] {
  const { message_id, status: stated, code } = (json ?? {}) as Record<string, unknown>;
  const status = STATUSES.find((known) => known === stated);
  if (typeof message_id !== "string" || status === undefined) return [];
  return [{ messageId: message_id, status, code: typeof code === "string" ? code : null }];
}

function numberIn(json: unknown, name: string): number {
  const value = memberOf(json, name);
  if (typeof value !== "number") throw notUnderstood();
  return value;
}

/** Undefined as well when the answer is no JSON at all: a proxy's page. */
function memberOf(json: unknown, name: string): unknown {
  return ((json ?? {}) as Record<string, unknown>)[name];
}

function notUnderstood(cause?: unknown): AgentError {
  return new AgentError("answer-malformed", "the service's answer was not understood", { cause });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
