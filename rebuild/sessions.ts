/**
 * What each agent sent to each peer: `messaging_session_facts`, folded from the envelopes. Pure.
 *
 * A message counts when it was made after all that counted before it: a repeat never does. Made: by the time in its id, then by its counter, then by its id.
 */
import { decodeEnvelope, type Envelope } from "../protocol/envelope.ts";
import { agentIdOf } from "../protocol/identity.ts";
import { decodeInitiation } from "../protocol/initiation.ts";
import { messageIdTime } from "../protocol/message-id.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { Refusal } from "../protocol/refusal.ts";
import type { MessageEncrypted } from "../schemas/values.ts";
import { messageEncrypted } from "../streams/catalogue.ts";
import type { Inbound } from "../streams/consumer.ts";
import { type Columns, type Fold, type FoldedRow, hex, on } from "./folding.ts";

/** How large a message may be is decided at ingress; a record cannot be larger than this. */
const anySize = { ciphertextBytesMax: 1024 * 1024 };

interface Session {
  newest: { readonly madeAt: number; readonly envelope: Omit<Envelope, "ciphertext" | "initiation"> };
  messages: number;
  readonly firstAt: number;
  lastAt: number;
  initiation: Columns | null;
}

const noInitiation = {
  suite: null,
  signed_prekey_id: null,
  one_time_prekey_id: null,
  kem_prekey_id: null,
  initialized_at: null,
};

export function foldSessions(): Fold {
  const sessions = new Map<string, Session>();
  const take = (record: Inbound<MessageEncrypted>) => {
    const envelope = envelopeOf(record);
    const madeAt = messageIdTime(record.value.itemId);
    if (envelope === null || madeAt === null) return;
    const name = `${envelope.senderId}/${envelope.recipientId}/${hex(envelope.sessionId)}`;
    const initiation = initiationOf(envelope, record.timestamp);
    const { ciphertext: _, initiation: __, ...head } = envelope;
    const newest = { madeAt, envelope: head };
    const session = sessions.get(name);
    if (session === undefined) {
      const { timestamp: firstAt } = record;
      sessions.set(name, { newest, messages: 1, firstAt, lastAt: firstAt, initiation });
      return;
    }
    session.initiation ??= initiation;
    if (!isBehind(newest, session.newest)) return;
    Object.assign(session, { newest, messages: session.messages + 1, lastAt: record.timestamp });
  };
  const rows = () => new Map(Array.from(sessions, ([name, session]) => [name, rowOf(session)]));
  return {
    handlers: [on(messageEncrypted, take)],
    tables: () => [{ table: "messaging_session_facts", reads: [messageEncrypted], rows: rows(), says: "rows" }],
  };
}

function isBehind(one: Session["newest"], other: Session["newest"]): boolean {
  if (one.madeAt !== other.madeAt) return one.madeAt > other.madeAt;
  const [counter, otherCounter] = [one.envelope.sendCounter, other.envelope.sendCounter];
  return counter === otherCounter ? one.envelope.messageId > other.envelope.messageId : counter > otherCounter;
}

/** null for what is no message, or not the one that its record says: nobody can get it. */
function envelopeOf({ key, value }: Inbound<MessageEncrypted>): Envelope | null {
  if (value.kind !== "message" || key !== value.recipientId) return null;
  const envelope = orNull(() => decodeEnvelope(value.body, anySize));
  const isItself =
    envelope?.messageId === value.itemId &&
    envelope.senderId === value.senderId &&
    envelope.recipientId === value.recipientId;
  return isItself ? envelope : null;
}

/** null when there is none, or it is somebody else's. */
function initiationOf({ senderId, initiation: bytes }: Envelope, at: number): Columns | null {
  const initiation = bytes.length === 0 ? null : orNull(() => decodeInitiation(bytes));
  if (initiation === null || agentIdOf(nodePrimitives, initiation.identityKey) !== senderId) return null;
  return {
    suite: initiation.suite,
    signed_prekey_id: initiation.signedPrekeyId,
    one_time_prekey_id: initiation.oneTimePrekeyId,
    kem_prekey_id: initiation.suite === 2 ? initiation.kemPrekeyId : null,
    initialized_at: at,
  };
}

function orNull<T>(decode: () => T): T | null {
  try {
    return decode();
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}

function rowOf({ newest: { envelope }, messages, firstAt, lastAt, initiation }: Session): FoldedRow {
  const columns = {
    ...{ message_id: envelope.messageId, dh_public_key: hex(envelope.dhPublicKey) },
    ...{ send_counter: envelope.sendCounter, previous_counter: envelope.previousCounter },
    ...{ messages, first_at: firstAt, last_at: lastAt, ...(initiation ?? noInitiation) },
  };
  return { since: firstAt, columns };
}
