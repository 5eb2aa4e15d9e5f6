/**
 * What became of messages: status and times, for 40 days.
 */
import type { Queryable } from "./postgres.ts";

export interface MessageKey {
  readonly senderId: string;
  /** UUID, lower-case text. */
  readonly messageId: string;
}

/** For maps: a message is known by both. */
export function messageName({ senderId, messageId }: MessageKey): string {
  return `${senderId}/${messageId}`;
}

/** `undeliverable`: it waits, and its recipient could not be woken. */
export const MESSAGE_STATES = [
  "queued",
  "undeliverable",
  "delivered",
  "acknowledged",
  "refused",
  "evicted",
  "expired",
  "deleted",
] as const;

export type MessageState = (typeof MESSAGE_STATES)[number];

/** Times in ms since the epoch. */
export interface MessageStatus extends MessageKey {
  readonly recipientId: string;
  readonly status: MessageState;
  /** SHA-256 of the canonical bytes. */
  readonly digest: Uint8Array;
  /** Why the recipient refused it; else null. */
  readonly code: string | null;
  readonly acceptedAt: number;
  readonly queuedAt: number;
  readonly undeliverableAt: number | null;
  readonly deliveredAt: number | null;
  readonly endedAt: number | null;
}

/** Those that are known, in the order of the keys; one that was never stored, or longer ago than 40 days, is absent. */
export async function findMessages(db: Queryable, keys: readonly MessageKey[]): Promise<readonly MessageStatus[]> {
  const { rows } = await db.query<MessageRow>({
    name: "find-messages",
    text: `SELECT m.* FROM unnest($1::text[], $2::uuid[]) WITH ORDINALITY AS i (sender_id, message_id, n)
           CROSS JOIN LATERAL (
             SELECT sender_id, message_id, recipient_id, digest, outcome, code, accepted_at, queued_at, undeliverable_at,
                    delivered_at, ended_at
             FROM messaging_messages m WHERE m.sender_id = i.sender_id AND m.message_id = i.message_id OFFSET 0) AS m
           ORDER BY i.n`,
    values: [keys.map(({ senderId }) => senderId), keys.map(({ messageId }) => messageId)],
  });
  return rows.map((row) => ({
    senderId: row.sender_id,
    messageId: row.message_id,
    recipientId: row.recipient_id,
    status: row.outcome ?? waitingState(row),
    digest: row.digest,
    code: row.code,
    acceptedAt: row.accepted_at,
    queuedAt: row.queued_at,
    undeliverableAt: row.undeliverable_at,
    deliveredAt: row.delivered_at,
    endedAt: row.ended_at,
  }));
}

/** A delivery outweighs that nobody could be woken before. */
function waitingState({ delivered_at, undeliverable_at }: MessageRow): MessageState {
  if (delivered_at !== null) return "delivered";
  return undeliverable_at === null ? "queued" : "undeliverable";
}

interface MessageRow {
  readonly sender_id: string;
  readonly message_id: string;
  readonly recipient_id: string;
  readonly digest: Uint8Array;
  readonly outcome: Exclude<MessageState, "queued" | "undeliverable" | "delivered"> | null;
  readonly code: string | null;
  readonly accepted_at: number;
  readonly queued_at: number;
  readonly undeliverable_at: number | null;
  readonly delivered_at: number | null;
  readonly ended_at: number | null;
}
