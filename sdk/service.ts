/**
 * What an agent asks of the service: the port between the two. `service-client.ts` speaks HTTP and WebSocket; tests put a service in memory in
 * its place.
 *
 * Every method throws `ServiceUnavailable` (try again), `ServiceRefused`, `ClockSkew`, and the reason of the signal that ends the agent.
 */

import type { Bundle, KemPrekey, OneTimePrekey, SignedPrekey } from "../protocol/prekeys.ts";
import type { RetryRequest } from "../protocol/retry-request.ts";
import type { ClientFrame, ServerFrame } from "../protocol/stream-frames.ts";
import type { Policies } from "./policies.ts";

/** What agents of both custodies ask. */
export interface Questions {
  /** What became of messages of this agent, of at most 100; those that the service does not know are missing. */
  messageOutcomes(messageIds: readonly string[]): Promise<MessageOutcome[]>;
  /** What it knows of the sessions with a peer. */
  pairSessions(peerId: string): Promise<PairSessions>;
  /** What this agent used; a page, the earliest first. `cursor`: of the page before. */
  usage(question: UsageQuestion, cursor: string | null): Promise<UsagePage>;
  /** Whom this agent lets in, and who lets it in. */
  readonly policies: Policies;
  /** Takes a delegation of this agent's back. Harmless when repeated. */
  revokeDelegation(tokenId: string): Promise<void>;
}

export interface Service extends Questions {
  /** Harmless when repeated. */
  register(): Promise<void>;
  /** All or nothing; the same again changes nothing. */
  uploadPrekeys(upload: PrekeyUpload): Promise<void>;
  /** What the service holds of this agent and can hand out. */
  prekeyStock(): Promise<HeldPrekeys>;
  /** Not checked. The same request id gives the same bundle. */
  claimBundle(agentId: string, requestId: string): Promise<Bundle>;
  /** The latest message of this agent in each of its sessions, the newest first, a page at a time. */
  sentSessions(cursor: string | null): Promise<SentSessionsPage>;
  /** Asks the sender of a message that did not open for its content. The same item id again is the same request. */
  requestRetry(itemId: string, request: RetryRequest): Promise<void>;
  /** Resolves when the stream is open. */
  openStream(handlers: StreamHandlers): Promise<void>;
}

export interface PrekeyUpload {
  readonly signedPrekey: SignedPrekey;
  readonly lastResortKemPrekey: KemPrekey;
  /** At most 200. */
  readonly oneTimePrekeys: readonly OneTimePrekey[];
  /** At most 200. */
  readonly kemPrekeys: readonly KemPrekey[];
  /** Every one-time prekey that is not in this upload is not handed out any more. */
  readonly replace: boolean;
}

export interface HeldPrekeys {
  /** When the signed prekey in force was made, milliseconds; null when there is none. */
  readonly signedCreatedAt: number | null;
  readonly hasLastResort: boolean;
  /** X25519 one-time prekeys, and KEM one-time prekeys. */
  readonly oneTime: number;
  readonly kem: number;
  /** `prekeyStockDigest` over all of them. */
  readonly digest: Uint8Array;
}

/** What the service may say of a message. */
export const MESSAGE_STATUSES = [
  "queued",
  "undeliverable",
  "delivered",
  "acknowledged",
  "refused",
  "evicted",
  "expired",
  "deleted",
  "discarded",
] as const;

export interface MessageOutcome {
  readonly messageId: string;
  readonly status: (typeof MESSAGE_STATUSES)[number];
  readonly code: string | null;
}

/** The newest message of one side of a session. */
export interface SessionSide {
  /** How many there were, as far as the service counted them. */
  readonly messages: number;
  readonly sendCounter: number;
  readonly lastMessageId: string;
  /** When the service took it, milliseconds. */
  readonly lastAt: number;
}

/** What the service knows of a session: nothing secret. Null: not known. */
export interface PairSession {
  /** 16 bytes. */
  readonly sessionId: Uint8Array;
  readonly initiatorId: string | null;
  /** 1 X3DH, 2 PQXDH with ML-KEM-768. */
  readonly suite: number | null;
  readonly initializedAt: number | null;
  readonly sent: SessionSide | null;
  readonly received: SessionSide | null;
}

/** @public */
export interface PairSessions {
  /** Who holds this agent's keys, and the peer's: the agent itself, or the service. Null: not known. */
  readonly custody: "agent" | "server" | null;
  readonly peerCustody: "agent" | "server" | null;
  /** Can whoever runs the service read what the two say to each other? */
  readonly isReadByOperator: boolean;
  /** The newest first, at most 100. */
  readonly sessions: readonly PairSession[];
}

/** @public */
export interface UsageQuestion {
  /** Beginnings of hours in UTC, of days midnights, ms; `to` is not in it. Left out: the last 24 hours, or 30 days, up to the end of this one. */
  readonly from?: number;
  readonly to?: number;
  /** Default: hour. */
  readonly granularity?: "hour" | "day";
}

/** What an agent used in an hour or a day. Bytes are of ciphertext. @public */
export interface UsagePeriod {
  /** Its beginning, ms. */
  readonly start: number;
  readonly messagesSent: number;
  readonly bytesSent: number;
  readonly messagesReceived: number;
  readonly bytesReceived: number;
  readonly messagesAcknowledged: number;
  readonly bytesAcknowledged: number;
  readonly messagesDiscarded: number;
  readonly bytesDiscarded: number;
  /** What waited in the mailbox when the time was over. */
  readonly messagesStored: number;
  readonly bytesStored: number;
}

export interface UsagePage {
  readonly periods: readonly UsagePeriod[];
  /** Of the next page; null at the end. */
  readonly cursor: string | null;
}

export interface SentSession {
  readonly peerId: string;
  /** 16 bytes. */
  readonly sessionId: Uint8Array;
  readonly messageId: string;
  /** When the service took that message, milliseconds. */
  readonly lastAt: number;
}

export interface SentSessionsPage {
  readonly sessions: readonly SentSession[];
  /** Of the next page; null at the end. */
  readonly cursor: string | null;
}

export interface StreamHandlers {
  /** Once, before any frame. */
  readonly onOpen: (connection: StreamConnection) => void;
  readonly onFrames: (frames: readonly ServerFrame[]) => void;
  /** Once, with the close code; 1006 when the connection just broke. */
  readonly onClose: (code: number) => void;
}

export interface StreamConnection {
  /** Nothing happens when the connection is closing: what it would have answered is answered on the next one. */
  send(frames: readonly ClientFrame[]): void;
  /** Says goodbye; `onClose` follows. */
  close(): void;
  /** Ends it at once; `onClose` follows. */
  terminate(): void;
}
