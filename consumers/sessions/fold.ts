/**
 * From messages to the facts of their sessions. Pure.
 *
 * The log is at least once: the same message may come again, much later, behind newer ones. So the newest message is not the one that
 * came last but the one that was made last, and only a message newer than all before it counts: a repeat never is.
 */
import { agentIdOf } from "../../protocol/identity.ts";
import { decodeInitiation } from "../../protocol/initiation.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import { Refusal } from "../../protocol/refusal.ts";
import type { SessionFacts, SessionInitiation, SessionKey } from "../../store/session-facts.ts";
import type { Message } from "./messages.ts";

/** A session that has begun, and the message that shows it. */
export interface Initialized {
  readonly message: Message;
  readonly initiation: SessionInitiation;
}

export interface Folded {
  /** One for each session of which something changed. */
  readonly changed: readonly SessionFacts[];
  readonly initialized: readonly Initialized[];
}

/** The sessions of the messages, each once. */
export function sessionsOf(messages: readonly Message[]): readonly SessionKey[] {
  return [...new Map(messages.map((message) => [nameOf(message), message])).values()];
}

/** `known`: the facts of the messages' sessions, as far as there are any. */
export function foldMessages(known: readonly SessionFacts[], messages: readonly Message[]): Folded {
  const before = new Map(known.map((facts) => [nameOf(facts), facts]));
  const changed = new Map<string, SessionFacts>();
  const initialized: Initialized[] = [];
  for (const message of messages) {
    const name = nameOf(message);
    const facts = changed.get(name) ?? before.get(name) ?? null;
    const initiation = facts?.initiation ?? initiationOf(message);
    const isInitialized = initiation !== null && !facts?.initiation;
    if (isInitialized) initialized.push({ message, initiation });
    if (isNewer(message, facts)) changed.set(name, withMessage(facts, message, initiation));
    else if (isInitialized && facts !== null) changed.set(name, { ...facts, initiation });
  }
  return { changed: [...changed.values()], initialized };
}

function withMessage(
  facts: SessionFacts | null,
  { record, ownerId, peerId, sessionId, messageId, dhPublicKey, sendCounter, previousCounter }: Message,
  initiation: SessionInitiation | null,
): SessionFacts {
  const latest = { ownerId, peerId, sessionId, messageId, dhPublicKey, sendCounter, previousCounter };
  const lastAt = record.timestamp;
  return { ...latest, messages: (facts?.messages ?? 0) + 1, firstAt: facts?.firstAt ?? lastAt, lastAt, initiation };
}

/** Hexadecimal digits of a UUIDv7 that are its time, and the hyphen among them. */
const timeLength = 13;

/**
 * By the time in the id; within a millisecond the one further in its chain; then by the rest of the id, so that any two messages have an order and
 * it is the same whenever they come.
 */
function isNewer(message: Message, facts: SessionFacts | null): boolean {
  if (facts === null) return true;
  const [time, factsTime] = [message.messageId.slice(0, timeLength), facts.messageId.slice(0, timeLength)];
  if (time !== factsTime) return time > factsTime;
  if (message.sendCounter !== facts.sendCounter) return message.sendCounter > facts.sendCounter;
  return message.messageId > facts.messageId;
}

/** null when there is none, or it is not the sender's: whoever receives it will refuse it. */
function initiationOf({ record, ownerId, initiation: bytes }: Message): SessionInitiation | null {
  if (bytes.length === 0) return null;
  try {
    const initiation = decodeInitiation(bytes);
    if (agentIdOf(nodePrimitives, initiation.identityKey) !== ownerId) return null;
    const { suite, signedPrekeyId, oneTimePrekeyId } = initiation;
    const kemPrekeyId = initiation.suite === 2 ? initiation.kemPrekeyId : null;
    return { suite, signedPrekeyId, oneTimePrekeyId, kemPrekeyId, at: record.timestamp };
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}

function nameOf({ ownerId, peerId, sessionId }: SessionKey): string {
  return `${ownerId}/${peerId}/${Buffer.from(sessionId).toString("hex")}`;
}
