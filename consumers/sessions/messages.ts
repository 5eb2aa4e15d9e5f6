/**
 * What a record shows of the session its message belongs to. Pure.
 */
import { decodeEnvelope } from "../../protocol/envelope.ts";
import { messageIdTime } from "../../protocol/message-id.ts";
import { Refusal } from "../../protocol/refusal.ts";
import type { MessageEncrypted } from "../../schemas/values.ts";
import type { SessionKey } from "../../store/session-facts.ts";
import type { Inbound } from "../../streams/consumer.ts";

/** The public part of a message. */
export interface Message extends SessionKey {
  readonly record: Inbound<MessageEncrypted>;
  readonly messageId: string;
  readonly dhPublicKey: Uint8Array;
  readonly sendCounter: number;
  readonly previousCounter: number;
  /** As the sender attached it; empty when it did not. */
  readonly initiation: Uint8Array;
}

/** How large a message may be is decided at ingress; a record cannot be larger than this. */
const anySize = { ciphertextBytesMax: 1024 * 1024 };

/** In their order; what is no message is left out. */
export function toMessages(batch: readonly Inbound<MessageEncrypted>[]): readonly Message[] {
  return batch.flatMap((record) => messageOf(record) ?? []);
}

/** null for other kinds, and for what queuing refuses: the facts are of messages that somebody can get. */
function messageOf(record: Inbound<MessageEncrypted>): Message | null {
  const { kind, itemId, senderId: ownerId, recipientId: peerId, body } = record.value;
  if (kind !== "message" || record.key !== peerId || messageIdTime(itemId) === null) return null;
  const envelope = envelopeOf(body);
  if (envelope?.messageId !== itemId || envelope.senderId !== ownerId || envelope.recipientId !== peerId) return null;
  const { messageId, sessionId, dhPublicKey, sendCounter, previousCounter, initiation } = envelope;
  return { record, ownerId, peerId, sessionId, messageId, dhPublicKey, sendCounter, previousCounter, initiation };
}

function envelopeOf(body: Uint8Array) {
  try {
    return decodeEnvelope(body, anySize);
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}
