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
  /** The chain that the sender presented, from its root; absent where there was none. */
  readonly delegation?: readonly Delegation[];
}

/** A link of a chain: who delegated, and the `jti` of its token. */
export interface Delegation {
  readonly issuerId: string;
  readonly tokenId: string;
}

export type CommandKind = "message" | "rekey" | "retry" | "repair";

/** `message.send.v1`: a command to the encryption tier. Key: senderId:recipientId. */
export interface MessageSend {
  readonly kind: CommandKind;
  readonly messageId: string;
  readonly senderId: string;
  readonly recipientId: string;
  /** `message`: the padded frame, sealed (protocol/ingress.ts); else empty. */
  readonly sealed: Uint8Array;
  /** `message`: 32 bytes (store/custody/custody-keys.ts); else empty. */
  readonly hmac: Uint8Array;
  /** `rekey`: 16 bytes; else empty. */
  readonly sessionId: Uint8Array;
  /** `retry`: the message that did not open; `repair`: the item that asks for one; else null. */
  readonly aboutId: string | null;
  readonly sentAt: number;
  /** As in `MessageEncrypted`. */
  readonly delegation?: readonly Delegation[];
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

/** What waits undelivered in a mailbox from behind one seq up to and with another, and could not be announced. */
export interface UndeliverableRange {
  readonly afterSeq: number;
  readonly untilSeq: number;
  readonly at: number;
}

/** An item that an operator had tried again. */
export interface RetriedItem {
  readonly senderId: string;
  readonly itemId: string;
  readonly at: number;
}

/** `message.receipt.v1`: what became of 1 to 256 items of one mailbox, or of a range of it; and what is tried again. Key: recipientId. */
export interface MessageReceipt {
  readonly recipientId: string;
  readonly items: readonly ReceiptItem[];
  readonly undeliverable?: UndeliverableRange | null;
  /** Lose their marks, after what the rest says. */
  readonly retried?: readonly RetriedItem[] | null;
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
  /** Of what was stored; null or absent for what never was. */
  readonly seq?: number | null;
  readonly size?: number | null;
}

/** `message.undeliverable.v1`: it waits for an agent that could not be woken. Key: recipientId; unique by eventId. */
export interface MessageUndeliverable {
  readonly eventId: string;
  readonly messageId: string;
  readonly senderId: string;
  readonly recipientId: string;
  readonly seq: number;
  readonly acceptedAt: number;
  readonly queuedAt: number;
  readonly undeliverableAt: number;
}

/** `message.set-aside.v1`: it waits on, and is not handed out. Key: recipientId; unique by eventId. */
export interface MessageSetAside {
  readonly eventId: string;
  readonly messageId: string;
  readonly senderId: string;
  readonly recipientId: string;
  readonly seq: number;
  readonly setAsideAt: number;
}

/** `message.retried.v1`: an item that was set aside or undeliverable is handed out again. Key: recipientId; unique by eventId. */
export interface MessageRetried {
  readonly eventId: string;
  readonly kind: ItemKind;
  readonly itemId: string;
  readonly senderId: string;
  readonly recipientId: string;
  readonly seq: number;
  readonly wasSetAside: boolean;
  readonly wasUndeliverable: boolean;
  readonly retriedAt: number;
}

/** `push.requested.v1`. Key: recipientId. */
export interface PushRequested {
  readonly recipientId: string;
  readonly seq: number;
  readonly requestedAt: number;
}

/** `push.retry.*.v1`: devices that could not be woken. Key: recipientId. */
export interface PushRetry extends PushRequested {
  readonly wakeId: string;
  /** The attempt that comes next: 2 and more. */
  readonly attempt: number;
  readonly deviceIds: readonly string[];
  /** Another device of the agent was woken, or is to be by another wake. */
  readonly woken: boolean;
  /** From the append to the attempt. */
  readonly delayMs: number;
  /** What is left to wait then. */
  readonly restMs: number;
}

/** `device-removed`: by its agent; `device-gone`: its provider says that there is no such device any more. */
export type DeviceChange = "device-registered" | "device-removed" | "device-gone";

/** `agent.changed.v1`. Key: agentId; unique by eventId. */
export interface AgentChanged {
  readonly eventId: string;
  readonly agentId: string;
  readonly change:
    | "registered"
    | "suspended"
    | "resumed"
    | "revoked"
    /** One that was registered without an owner has one now. */
    | "owner-set"
    | "signing-key-added"
    | "signing-key-removed"
    | "policy-changed"
    | "contact-requested"
    | "contact-accepted"
    | "contact-declined"
    | "contact-removed"
    | "blocked"
    | "unblocked"
    | "delegation-revoked"
    | "audit-replayed"
    | DeviceChange;
  readonly custody: Custody;
  readonly changedAt: number;
  /** Which device, where it is about one. */
  readonly deviceId?: string | null;
  /** Who did it, where it was not the agent itself: `owner:ISSUER#SUBJECT`, `operator` or `service`. */
  readonly actor?: string | null;
  /** Why, in the words of who did it, or a code. */
  readonly reason?: string | null;
  /** Whom a policy or a contact is about. */
  readonly peerId?: string | null;
  /** Thumbprint of the signing key that was added or removed. */
  readonly keyId?: string | null;
  /** `jti` of the delegation that was revoked. */
  readonly tokenId?: string | null;
}

/** `audit.v1`: one fact of the log, in one form for all. Key: agentId. */
export interface AuditRecord {
  readonly eventId: string;
  /** Place in the Merkle log: 0, 1, 2 without a gap. */
  readonly logIndex: number;
  /** Whose fact it is. */
  readonly agentId: string;
  /** Who did it: an agent id, `owner:ISSUER#SUBJECT`, `operator` or `service`. */
  readonly actor: string;
  readonly delegation: readonly Delegation[];
  /** `object.verb`. */
  readonly action: string;
  readonly senderId: string | null;
  readonly recipientId: string | null;
  readonly messageId: string | null;
  /** Bytes of ciphertext, of messages; else null. */
  readonly size: number | null;
  readonly occurredAt: number;
  /** `ok`, or the code of why not. */
  readonly outcome: string;
  /** The device, signing key or delegation (`jti`) that it is about; else null. */
  readonly subject: string | null;
  /** Why, in the words of who did it, or which policy; else null. */
  readonly reason: string | null;
  readonly sourceTopic: string;
  readonly sourcePartition: number;
  readonly sourceOffset: number;
  /** `ce_id` of the fact. */
  readonly sourceEventId: string;
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

/** What was counted of an agent in an hour: only grows. Bytes are of ciphertext. */
export interface UsageCounts {
  readonly messagesSent: number;
  readonly bytesSent: number;
  readonly messagesReceived: number;
  readonly bytesReceived: number;
  /** Ends of what it received: read by the agent, or gone unread. */
  readonly messagesAcknowledged: number;
  readonly bytesAcknowledged: number;
  readonly messagesDiscarded: number;
  readonly bytesDiscarded: number;
}

/** What was waiting in the agent's mailbox when the time was over. */
export interface UsageStored {
  readonly messagesStored: number;
  readonly bytesStored: number;
}

/** `usage.v1`: an agent's hour, as far as it is counted. Key: agentId; of one hour the highest revision is true. */
export interface Usage extends UsageCounts, UsageStored {
  readonly eventId: string;
  readonly agentId: string;
  /** When the hour began. */
  readonly hour: number;
  readonly revision: number;
}
