/**
 * The service's operations for an agent that holds its keys, over signed HTTP (signed-http.ts) and the stream.
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
import { memberOf, notUnderstood, understood } from "./answers.ts";
import { type Credentials, callSigner, ownerMembers } from "./credentials.ts";
import { Policies } from "./policies.ts";
import { askOutcomes, askPairSessions, askUsage, tellRevocation } from "./questions.ts";
import { type Signer, signRequest } from "./request-signature.ts";
import type {
  HeldPrekeys,
  MessageOutcome,
  PairSessions,
  PrekeyUpload,
  SentSession,
  SentSessionsPage,
  Service,
  StreamHandlers,
  UsagePage,
  UsageQuestion,
} from "./service.ts";
import { SignedHttp } from "./signed-http.ts";
import { openStream } from "./stream-connection.ts";

const DIGEST_BYTES = 32;

/** One-time prekeys of a kind that a service keeps for an agent, with room for one that keeps more. */
const STOCK_MAX = 10_000;

export class ServiceClient implements Service {
  readonly policies: Policies;
  readonly #base: URL;
  readonly #http: SignedHttp;
  readonly #me: Identity;
  readonly #signer: Signer;
  readonly #credentials: Credentials;
  readonly #signal: AbortSignal;

  /** `signal` ends everything that is under way. */
  constructor(base: URL, me: Identity, signal: AbortSignal, credentials: Credentials = {}) {
    this.#base = base;
    this.#me = me;
    this.#signer = callSigner(me, credentials);
    this.#http = new SignedHttp(base, this.#signer, signal);
    this.#credentials = credentials;
    this.policies = new Policies(() => this.#http);
    this.#signal = signal;
  }

  async register(): Promise<void> {
    const owner = await ownerMembers(this.#credentials, this.#me);
    const json = { identity_key: encodeBase64Url(this.#me.signing.publicKey), custody: "agent", ...owner };
    // By the key that is registered, whichever signs what follows.
    const http = new SignedHttp(this.#base, this.#me, this.#signal);
    await http.call({ method: "POST", path: "/messaging/agents", json });
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
    await this.#http.call({ method: "POST", path: "/messaging/upload-prekeys", json });
  }

  async prekeyStock(): Promise<HeldPrekeys> {
    const answer = await this.#http.call({ method: "GET", path: "/messaging/prekeys" });
    return understood(() => readStock(new JsonReader(answer)));
  }

  /** Not checked. The same request id gives the same bundle. */
  async claimBundle(agentId: string, requestId: string): Promise<Bundle> {
    const answer = await this.#http.call({
      method: "POST",
      path: `/messaging/prekeys/${agentId}`,
      headers: { "idempotency-key": requestId },
    });
    return understood(() => bundleFromJson(memberOf(answer, "bundle")));
  }

  messageOutcomes(messageIds: readonly string[]): Promise<MessageOutcome[]> {
    return askOutcomes(this.#http, messageIds);
  }

  pairSessions(peerId: string): Promise<PairSessions> {
    return askPairSessions(this.#http, peerId);
  }

  usage(question: UsageQuestion, cursor: string | null): Promise<UsagePage> {
    return askUsage(this.#http, question, cursor);
  }

  revokeDelegation(tokenId: string): Promise<void> {
    return tellRevocation(this.#http, tokenId);
  }

  async sentSessions(cursor: string | null): Promise<SentSessionsPage> {
    const query = cursor === null ? {} : { query: { after: cursor } };
    const answer = await this.#http.call({ method: "GET", path: "/messaging/sessions", ...query });
    const [sessions, next] = [memberOf(answer, "sessions"), memberOf(answer, "cursor")];
    if (!Array.isArray(sessions)) throw notUnderstood();
    return {
      sessions: understood(() => sessions.map((session) => readSentSession(new JsonReader(session)))),
      cursor: typeof next === "string" ? next : null,
    };
  }

  async requestRetry(itemId: string, request: RetryRequest): Promise<void> {
    const json = { item_id: itemId, retry: retryRequestToJson(request) };
    await this.#http.call({ method: "POST", path: "/messaging/retry-requests", json });
  }

  openStream(handlers: StreamHandlers): Promise<void> {
    const url = this.#http.url("/messaging/stream");
    const headers = signRequest(this.#signer, { method: "GET", url, body: null, now: Date.now() });
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    return openStream({ url, headers }, handlers, this.#signal);
  }
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
