/**
 * What the API says when it refuses: one closed list of codes, and RFC 9457 problem details made from it.
 *
 * Every door (HTTP, stream, gRPC) answers with the same codes. A code stands for one status and one meaning, for good: clients
 * and `docs/api.md` rely on it. Nothing in a problem comes from keys, other agents' data or the inside of an error.
 */
import type { DelegationRule } from "../protocol/delegation.ts";
import { Refusal, Unavailable } from "../protocol/refusal.ts";
import type { Rule } from "../store/permissions.ts";

interface Meaning {
  readonly status: number;
  readonly title: string;
  /** What to do, where the place that refused says nothing more exact. */
  readonly fix: string;
  /** The same content, sent and signed again later, may be taken. */
  readonly retryable?: true;
}

/** The table of `docs/api.md`. */
export const problems = {
  "signature-missing": {
    status: 401,
    title: "The request is not signed.",
    fix: "Sign it with HTTP Message Signatures (RFC 9421): headers Signature-Input and Signature, key id = your agent id.",
  },
  "signature-invalid": {
    status: 401,
    title: "The request's signature does not hold.",
    fix: "Sign exactly what is sent, with the key of the agent named in keyid.",
  },
  "signature-expired": {
    status: 401,
    title: "The request's signature has expired.",
    fix: "Sign again; compare your clock with server_time.",
  },
  "signature-replayed": {
    status: 401,
    title: "A request with this nonce was seen before.",
    fix: "Sign every request anew, with a fresh nonce, also when the same content is sent again.",
  },
  "sign-again": {
    status: 401,
    title: "The memory of nonces is younger than this signature.",
    fix: "Sign the same request again and send it.",
    retryable: true,
  },
  "digest-mismatch": {
    status: 401,
    title: "Content-Digest is not the digest of the body that arrived.",
    fix: "Send Content-Digest: sha-256=:<base64 of the SHA-256 of the body>: (RFC 9530) and let nothing change the body.",
  },
  "agent-unknown": {
    status: 401,
    title: "No agent with this id is registered.",
    fix: "Register first: POST /messaging/agents.",
  },
  "signing-key-ended": {
    status: 401,
    title: "The signing key is not in force any more.",
    fix: "Sign with another key of the agent; its own adds new ones: PUT /messaging/signing-keys/{key_id}.",
  },
  "agent-suspended": {
    status: 403,
    title: "The agent is not allowed to call any more.",
    fix: "Ask the operator.",
  },
  "delegation-refused": {
    status: 403,
    title: "The chain of delegation that the request presents does not hold.",
    fix: "See rule, and docs/delegation.md; leave the header Sealpost-Delegation out to act without one.",
  },
  "operator-unknown": {
    status: 401,
    title: "The operator's token is missing or wrong.",
    fix: "Send Authorization: Bearer <SEALPOST_OPS_TOKEN>; signatures of agents do not open this call.",
  },
  "owner-unknown": {
    status: 401,
    title: "The owner's token is missing or does not hold.",
    fix: "Send Authorization: Bearer <token>: a statement with purpose manage, or a token of the provider with the scope for it (docs/identity.md).",
  },
  "registration-closed": {
    status: 403,
    title: "This service takes no new agents: nobody vouches for owners.",
    fix: "The operator names trusted issuers in SEALPOST_OWNERS_FILE, or sets SEALPOST_REGISTRATION=open (docs/identity.md).",
  },
  "owner-statement-missing": {
    status: 403,
    title: "An agent needs an owner here.",
    fix: "Give owner_statement: a statement of the agent's owner for this key, or a token of its provider (docs/identity.md).",
  },
  "owner-statement-invalid": {
    status: 403,
    title: "The owner's statement does not hold.",
    fix: "Have it made anew, for this service and this key (docs/identity.md).",
  },
  "owner-mismatch": {
    status: 409,
    title: "The agent has another owner.",
    fix: "An agent keeps its owner: register another agent, with another key.",
  },
  "agent-revoked": {
    status: 409,
    title: "The agent is revoked, and stays so.",
    fix: "Register another agent, with another key.",
  },
  "suspended-by-operator": {
    status: 409,
    title: "An operator has suspended the agent.",
    fix: "Ask who runs the service: what an operator has suspended only an operator resumes.",
  },
  malformed: { status: 400, title: "The input does not have the right form.", fix: "See field and detail." },
  "too-many": { status: 400, title: "The call has too many items.", fix: "Spread them over several calls." },
  "too-large": { status: 413, title: "The input is too large.", fix: "Send less in one piece." },
  "recipient-unknown": {
    status: 404,
    title: "The recipient is not registered, or not active.",
    fix: "Check the recipient's agent id.",
  },
  "not-allowed": {
    status: 403,
    title: "The recipient does not take messages from this agent.",
    fix: "See rule (docs/policies.md). contacts-only: ask to become a contact, POST /messaging/contacts/{agent}.",
  },
  "contact-declined": {
    status: 403,
    title: "The agent has declined this request within the last 30 days.",
    fix: "Wait; the agent itself can ask, or take back that it has declined.",
  },
  "contact-unknown": {
    status: 404,
    title: "No request of this agent waits for an answer.",
    fix: "See what waits: GET /messaging/contacts?state=pending.",
  },
  "contacts-full": {
    status: 409,
    title: "There are as many contacts, or requests that wait, as one agent may have.",
    fix: "Remove those that are not needed any more: DELETE /messaging/contacts/{agent}.",
  },
  "contact-requests-full": {
    status: 409,
    title: "As many requests as may wait for this agent do.",
    fix: "Ask again when the agent has answered some.",
  },
  "list-full": {
    status: 409,
    title: "The list holds as many agents as it may.",
    fix: "Take one off that is not needed any more: DELETE /messaging/policy/{list}/{agent}.",
  },
  "sender-mismatch": {
    status: 403,
    title: "The envelope's sender is not the agent that sends it.",
    fix: "An agent sends only its own envelopes: sender_id must be the caller's agent id.",
  },
  "message-id-too-old": {
    status: 422,
    title: "The time in message_id is more than 7 days ago.",
    fix: "Ask for the message's status; if it is unknown, encrypt the content anew under a new id.",
  },
  "message-id-in-future": {
    status: 422,
    title: "The time in message_id is more than 5 minutes ahead.",
    fix: "Set the clock; compare it with server_time.",
  },
  "timestamp-mismatch": {
    status: 422,
    title: "The timestamp is not the time in message_id.",
    fix: "Make the UUIDv7 of message_id from the envelope's timestamp.",
  },
  "message-id-reused": {
    status: 409,
    title: "This message_id was used for other bytes.",
    fix: "Send the identical envelope again, or give the new one a new message_id.",
  },
  "message-unknown": {
    status: 404,
    title: "No such message, or none of yours.",
    fix: "Only sender and recipient may ask; the sender defaults to the caller.",
  },
  "retry-mismatch": {
    status: 403,
    title: "The retry request is not the caller's own.",
    fix: "Only who got a message asks for it again: recipient_id must be the caller's agent id.",
  },
  "retry-signature-invalid": {
    status: 422,
    title: "The retry request's signature does not verify under the caller's identity key.",
    fix: "Sign label ‖ sender ‖ recipient ‖ message ‖ session ‖ ratchet key ‖ time with the identity key (protocol.md §4).",
  },
  "prekeys-unavailable": {
    status: 404,
    title: "The agent has no signed prekey yet.",
    fix: "Try again when the agent has uploaded its prekeys.",
  },
  "prekey-conflict": {
    status: 409,
    title: "A prekey id was used for another key.",
    fix: "Give the new key a new id.",
  },
  "prekey-signature-invalid": {
    status: 422,
    title: "A prekey's signature does not verify under the agent's identity key.",
    fix: "Sign label ‖ id ‖ created_at ‖ public key with the identity key (protocol.md §2).",
  },
  "identity-key-invalid": {
    status: 422,
    title: "The identity key is not the canonical encoding of an Ed25519 point of prime order.",
    fix: "Make the key pair with an ordinary Ed25519 library.",
  },
  "no-such-agent": {
    status: 404,
    title: "No agent that this call may touch has this id.",
    fix: "Check the agent id, and whose agent it is.",
  },
  "keys-unavailable": {
    status: 409,
    title: "The service does not hold the keys of this agent.",
    fix: "See to it that this process reaches the keys of server custody; then do the same again.",
  },
  "custody-mismatch": {
    status: 409,
    title: "This call is for agents of the other custody.",
    fix: "Agents that hold their keys use POST /messaging/send and GET /messaging/receive; those whose keys the service holds POST /messaging/messages and POST /messaging/open.",
  },
  "custody-unavailable": {
    status: 501,
    title: "This service holds no keys for agents.",
    fix: "Register with an identity key of your own, or ask the operator for a keyring (docs/custody.md).",
  },
  "keys-destroyed": {
    status: 410,
    title: "The keys that the service held for this agent are gone for good.",
    fix: "Register a new agent with a new access key.",
  },
  "epoch-refused": {
    status: 422,
    title: "The content is sealed to a key that is not taken any more, or is none of this service's.",
    fix: "Ask for the key of today (GET /messaging/ingress-key), seal the same content to it and send it under the same message_id.",
  },
  "stream-open": {
    status: 409,
    title: "The agent has an open stream, which gets everything.",
    fix: "Read from the stream, or close it before polling.",
  },
  "push-unavailable": {
    status: 501,
    title: "This service wakes no devices of this kind.",
    fix: "Register a device of another kind, or ask the operator (docs/push.md).",
  },
  "webhook-refused": {
    status: 422,
    title: "The webhook's URL is not one that this service calls.",
    fix: "Give an https URL with the name of a public host, without user and fragment, on port 443 or one from 1024 on.",
  },
  "devices-full": {
    status: 409,
    title: "The agent has as many devices as it may.",
    fix: "Forget one that is not used any more: DELETE /messaging/devices/{id}.",
  },
  "checkpoint-unknown": {
    status: 404,
    title: "There is no such checkpoint of the audit.",
    fix: "Ask without a size for the newest; where there is none, jobs has no key to sign with (docs/audit.md), or nothing was recorded yet.",
  },
  "not-in-log": {
    status: 404,
    title: "The audit log does not reach as far.",
    fix: "Name a record and sizes that the newest checkpoint has: GET /ops/audit/checkpoint.",
  },
  "signing-key-invalid": {
    status: 422,
    title: "The signing key, its certificate or its proof does not hold.",
    fix: "Sign label ‖ agent id ‖ key ‖ not_after with the agent's own key and with the signing key (docs/protocol.md §9).",
  },
  "signing-key-taken": {
    status: 409,
    title: "The key is one of another agent, or an agent's own.",
    fix: "Make a key pair of its own for each worker.",
  },
  "signing-key-removed": {
    status: 409,
    title: "The key was removed, and stays so.",
    fix: "Make another key pair.",
  },
  "signing-key-shorter": {
    status: 409,
    title: "The certificate ends before one of the key that was taken.",
    fix: "To end a key early, remove it: DELETE /messaging/signing-keys/{key_id}.",
  },
  "signing-keys-full": {
    status: 409,
    title: "The agent has as many signing keys as it may.",
    fix: "Remove one that is not used any more: DELETE /messaging/signing-keys/{key_id}.",
  },
  "dead-letter-unknown": {
    status: 404,
    title: "There is no dead letter at this place.",
    fix: "See what lies there: GET /ops/dead-letters.",
  },
  "not-found": { status: 404, title: "There is nothing at this path.", fix: "See /openapi.json." },
  "method-not-allowed": { status: 405, title: "The path does not take this method.", fix: "See the Allow header." },
  "unsupported-media-type": {
    status: 415,
    title: "The body is not plain application/json.",
    fix: "Send Content-Type: application/json and no Content-Encoding.",
  },
  "upgrade-required": {
    status: 426,
    title: "This path speaks WebSocket only.",
    fix: "Send a signed WebSocket upgrade (docs/stream.md).",
  },
  "pair-full": {
    status: 429,
    title: "Too many messages of this sender wait for this recipient.",
    fix: "Send the rest of the call at once, and the messages that errors names again after Retry-After: there is room when the recipient has answered.",
    retryable: true,
  },
  "rate-limited": {
    status: 429,
    title: "This was asked for too often.",
    fix: "Send the same again after Retry-After.",
    retryable: true,
  },
  overloaded: {
    status: 503,
    title: "More is waiting than can be taken right now.",
    fix: "Send the same again after Retry-After.",
    retryable: true,
  },
  unavailable: {
    status: 503,
    title: "Something the service needs is away.",
    fix: "Send the same again after Retry-After.",
    retryable: true,
  },
  internal: {
    status: 500,
    title: "The service failed.",
    fix: "Send the same again later; if it stays, tell the operator.",
    retryable: true,
  },
} as const satisfies Record<string, Meaning>;

export type ProblemCode = keyof typeof problems;

export const problemCodes = Object.keys(problems) as readonly ProblemCode[];

/** Statuses, for documents. */
export function statusOf(code: ProblemCode): number {
  return problems[code].status;
}

/** One item of a call that was refused. */
export interface Fault {
  /** JSON pointer into the call, such as `/envelopes/3/recipient_id`. */
  readonly pointer: string;
  readonly code: ProblemCode;
  readonly detail: string;
  readonly messageId?: string;
  /** Where the refusal is about the pair of sender and recipient. */
  readonly recipientId?: string;
  /** Of `not-allowed`: which rule of the recipient. */
  readonly rule?: Rule;
}

interface ApiRefusalDetail {
  /** A JSON pointer into the body, or the name of a header, parameter or signature component. */
  readonly field?: string;
  readonly fix?: string;
  /** What is wrong with exactly this input. */
  readonly detail?: string;
  readonly faults?: readonly Fault[];
  /** Signatures and clocks: helps a caller whose clock or host name differs. */
  readonly authority?: string;
  /** When the same may be asked for again; for the header Retry-After. */
  readonly retryAfterMs?: number;
  /** Which limit was met. */
  readonly policy?: string;
  /** Of `not-allowed`: which rule of the recipient; of `delegation-refused`: which rule the chain breaks. */
  readonly rule?: Rule | DelegationRule | undefined;
}

/** A refusal of the API. `faults` is not empty when single items of a call were refused; nothing of that call was done. */
export class ApiRefusal extends Refusal<ProblemCode> {
  readonly detail: string | undefined;
  readonly faults: readonly Fault[];
  readonly authority: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly policy: string | undefined;
  readonly rule: Rule | DelegationRule | undefined;

  constructor(code: ProblemCode, detail: ApiRefusalDetail = {}) {
    super(code, detail);
    this.detail = detail.detail;
    this.faults = detail.faults ?? [];
    this.authority = detail.authority;
    this.retryAfterMs = detail.retryAfterMs;
    this.policy = detail.policy;
    this.rule = detail.rule;
  }
}

/** Of all the items of a call, these were refused; the call's code is the first one's. */
export class BatchRefusal extends ApiRefusal {
  constructor(
    faults: readonly [Fault, ...Fault[]],
    more: { readonly fix?: string | undefined; readonly retryAfterMs?: number; readonly policy?: string } = {},
  ) {
    const [{ code, pointer, detail, rule }] = faults;
    const { fix, retryAfterMs, policy } = more;
    super(code, {
      ...{ field: pointer, detail, faults, rule },
      ...(fix === undefined ? {} : { fix }),
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
      ...(policy === undefined ? {} : { policy }),
    });
  }
}

/** RFC 9457, as it is sent (snake_case). */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly code: ProblemCode;
  readonly detail: string;
  readonly field?: string;
  readonly fix?: string;
  readonly retryable: boolean;
  /** Of `not-allowed`: which rule of the recipient; of `delegation-refused`: which rule the chain breaks. */
  readonly rule?: Rule | DelegationRule;
  readonly errors?: readonly {
    pointer: string;
    code: ProblemCode;
    detail: string;
    message_id?: string;
    recipient_id?: string;
    rule?: Rule;
  }[];
  /** Seconds, as the header Retry-After says them: a stream has no headers. */
  readonly retry_after?: number;
  /** Which limit was met (docs/limits.md), where it is one of the rate limits. */
  readonly policy?: string;
  /** RFC 3339; where a clock was judged. */
  readonly server_time?: string;
  /** The `@authority` the service checks signatures against; where a signature failed. */
  readonly server_authority?: string;
}

/** Seconds a client should wait before it sends the same again: longer than a Kafka leader election usually takes. */
const RETRY_AFTER_SECONDS = 2;

/** What the header Retry-After says; null where it does not belong. */
export function retryAfterSecondsOf(problem: Problem): number | null {
  return problem.retry_after ?? (problem.status === 503 ? RETRY_AFTER_SECONDS : null);
}

const clockCodes: ReadonlySet<ProblemCode> = new Set([
  "delegation-refused",
  "signature-invalid",
  "signature-expired",
  "sign-again",
  "message-id-too-old",
  "message-id-in-future",
]);

/** The problem for whatever an operation threw. `internal` means a bug: the caller of this function logs the error. */
export function problemOf(error: unknown, nowMs: number): Problem {
  if (error instanceof ApiRefusal) return fromRefusal(error, error.code, nowMs, error);
  if (error instanceof Refusal && isProblemCode(error.code)) return fromRefusal(error, error.code, nowMs);
  if (error instanceof Unavailable) return bare(error.door === "service" ? "overloaded" : "unavailable");
  return bare("internal");
}

function bare(code: ProblemCode): Problem {
  const { status, title, fix } = problems[code];
  return { type: typeOf(code), title, status, code, detail: title, fix, retryable: isRetryable(code) };
}

function fromRefusal(
  refusal: Refusal,
  code: ProblemCode,
  nowMs: number,
  more: Partial<Pick<ApiRefusal, "detail" | "faults" | "authority" | "retryAfterMs" | "policy" | "rule">> = {},
): Problem {
  const base = bare(code);
  return {
    ...base,
    detail: more.detail ?? base.detail,
    ...(refusal.field === undefined ? {} : { field: refusal.field }),
    fix: refusal.fix ?? problems[code].fix,
    ...(more.rule === undefined ? {} : { rule: more.rule }),
    ...(more.faults === undefined || more.faults.length === 0 ? {} : { errors: more.faults.map(toWire) }),
    ...(more.retryAfterMs === undefined ? {} : { retry_after: Math.ceil(more.retryAfterMs / 1000) }),
    ...(more.policy === undefined ? {} : { policy: more.policy }),
    ...(clockCodes.has(code) ? { server_time: new Date(nowMs).toISOString() } : {}),
    ...(more.authority === undefined ? {} : { server_authority: more.authority }),
  };
}

function toWire({
  pointer,
  code,
  detail,
  messageId,
  recipientId,
  rule,
}: Fault): NonNullable<Problem["errors"]>[number] {
  return {
    ...{ pointer, code, detail },
    ...(messageId === undefined ? {} : { message_id: messageId }),
    ...(recipientId === undefined ? {} : { recipient_id: recipientId }),
    ...(rule === undefined ? {} : { rule }),
  };
}

function typeOf(code: ProblemCode): string {
  return `https://sealpost.dev/problems/${code}`;
}

function isRetryable(code: ProblemCode): boolean {
  return (problems[code] as Meaning).retryable === true;
}

function isProblemCode(code: string): code is ProblemCode {
  return Object.hasOwn(problems, code);
}
