/**
 * Every topic of Sealpost, declared once (architecture §3). Creation, checks, schemas and documents derive from this list.
 *
 * The schema of a topic is `schemas/<name>.avsc`, its registry subject `<name>-value`. All topics use LogAppendTime.
 */
import type {
  AgentChanged,
  AuditRecord,
  MessageAcknowledged,
  MessageDelivered,
  MessageDiscarded,
  MessageEncrypted,
  MessageQueued,
  MessageReceipt,
  MessageRetried,
  MessageSend,
  MessageSetAside,
  MessageUndeliverable,
  PrekeyClaimed,
  PrekeyLow,
  PrekeyPublished,
  PrekeyRotated,
  PrekeyRotationFailed,
  PushRequested,
  PushRetry,
  SessionInitialized,
  Usage,
} from "../schemas/values.ts";
import type { Topic } from "./topic.ts";

const dayMs = 24 * 60 * 60 * 1000;

/** A producer request holds at most 900 KB per partition; the rest is room for the batch header and for record overhead. */
const messageBytesMax = 1_048_588;

const recipient = "recipient_id: a mailbox's items stay in order";
const agent = "agent_id: an agent's facts stay in order";

export const messageSend: Topic<MessageSend> = {
  name: "message.send.v1",
  key: "sender_id:recipient_id: what an agent says to a peer stays in order",
  retention: { trimmedAfterMs: 3 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const messageEncrypted: Topic<MessageEncrypted> = {
  name: "message.encrypted.v1",
  key: recipient,
  retention: { trimmedAfterMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const messageQueued: Topic<MessageQueued> = {
  name: "message.queued.v1",
  key: recipient,
  retention: { trimmedAfterMs: 3 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const messageReceipt: Topic<MessageReceipt> = {
  name: "message.receipt.v1",
  key: recipient,
  retention: { trimmedAfterMs: 3 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const messageDelivered: Topic<MessageDelivered> = {
  name: "message.delivered.v1",
  key: recipient,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const messageAcknowledged: Topic<MessageAcknowledged> = {
  name: "message.acknowledged.v1",
  key: recipient,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const messageDiscarded: Topic<MessageDiscarded> = {
  name: "message.discarded.v1",
  key: recipient,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const messageUndeliverable: Topic<MessageUndeliverable> = {
  name: "message.undeliverable.v1",
  key: recipient,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const messageSetAside: Topic<MessageSetAside> = {
  name: "message.set-aside.v1",
  key: recipient,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const messageRetried: Topic<MessageRetried> = {
  name: "message.retried.v1",
  key: recipient,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const pushRequested: Topic<PushRequested> = {
  name: "push.requested.v1",
  key: recipient,
  retention: { trimmedAfterMs: 3 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

/** A record is read when it has stood there for as long as it says; the topics keep those apart that wait longer. */
function pushRetry(name: string): Topic<PushRetry> {
  return {
    name,
    schema: "push.retry.v1",
    key: recipient,
    retention: { trimmedAfterMs: 3 * dayMs },
    messageBytesMax,
    deadLetters: true,
  };
}

export const pushRetry10s = pushRetry("push.retry.10s.v1");
export const pushRetry30s = pushRetry("push.retry.30s.v1");
export const pushRetry90s = pushRetry("push.retry.90s.v1");

export const agentChanged: Topic<AgentChanged> = {
  name: "agent.changed.v1",
  key: agent,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const prekeyPublished: Topic<PrekeyPublished> = {
  name: "prekey.published.v1",
  key: agent,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const prekeyClaimed: Topic<PrekeyClaimed> = {
  name: "prekey.claimed.v1",
  key: agent,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const prekeyLow: Topic<PrekeyLow> = {
  name: "prekey.low.v1",
  key: agent,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const prekeyRotated: Topic<PrekeyRotated> = {
  name: "prekey.rotated.v1",
  key: agent,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const prekeyRotationFailed: Topic<PrekeyRotationFailed> = {
  name: "prekey.rotation-failed.v1",
  key: agent,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const sessionInitialized: Topic<SessionInitialized> = {
  name: "session.initialized.v1",
  key: agent,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

/** What compliance replays. Kept for longer, or for ever, where the configuration says so. */
export const auditRecord: Topic<AuditRecord> = {
  name: "audit.v1",
  key: agent,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

/** What billing reads. */
export const usage: Topic<Usage> = {
  name: "usage.v1",
  key: agent,
  retention: { keptMs: 30 * dayMs },
  messageBytesMax,
  deadLetters: true,
};

export const catalogue: readonly Topic<unknown>[] = [
  messageSend,
  messageEncrypted,
  messageQueued,
  messageReceipt,
  messageDelivered,
  messageAcknowledged,
  messageDiscarded,
  messageUndeliverable,
  messageSetAside,
  messageRetried,
  pushRequested,
  pushRetry10s,
  pushRetry30s,
  pushRetry90s,
  agentChanged,
  prekeyPublished,
  prekeyClaimed,
  prekeyLow,
  prekeyRotated,
  prekeyRotationFailed,
  sessionInitialized,
  auditRecord,
  usage,
];
