/**
 * What a record says that is to be counted. Pure.
 */
import { isAgentId } from "../../protocol/identity.ts";
import { Refusal } from "../../protocol/refusal.ts";
import { isTimestamp } from "../../protocol/timestamp.ts";
import type { MessageAcknowledged, MessageDiscarded, MessageQueued } from "../../schemas/values.ts";
import type { Inbound } from "../../streams/consumer.ts";

export type Metered = MessageQueued | MessageAcknowledged | MessageDiscarded;

/** Something has come into a mailbox, or has left it. */
export interface Fact {
  /** `passing`: a retry request takes a place, and is no message. */
  readonly what: "stored" | "passing" | "acknowledged" | "discarded";
  readonly senderId: string;
  readonly recipientId: string;
  /** Its place in the mailbox: 1 and more. */
  readonly seq: number;
  /** Bytes of ciphertext. */
  readonly size: number;
  /** When it happened, ms since the epoch: it counts in that hour, whenever it is read. */
  readonly at: number;
}

/** @throws Refusal */
export function checkMetered({ key, value }: Inbound<Metered>): void {
  if (key !== value.recipientId) throw new Refusal("item-mismatch");
  const fact = factOf(value);
  if (fact === null) return;
  const isSound = isCount(fact.seq) && fact.seq > 0 && isCount(fact.size) && isTimestamp(fact.at);
  // An id of some thousand bytes goes into no index: its step would fail for ever.
  if (!isSound || !isAgentId(fact.senderId) || !isAgentId(fact.recipientId)) throw new Refusal("malformed");
}

/** In their order. What was never stored is nobody's use. */
export function toFacts(batch: readonly Inbound<Metered>[]): readonly Fact[] {
  return batch.flatMap(({ value }) => factOf(value) ?? []);
}

/** Whose meters they move, each once. */
export function agentsOf(facts: readonly Fact[]): readonly string[] {
  return [...new Set(facts.flatMap(({ senderId, recipientId }) => [senderId, recipientId]))];
}

function factOf(value: Metered): Fact | null {
  const { senderId, recipientId } = value;
  if ("acknowledgedAt" in value) {
    const { seq, size, acknowledgedAt: at } = value;
    return { what: "acknowledged", senderId, recipientId, seq, size, at };
  }
  if ("discardedAt" in value) {
    const { seq = null, size = null, discardedAt: at } = value;
    return seq === null || size === null ? null : { what: "discarded", senderId, recipientId, seq, size, at };
  }
  const { kind, seq, size, queuedAt: at } = value;
  return { what: kind === "message" ? "stored" : "passing", senderId, recipientId, seq, size, at };
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}
