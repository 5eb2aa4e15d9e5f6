/**
 * What an agent asks of the service: the port between the two. `service-client.ts` speaks HTTP and WebSocket; tests put a service in memory in
 * its place.
 *
 * Every method throws `ServiceUnavailable` (try again), `ServiceRefused`, `ClockSkew`, and the reason of the signal that ends the agent.
 */
import type { Bundle, KemPrekey, OneTimePrekey, SignedPrekey } from "../protocol/prekeys.ts";
import type { RetryRequest } from "../protocol/retry-request.ts";
import type { ClientFrame, ServerFrame } from "../protocol/stream-frames.ts";

export interface Service {
  /** Harmless when repeated. */
  register(): Promise<void>;
  /** All or nothing; the same again changes nothing. */
  uploadPrekeys(upload: PrekeyUpload): Promise<void>;
  /** What the service holds of this agent and can hand out. */
  prekeyStock(): Promise<HeldPrekeys>;
  /** Not checked. The same request id gives the same bundle. */
  claimBundle(agentId: string, requestId: string): Promise<Bundle>;
  /** What became of messages of this agent, of at most 100; those that the service does not know are missing. */
  messageOutcomes(messageIds: readonly string[]): Promise<MessageOutcome[]>;
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

export interface MessageOutcome {
  readonly messageId: string;
  readonly status: "queued" | "delivered" | "acknowledged" | "refused" | "evicted" | "expired" | "deleted";
  readonly code: string | null;
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
