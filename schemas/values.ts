/**
 * What each topic's records hold, as the code sees it: the Avro schemas beside this file in camelCase.
 *
 * Ids of agents are 43-character strings, UUIDs lower-case text, binary `Uint8Array`, times milliseconds since the epoch.
 * A test encodes one value of each with its schema, so that the two cannot drift apart.
 */

export type ItemKind = "message" | "retry";
export type Custody = "agent" | "server";
/** The recipient's door; `none` where no client was involved. */
export type Door = "http" | "stream" | "grpc" | "none";

/** `message.encrypted.v1`: a mailbox item as it was accepted. Key: recipientId. */
export interface MessageEncrypted {
  readonly kind: ItemKind;
  readonly itemId: string;
  readonly senderId: string;
  readonly recipientId: string;
  readonly custody: Custody;
  /** The envelope's canonical bytes (protocol.md §6), or a retry request's JSON. */
  readonly body: Uint8Array;
}

export type CommandKind = "message" | "rekey";

/** `message.send.v1`: a command to the encryption tier. Key: senderId:recipientId. */
export interface MessageSend {
  readonly kind: CommandKind;
  readonly messageId: string;
  readonly senderId: string;
  readonly recipientId: string;
  /** The padded frame, sealed (protocol/ingress.ts); empty for `rekey`. */
  readonly sealed: Uint8Array;
  /** 32 bytes (store/custody/command-macs.ts); empty for `rekey`. */
  readonly hmac: Uint8Array;
  /** 16 bytes for `rekey`, empty for `message`. */
  readonly sessionId: Uint8Array;
  readonly sentAt: number;
}

/** `message.queued.v1`: a mailbox item that is stored. Key: recipientId. */
export interface MessageQueued extends MessageEncrypted {
  readonly seq: number;
  readonly sessionId: Uint8Array;
  readonly sendCounter: number;
  readonly size: number;
  readonly acceptedAt: number;
  readonly queuedAt: number;
}

/** Delivered, undeliverable and aside are marks; the others end an item. */
export type Outcome =
  | "delivered"
  | "acknowledged"
  | "refused"
  | "evicted"
  | "expired"
  | "deleted"
  | "undeliverable"
  | "aside";

export interface ReceiptItem {
  readonly outcome: Outcome;
  readonly senderId: string;
  readonly itemId: string;
  readonly at: number;
  readonly door: Door;
  readonly code: string | null;
}

/** `message.receipt.v1`: what became of 1 to 256 items of one mailbox. Key: recipientId. */
export interface MessageReceipt {
  readonly recipientId: string;
  readonly items: readonly ReceiptItem[];
}

/** `message.delivered.v1`. Key: recipientId; unique by eventId. */
export interface MessageDelivered {
  readonly eventId: string;
  readonly messageId: string;
  readonly senderId: string;
  readonly recipientId: string;
  readonly sessionId: Uint8Array;
  readonly sendCounter: number;
  readonly seq: number;
  readonly size: number;
  readonly acceptedAt: number;
  readonly queuedAt: number;
  readonly deliveredAt: number;
  readonly door: Door;
  readonly custody: Custody;
}

/** `message.acknowledged.v1`. Key: recipientId; unique by eventId. */
export interface MessageAcknowledged extends MessageDelivered {
  readonly acknowledgedAt: number;
}

/** `message.discarded.v1`: ended unread, or never stored. Key: recipientId; unique by eventId. */
export interface MessageDiscarded {
  readonly eventId: string;
  readonly messageId: string;
  readonly senderId: string;
  readonly recipientId: string;
  readonly code: string;
  readonly detail: string | null;
  readonly digest: Uint8Array | null;
  readonly discardedAt: number;
}

/** `push.requested.v1`. Key: recipientId. */
export interface PushRequested {
  readonly recipientId: string;
  readonly seq: number;
  readonly requestedAt: number;
}

/** `agent.changed.v1`. Key: agentId; unique by eventId. */
export interface AgentChanged {
  readonly eventId: string;
  readonly agentId: string;
  readonly change: "registered";
  readonly custody: Custody;
  readonly changedAt: number;
}

/** One-time prekeys that can still be handed out. */
interface PrekeysRemaining {
  /** X25519. */
  readonly oneTimePrekeysRemaining: number;
  /** ML-KEM-768. */
  readonly kemPrekeysRemaining: number;
}

/** `prekey.published.v1`. Key: agentId. */
export interface PrekeyPublished extends PrekeysRemaining {
  readonly eventId: string;
  readonly agentId: string;
  readonly custody: Custody;
  /** The ids of what is new; null where nothing is. */
  readonly signedPrekeyId: string | null;
  readonly lastResortKemPrekeyId: string | null;
  /** How many are new. */
  readonly oneTimePrekeys: number;
  readonly kemPrekeys: number;
  /** How many that waited are handed out no more. */
  readonly retired: number;
  readonly publishedAt: number;
}

/** `prekey.claimed.v1`. Key: agentId, whose prekeys they are. */
export interface PrekeyClaimed extends PrekeysRemaining {
  readonly eventId: string;
  readonly agentId: string;
  readonly claimerId: string;
  readonly signedPrekeyId: string;
  readonly oneTimePrekeyId: string | null;
  readonly kemPrekeyId: string | null;
  /** No X25519 one-time prekey, or the KEM prekey of last resort. */
  readonly lastResort: boolean;
  readonly claimedAt: number;
}

/** `prekey.low.v1`. Key: agentId. */
export interface PrekeyLow extends PrekeysRemaining {
  readonly eventId: string;
  readonly agentId: string;
  readonly custody: Custody;
  /** Null when there is no rate yet. */
  readonly timeToEmptyMs: number | null;
  readonly lowAt: number;
}

/** `prekey.rotated.v1`. Key: agentId. */
export interface PrekeyRotated {
  readonly eventId: string;
  readonly agentId: string;
  readonly custody: Custody;
  readonly signedPrekeyId: string;
  readonly previousSignedPrekeyId: string;
  /** In force now; null when the agent has none. */
  readonly lastResortKemPrekeyId: string | null;
  readonly rotatedAt: number;
}

/** `prekey.rotation-failed.v1`. Key: agentId. */
export interface PrekeyRotationFailed {
  readonly eventId: string;
  readonly agentId: string;
  readonly custody: Custody;
  readonly code: string;
  /** For people. */
  readonly alert: string;
  /** The one that stays active; null when there is none. */
  readonly signedPrekeyId: string | null;
  readonly signedPrekeyCreatedAt: number | null;
  readonly failedAt: number;
}

/** `session.initialized.v1`. Key: initiatorId. */
export interface SessionInitialized {
  readonly eventId: string;
  /** 16 bytes. */
  readonly sessionId: Uint8Array;
  readonly initiatorId: string;
  readonly responderId: string;
  readonly suite: number;
  readonly signedPrekeyId: string;
  readonly oneTimePrekeyId: string | null;
  readonly kemPrekeyId: string | null;
  readonly messageId: string;
  /** Who holds the initiator's keys. */
  readonly custody: Custody;
  readonly initializedAt: number;
}
