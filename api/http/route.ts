/**
 * What a route is: one declaration, from which it is served, checked and documented.
 */
import type { IncomingHttpHeaders, ServerResponse } from "node:http";
import type { z } from "zod";
import type { AuthDeps, Authenticated, Caller } from "../auth.ts";
import type { FrontDoorDeps } from "../front-door.ts";
import type { AcknowledgeDeps, Answer, ResolveSeqsDeps } from "../operations/acknowledge.ts";
import type { AuditDeps } from "../operations/audit.ts";
import type { ClaimBundleDeps } from "../operations/claim-bundle.ts";
import type { ContactsDeps } from "../operations/contacts.ts";
import type { DeadLettersDeps } from "../operations/dead-letters.ts";
import type { DevicesDeps } from "../operations/devices.ts";
import type { ManageAgentsDeps } from "../operations/manage-agents.ts";
import type { MessageStatusDeps } from "../operations/message-status.ts";
import type { OpenMessagesDeps } from "../operations/open-messages.ts";
import type { OwnPrekeysDeps } from "../operations/own-prekeys.ts";
import type { PoliciesDeps } from "../operations/policies.ts";
import type { ReceiveDeps } from "../operations/receive.ts";
import type { RecordReplayDeps } from "../operations/record-replay.ts";
import type { RegisterAgentDeps } from "../operations/register-agent.ts";
import type { ReportDeliveredDeps } from "../operations/report-delivered.ts";
import type { RequestRetryDeps } from "../operations/request-retry.ts";
import type { RevokeDelegationDeps } from "../operations/revoke-delegation.ts";
import type { RotateAgentDeps } from "../operations/rotate-agent.ts";
import type { SendDeps } from "../operations/send.ts";
import type { SendMessagesDeps } from "../operations/send-messages.ts";
import type { PairSessionsDeps, SentSessionsDeps } from "../operations/session-facts.ts";
import type { SigningKeysDeps } from "../operations/signing-keys.ts";
import type { StuckDeps } from "../operations/stuck.ts";
import type { UploadPrekeysDeps } from "../operations/upload-prekeys.ts";
import type { UsageDeps } from "../operations/usage.ts";
import type { Owner } from "../owners/ownership.ts";
import type { ProblemCode } from "../problem.ts";
import type { ShedDeps } from "../sends-under-way.ts";
import type { BodiesHeld } from "./bodies-held.ts";
import type { NameItem } from "./validation.ts";

/** Everything the API needs from outside, joined in `bin/`. */
export interface HttpDeps
  extends AuthDeps,
    FrontDoorDeps,
    RegisterAgentDeps,
    UploadPrekeysDeps,
    ClaimBundleDeps,
    OwnPrekeysDeps,
    SendDeps,
    ReceiveDeps,
    AcknowledgeDeps,
    ResolveSeqsDeps,
    ReportDeliveredDeps,
    MessageStatusDeps,
    PairSessionsDeps,
    SentSessionsDeps,
    RequestRetryDeps,
    RotateAgentDeps,
    StuckDeps,
    DeadLettersDeps,
    UsageDeps,
    AuditDeps,
    RecordReplayDeps,
    SendMessagesDeps,
    OpenMessagesDeps,
    DevicesDeps,
    RevokeDelegationDeps,
    PoliciesDeps,
    ContactsDeps,
    SigningKeysDeps,
    ManageAgentsDeps,
    ShedDeps {
  /** Makes an answer, whose head was written, the agent's newest stream. Throws `Unavailable` while none is taken. */
  readonly openEvents: (caller: Caller) => (response: ServerResponse) => void;
  /** The agent's stream in this process, if it has one here, has room for as many more. */
  readonly answered: (agentId: string, answers: readonly Answer[]) => void;
  /** What operators prove themselves with; undefined: there are no calls for operators. */
  readonly opsToken: string | undefined;
  /** `host[:port]` that clients sign as `@authority`; undefined: the Host header is believed. */
  readonly publicAuthority: string | undefined;
  /** By name: is it there? What is not makes the process not ready. A check that throws or hangs counts as no. */
  readonly readiness: Readonly<Record<string, () => boolean | Promise<boolean>>>;
  /** Of request bodies that this process holds. */
  readonly bodies: BodiesHeld;
  /** Prometheus text. */
  readonly metrics: () => Promise<string>;
  /** Whether the memory of nonces is shared by all processes. */
  readonly redisReady: () => boolean;
  /** A failure that is no outage: a bug of ours. */
  readonly onBug: (error: unknown) => void;
}

/**
 * Who must have signed. `key-in-body`: the key that the request registers. `owner`, `operator`: nobody, but an owner's token, or the operators', is
 * needed.
 */
export type SignedBy = "agent" | "key-in-body" | "owner" | "operator" | "nobody";

/** What a handler is given, all of it checked. */
export interface Request<Path, Query, Body> {
  /** Without an id where no agent signed. */
  readonly caller: Authenticated;
  /** Who calls by an owner's token; else null. */
  readonly owner: Owner | null;
  readonly path: Path;
  readonly query: Query;
  readonly body: Body;
  readonly headers: IncomingHttpHeaders;
  /** Aborts when the client is gone. */
  readonly signal: AbortSignal;
}

export interface Reply {
  readonly status: number;
  /** JSON, unless `text` is given. */
  readonly json?: unknown;
  readonly text?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Given: the head of the answer is written, and the rest is left to this. */
  readonly open?: (response: ServerResponse) => void;
  /** Runs when the answer was written to the client's connection; not when the client was gone before. */
  readonly written?: () => Promise<void>;
}

export interface AnswerDescription {
  readonly description: string;
  readonly schema?: z.ZodType;
  readonly mediaType?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface RouteSpec<Path extends z.ZodObject, Query extends z.ZodObject, Body extends z.ZodObject> {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  /** As in OpenAPI: `/messaging/prekeys/{recipient}`. */
  readonly path: string;
  readonly operationId: string;
  readonly summary: string;
  readonly description?: string;
  readonly signedBy: SignedBy;
  /** While Redis is away a signature can be used once per process: where that would do harm, the call is refused (architecture §5). */
  readonly needsRedis?: true;
  /** Ordinary calls that it counts as (docs/limits.md); default 1. */
  readonly cost?: number;
  /** It sends messages: its answer tells how its caller stands with that limit as well. */
  readonly sends?: true;
  readonly request: {
    readonly path?: Path;
    readonly query?: Query;
    /** Absent: the route takes no body. */
    readonly body?: Body;
    /** Headers that mean something here, with what. */
    readonly headers?: Readonly<Record<string, string>>;
    /** The message id a pointer into the body belongs to. */
    readonly messageIdAt?: (body: unknown) => NameItem;
  };
  readonly answers: Readonly<Record<number, AnswerDescription>>;
  /** Codes besides those every route of its kind has. */
  readonly refuses: readonly ProblemCode[];
  readonly handle: (
    deps: HttpDeps,
    request: Request<z.output<Path>, z.output<Query>, z.output<Body>>,
  ) => Reply | Promise<Reply>;
}

/** A route whose types were checked where it was declared. */
export type Route = RouteSpec<z.ZodObject, z.ZodObject, z.ZodObject>;

/** Checks that the handler fits the schemas. */
export function route<Path extends z.ZodObject, Query extends z.ZodObject, Body extends z.ZodObject>(
  spec: RouteSpec<Path, Query, Body>,
): Route {
  return spec as unknown as Route;
}
