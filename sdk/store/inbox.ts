/**
 * What this agent has received: the memory of ids that makes a repeat harmless, and the messages not yet handled, sealed.
 *
 * An id is remembered, with its outcome, in the transaction in which its message was decrypted, until 40 days after the id's time (protocol.md §4).
 */

import type { DatabaseSync } from "node:sqlite";
import type { FrameFault } from "../../protocol/frame.ts";
import { DAY_MS } from "../../protocol/limits.ts";
import { messageIdTime } from "../../protocol/message-id.ts";
import { type Content, decodeContent, encodeContent } from "./content.ts";
import type { Sealer } from "./seal.ts";

const REMEMBERED_MS = 40 * DAY_MS;

/** waiting: decrypted, its handler has not succeeded yet; handled: to be acknowledged; otherwise it was refused for good. */
type ReceivedOutcome = "waiting" | "handled" | FrameFault;

export interface ReceivedMessage extends Content {
  readonly senderId: string;
  readonly messageId: string;
  /** Its place in the mailbox. */
  readonly seq: number;
  /** The sender's clock, milliseconds. */
  readonly sentAt: number;
}

export class Inbox {
  readonly #sealer: Sealer;
  readonly #statements: ReturnType<typeof prepare>;

  constructor(database: DatabaseSync, sealer: Sealer) {
    this.#sealer = sealer;
    this.#statements = prepare(database);
  }

  /** Null when the id has not been received, or was so long ago that the service cannot have it any more. */
  outcome(senderId: string, messageId: string): ReceivedOutcome | null {
    const row = this.#statements.outcome.get(senderId, messageId) as { outcome: ReceivedOutcome } | undefined;
    return row?.outcome ?? null;
  }

  remember(senderId: string, messageId: string, outcome: ReceivedOutcome, now: number): void {
    // What a peer calls an id may lie in the future.
    const forgetAt = Math.min(messageIdTime(messageId) ?? now, now) + REMEMBERED_MS;
    this.#statements.remember.run(senderId, messageId, outcome, forgetAt);
  }

  /** Keeps a message until it is handled; its id must be remembered as waiting as well. */
  add(message: ReceivedMessage): void {
    const { senderId, messageId, seq, sentAt } = message;
    const sealed = this.#sealer.seal(contentPlace(senderId, messageId), encodeContent(message));
    this.#statements.add.run(senderId, messageId, seq, sentAt, sealed);
  }

  /** All that have not been handled, in the order of their arrival. */
  waiting(): ReceivedMessage[] {
    const rows = this.#statements.waiting.all() as unknown as WaitingRow[];
    return rows.map(({ sender_id, message_id, seq, sent_at, sealed_content }) => ({
      senderId: sender_id,
      messageId: message_id,
      seq,
      sentAt: sent_at,
      ...decodeContent(this.#sealer.open(contentPlace(sender_id, message_id), sealed_content)),
    }));
  }

  /** Deletes a message whose handler has succeeded; its id stays remembered. */
  markHandled(senderId: string, messageId: string): void {
    this.#statements.remove.run(senderId, messageId);
    this.#statements.markHandled.run(senderId, messageId);
  }

  forgetOld(now: number): void {
    this.#statements.forget.run(now);
  }
}

interface WaitingRow {
  sender_id: string;
  message_id: string;
  seq: number;
  sent_at: number;
  sealed_content: Uint8Array;
}

function contentPlace(senderId: string, messageId: string): string {
  return `inbox.content:${senderId}/${messageId}`;
}

function prepare(database: DatabaseSync) {
  return {
    outcome: database.prepare("SELECT outcome FROM received WHERE sender_id = ? AND message_id = ?"),
    remember: database.prepare("INSERT INTO received (sender_id, message_id, outcome, forget_at) VALUES (?, ?, ?, ?)"),
    add: database.prepare(
      "INSERT INTO inbox (sender_id, message_id, seq, sent_at, sealed_content) VALUES (?, ?, ?, ?, ?)",
    ),
    waiting: database.prepare("SELECT sender_id, message_id, seq, sent_at, sealed_content FROM inbox ORDER BY n"),
    remove: database.prepare("DELETE FROM inbox WHERE sender_id = ? AND message_id = ?"),
    markHandled: database.prepare("UPDATE received SET outcome = 'handled' WHERE sender_id = ? AND message_id = ?"),
    forget: database.prepare("DELETE FROM received WHERE forget_at < ? AND outcome <> 'waiting'"),
  };
}
