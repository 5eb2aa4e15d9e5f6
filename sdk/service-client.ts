/**
 * The service's HTTP operations for one agent, signed. No state but the identity, no retries but one: a service whose replay memory is new
 * asks for a fresh signature (`sign-again`).
 *
 * Throws `ServiceUnavailable` (try again), `ServiceRefused`, `ClockSkew`, and the signal's reason.
 */
import { encodeBase64Url } from "../protocol/base64url.ts";
import { SESSION_ID_BYTES } from "../protocol/envelope.ts";
import { type Identity, isAgentId } from "../protocol/identity.ts";
import { JsonReader } from "../protocol/json-reader.ts";
import { type Bundle, bundleFromJson, oneTimePrekeyToJson, signedPrekeyToJson } from "../protocol/prekeys.ts";
import { Refusal } from "../protocol/refusal.ts";
import { type RetryRequest, retryRequestToJson } from "../protocol/retry-request.ts";
import { AgentError, ServiceRefused, ServiceUnavailable } from "./errors.ts";
import { type AnswerHead, readProblem, refusedBy } from "./problem.ts";
import { signRequest } from "./request-signature.ts";
import type {
  HeldPrekeys,
  MessageOutcome,
  PrekeyUpload,
  SentSession,
  SentSessionsPage,
  Service,
  StreamHandlers,
} from "./service.ts";
import { openStream } from "./stream-connection.ts";

/** Slower answers are taken for none: everything asked here takes milliseconds. */
const ANSWER_MS_MAX = 15_000;
const SIGNINGS_MAX = 3;

const STATUSES = ["queued", "delivered", "acknowledged", "refused", "evicted", "expired", "deleted"] as const;

const DIGEST_BYTES = 32;

/** One-time prekeys of a kind that a service keeps for an agent, with room for one that keeps more. */
const STOCK_MAX = 10_000;

interface Call {
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly json?: unknown;
  readonly headers?: Record<string, string>;
}

export class ServiceClient implements Service {
  readonly #base: URL;
  readonly #me: Identity;
  readonly #signal: AbortSignal;

  /** `signal` ends everything that is under way. */
  constructor(base: URL, me: Identity, signal: AbortSignal) {
    this.#base = base;
    this.#me = me;
    this.#signal = signal;
  }

  async register(): Promise<void> {
    const json = { identity_key: encodeBase64Url(this.#me.signing.publicKey), custody: "agent" };
    await this.#call({ method: "POST", path: "/messaging/agents", json });
  }

  async uploadPrekeys(upload: PrekeyUpload): Promise<void> {
    const { signedPrekey, lastResortKemPrekey, oneTimePrekeys, kemPrekeys, replace } = upload;
    const json = {
      signed_prekey: signedPrekeyToJson(signedPrekey),
      last_resort_kem_prekey: signedPrekeyToJson(lastResortKemPrekey),
      ...(oneTimePrekeys.length > 0 && { one_time_prekeys: oneTimePrekeys.map(oneTimePrekeyToJson) }),
      ...(kemPrekeys.length > 0 && { kem_prekeys: kemPrekeys.map(signedPrekeyToJson) }),
      ...(replace && { replace }),
    };
    await this.#call({ method: "POST", path: "/messaging/upload-prekeys", json });
  }

  async prekeyStock(): Promise<HeldPrekeys> {
    const answer = await this.#call({ method: "GET", path: "/messaging/prekeys" });
    return understood(() => readStock(new JsonReader(answer)));
  }

  /** Not checked. The same request id gives the same bundle. */
  async claimBundle(agentId: string, requestId: string): Promise<Bundle> {
    const answer = await this.#call({
      method: "POST",
      path: `/messaging/prekeys/${agentId}`,
      headers: { "idempotency-key": requestId },
    });
    return understood(() => bundleFromJson(memberOf(answer, "bundle")));
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

  async sentSessions(cursor: string | null): Promise<SentSessionsPage> {
    const query = cursor === null ? {} : { query: { after: cursor } };
    const answer = await this.#call({ method: "GET", path: "/messaging/sessions", ...query });
    const [sessions, next] = [memberOf(answer, "sessions"), memberOf(answer, "cursor")];
    if (!Array.isArray(sessions)) throw notUnderstood();
    return {
      sessions: understood(() => sessions.map((session) => readSentSession(new JsonReader(session)))),
      cursor: typeof next === "string" ? next : null,
    };
  }

  async requestRetry(itemId: string, request: RetryRequest): Promise<void> {
    const json = { item_id: itemId, retry: retryRequestToJson(request) };
    await this.#call({ method: "POST", path: "/messaging/retry-requests", json });
  }

  openStream(handlers: StreamHandlers): Promise<void> {
    const url = this.#url("/messaging/stream");
    const headers = signRequest(this.#me, { method: "GET", url, body: null, now: Date.now() });
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    return openStream({ url, headers }, handlers, this.#signal);
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

  async #attempt({ method, path, query = {}, json, headers = {} }: Call): Promise<Answer> {
    const url = this.#url(path);
    url.search = new URLSearchParams(query).toString();
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

interface Answer extends AnswerHead {
  readonly ok: boolean;
  /** Null when it is none. */
  readonly json: unknown;
}

/** None for a message that is not known. */
function readOutcome(json: unknown): MessageOutcome[] {
  const { message_id, status: stated, code } = (json ?? {}) as Record<string, unknown>;
  const status = STATUSES.find((known) => known === stated);
  if (typeof message_id !== "string" || status === undefined) return [];
  return [{ messageId: message_id, status, code: typeof code === "string" ? code : null }];
}

/** What a later service tells beside it is read past. */
function readStock(object: JsonReader): HeldPrekeys {
  return {
    signedCreatedAt: object.has("signed_prekey") ? object.object("signed_prekey").timestamp("created_at") : null,
    hasLastResort: object.has("last_resort_kem_prekey"),
    oneTime: countIn(object, "one_time_prekeys"),
    kem: countIn(object, "kem_prekeys"),
    digest: object.bytes("digest", DIGEST_BYTES),
  };
}

function countIn(object: JsonReader, name: string): number {
  const count = object.number(name);
  if (!Number.isInteger(count) || count < 0 || count > STOCK_MAX) throw new Refusal("malformed");
  return count;
}

function readSentSession(object: JsonReader): SentSession {
  const peerId = object.string("peer_id");
  if (!isAgentId(peerId)) throw new Refusal("malformed");
  return {
    peerId,
    sessionId: object.bytes("session_id", SESSION_ID_BYTES),
    messageId: object.uuid("message_id"),
    lastAt: object.timestamp("last_at"),
  };
}

function understood<Value>(read: () => Value): Value {
  try {
    return read();
  } catch (error) {
    if (error instanceof Refusal) throw notUnderstood(error);
    throw error;
  }
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
