/**
 * What each fact says in the one form of the audit: who did what to whom, when, how large. Metadata only; docs/audit.md has the same table in words. Pure.
 *
 * A fact topic that is missing here is not audited: a test compares the list with the catalogue.
 */
import type {
  AgentChanged,
  AuditRecord,
  Custody,
  MessageDelivered,
  MessageDiscarded,
  MessageQueued,
} from "../../schemas/values.ts";
import * as topics from "../../streams/catalogue.ts";
import type { Topic } from "../../streams/topic.ts";

/** What a fact says, without its place in the log and without where it stands. */
type Described = Omit<
  AuditRecord,
  "eventId" | "logIndex" | "sourceTopic" | "sourcePartition" | "sourceOffset" | "sourceEventId"
>;

interface FactKind {
  readonly topic: Topic<unknown>;
  /** The value is of the topic's type. */
  readonly describe: (value: unknown) => Described;
}

const SERVICE = "service";
const OPERATOR = "operator";
const OK = "ok";

/** What most facts have not. */
const plain = {
  ...{ delegation: [], senderId: null, recipientId: null, messageId: null, size: null },
  ...{ outcome: OK, subject: null, reason: null },
} as const;

export const factKinds: readonly FactKind[] = [
  kind(topics.messageQueued, accepted),
  kind(topics.messageDelivered, (value) => ({
    ...ofDelivery(value),
    action: "message.delivered",
    occurredAt: value.deliveredAt,
  })),
  kind(topics.messageAcknowledged, (value) => ({
    ...ofDelivery(value),
    action: "message.acknowledged",
    occurredAt: value.acknowledgedAt,
  })),
  kind(topics.messageDiscarded, (value) => ({
    ...ofMessage(value),
    actor: discardedBy(value),
    action: "message.discarded",
    occurredAt: value.discardedAt,
    outcome: value.code,
  })),
  kind(topics.messageUndeliverable, (value) => ({
    ...ofMessage(value),
    actor: SERVICE,
    action: "message.undeliverable",
    occurredAt: value.undeliverableAt,
    outcome: "not-woken",
  })),
  kind(topics.messageSetAside, (value) => ({
    ...ofMessage(value),
    actor: SERVICE,
    action: "message.set-aside",
    occurredAt: value.setAsideAt,
    outcome: "connections-broke",
  })),
  kind(topics.messageRetried, ({ itemId: messageId, senderId, recipientId, retriedAt: occurredAt }) => ({
    ...ofMessage({ messageId, senderId, recipientId }),
    ...{ actor: OPERATOR, action: "message.retried", occurredAt },
  })),
  kind(topics.agentChanged, changed),
  kind(topics.prekeyPublished, ({ agentId, custody, publishedAt: occurredAt }) => ({
    ...ofKeys(agentId, custody),
    ...{ action: "prekey.published", occurredAt },
  })),
  kind(topics.prekeyClaimed, ({ agentId, claimerId, lastResort, claimedAt: occurredAt }) => ({
    ...{ ...plain, agentId, actor: claimerId, action: "prekey.claimed", recipientId: claimerId, occurredAt },
    outcome: lastResort ? "last-resort" : OK,
  })),
  kind(topics.prekeyLow, ({ agentId, lowAt: occurredAt }) => ({
    ...{ ...plain, agentId, actor: SERVICE, action: "prekey.low", occurredAt, outcome: "low" },
  })),
  kind(topics.prekeyRotated, ({ agentId, custody, rotatedAt: occurredAt }) => ({
    ...ofKeys(agentId, custody),
    ...{ action: "prekey.rotated", occurredAt },
  })),
  kind(topics.prekeyRotationFailed, ({ agentId, code: outcome, failedAt: occurredAt }) => ({
    ...{ ...plain, agentId, actor: SERVICE, action: "prekey.rotation-failed", occurredAt, outcome },
  })),
  kind(topics.sessionInitialized, ({ initiatorId, responderId, messageId, initializedAt: occurredAt }) => ({
    ...{ ...plain, agentId: initiatorId, actor: initiatorId, action: "session.initialized", occurredAt },
    ...{ senderId: initiatorId, recipientId: responderId, messageId },
  })),
];

function kind<Value>(topic: Topic<Value>, describe: (value: Value) => Described): FactKind {
  return { topic, describe: (value) => describe(value as Value) };
}

/** The message, and with `retry` what asks its sender to say one anew; its bytes are no ciphertext. */
function accepted(value: MessageQueued): Described {
  const { kind: itemKind, itemId: messageId, senderId, recipientId, size, delegation = [], acceptedAt } = value;
  const isMessage = itemKind === "message";
  return {
    ...ofMessage({ messageId, senderId, recipientId }),
    actor: senderId,
    delegation: delegation.map(({ issuerId, tokenId }) => ({ issuerId, tokenId })),
    action: isMessage ? "message.accepted" : "retry-request.accepted",
    size: isMessage ? size : null,
    occurredAt: acceptedAt,
  };
}

/** The recipient's client says so. */
function ofDelivery(value: MessageDelivered): Omit<Described, "action" | "occurredAt"> {
  return { ...ofMessage(value), actor: value.recipientId, size: value.size };
}

function ofMessage({
  messageId,
  senderId,
  recipientId,
}: Pick<MessageDiscarded, "messageId" | "senderId" | "recipientId">) {
  return { ...plain, agentId: recipientId, senderId, recipientId, messageId };
}

/** A client refuses, an operator deletes; all other ends are the service's. */
function discardedBy({ code, recipientId }: MessageDiscarded): string {
  if (code === "refused") return recipientId;
  return code === "deleted" ? OPERATOR : SERVICE;
}

/** Whoever holds the keys makes prekeys. */
function ofKeys(agentId: string, custody: Custody) {
  return { ...plain, agentId, actor: custody === "server" ? SERVICE : agentId };
}

function changed(value: AgentChanged): Described {
  const { agentId, change, actor = null, peerId = null, reason = null, changedAt: occurredAt } = value;
  const usual = change === "device-gone" ? SERVICE : agentId;
  const about = { recipientId: peerId, subject: value.keyId ?? value.tokenId ?? value.deviceId ?? null, reason };
  return { ...plain, agentId, actor: actor ?? usual, action: `agent.${change}`, ...about, occurredAt };
}
