/**
 * Everything the SDK throws on purpose, told apart by class and by `code`, never by text.
 *
 * `retryable`: may the same call, unchanged, succeed later? Messages hold a code and nothing else that varies: no id, key, content
 * or peer's input.
 */

/** The base of all of them. Anything else that is thrown is a bug, or the caller's own. */
export class AgentError extends Error {
  override readonly name: string = "AgentError";
  readonly code: string;
  readonly retryable: boolean;

  constructor(code: string, message: string, detail: { retryable?: boolean; cause?: unknown } = {}) {
    super(message, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.code = code;
    this.retryable = detail.retryable ?? false;
  }
}

/** The local store cannot be used. Codes: `store-locked`, `store-key-missing`, `store-key-wrong`, `store-key-malformed`, `store-damaged`, `store-newer`, `store-fault`, `store-custody`, `store-elsewhere`. */
export class StoreError extends AgentError {
  override readonly name = "StoreError";
}

/** The service could not be reached, did not answer in time, or said 503 or 429 to the whole of a call. */
export class ServiceUnavailable extends AgentError {
  override readonly name = "ServiceUnavailable";
  /** What the service asked to wait, in milliseconds; null when it did not. */
  readonly retryAfterMs: number | null;

  constructor(detail: { cause?: unknown; retryAfterMs?: number | null } = {}) {
    super("unavailable", "the service cannot be reached or is overloaded", { retryable: true, cause: detail.cause });
    this.retryAfterMs = detail.retryAfterMs ?? null;
  }
}

/** The service refused a request: `code` is the one of its problem document. */
export class ServiceRefused extends AgentError {
  override readonly name = "ServiceRefused";
  /** The HTTP status. */
  readonly status: number;
  /** The service's words on it: the member, and what to do. Null when it has none. */
  readonly field: string | null;
  readonly fix: string | null;
  /** Of `not-allowed`: which rule of the recipient (docs/policies.md); of `delegation-refused`: which rule the chain breaks (docs/delegation.md); else null. */
  readonly rule: string | null;
  /** Which items of the call it is about; none when it is about the call. */
  readonly itemFaults: readonly { readonly index: number; readonly code: string; readonly rule: string | null }[];
  /** What the service asked to wait before the same is tried again, in milliseconds; null when it did not. */
  readonly retryAfterMs: number | null;

  constructor(
    problem: Pick<
      ServiceRefused,
      "code" | "status" | "retryable" | "field" | "fix" | "rule" | "itemFaults" | "retryAfterMs"
    >,
  ) {
    super(problem.code, `the service refused the request: ${problem.code}`, { retryable: problem.retryable });
    this.itemFaults = problem.itemFaults;
    this.retryAfterMs = problem.retryAfterMs;
    this.status = problem.status;
    this.field = problem.field;
    this.fix = problem.fix;
    this.rule = problem.rule;
  }
}

/** The clocks of this machine and of the service are too far apart for signatures (and for message ids). Code `clock-skew`. */
export class ClockSkew extends AgentError {
  override readonly name = "ClockSkew";
  /** Milliseconds since the epoch; null when the service did not tell. */
  readonly serviceTime: number | null;
  readonly ownTime: number;

  constructor(ownTime: number, serviceTime: number | null) {
    const theirs = serviceTime === null ? "unknown" : new Date(serviceTime).toISOString();
    super("clock-skew", `the clocks disagree: here ${new Date(ownTime).toISOString()}, at the service ${theirs}`, {
      retryable: true,
    });
    this.ownTime = ownTime;
    this.serviceTime = serviceTime;
  }
}

/** Refusals after which this agent does not go on: they are about itself and not about what it asked for. */
export const STOPPING_CODES: ReadonlySet<string> = new Set([
  "agent-suspended",
  "delegation-refused",
  "signing-key-ended",
]);

/** Rules of recipients, as the service names them. Where only one word says why a message ended, it is the rule. */
const RULES: ReadonlySet<string> = new Set(["recipient-inactive", "blocked", "contacts-only", "not-on-allow-list"]);

/** The code, and the rule where the word is one. */
function reasonOf(word: string): { readonly code: string; readonly rule: string | null } {
  return RULES.has(word) ? { code: "not-allowed", rule: word } : { code: word, rule: null };
}

/**
 * A message was not taken, and will not be. `code` is the service's (`recipient-unknown`, `not-allowed`, `message-id-reused`, …), the protocol's
 * for a bundle that must not be used (`signature-invalid`, …), or `content-too-large`, `recipient-malformed`.
 */
export class SendRejected extends AgentError {
  override readonly name = "SendRejected";
  /** Null when it was refused before it got an id. */
  readonly messageId: string | null;
  readonly recipientId: string;
  /** Of `not-allowed`: which rule of the recipient (docs/policies.md); else null. */
  readonly rule: string | null;

  /** @param reason a code, or the recipient's rule */
  constructor(
    reason: string,
    detail: { messageId: string | null; recipientId: string; retryable?: boolean; cause?: unknown },
  ) {
    super(reasonOf(reason).code, `the message was rejected: ${reason}`, detail);
    this.rule = reasonOf(reason).rule;
    this.messageId = detail.messageId;
    this.recipientId = detail.recipientId;
  }
}

/** A message that the service had taken ended without being acknowledged (expired, evicted, refused by its recipient, …). */
export class MessageDiscarded extends AgentError {
  override readonly name = "MessageDiscarded";
  readonly messageId: string;
  /** Of `not-allowed`: which rule of the recipient (docs/policies.md); else null. */
  readonly rule: string | null;

  /** @param reason a code, or the recipient's rule */
  constructor(reason: string, messageId: string) {
    super(reasonOf(reason).code, `the message ended without being acknowledged: ${reason}`);
    this.rule = reasonOf(reason).rule;
    this.messageId = messageId;
  }
}

/**
 * This agent does not go on by itself. Codes: `closed`; `superseded` (the same identity opened a newer stream elsewhere);
 * a code of the service, such as `agent-suspended` or `keys-destroyed`; `failed` (a bug, in `cause`). What was stored stays stored: messages not yet accepted leave at the next open.
 */
export class AgentStopped extends AgentError {
  override readonly name = "AgentStopped";

  constructor(code: string, cause?: unknown) {
    super(code, `the agent has stopped: ${code}`, { cause });
  }
}
