/**
 * Messages that did not open, and the requests for their content (protocol.md §4, Repair).
 *
 * A request is signed and stored in the transaction in which its message failed, under an item id of its own, and stays until the service has
 * taken it. The failure is remembered for as long as the message could come again.
 */

import type { DatabaseSync } from "node:sqlite";
import { DAY_MS } from "../../protocol/limits.ts";
import { messageIdTime } from "../../protocol/message-id.ts";
import type { ProtocolCode } from "../../protocol/refusal.ts";
import { type RetryRequest, retryRequestFromJson, retryRequestToJson } from "../../protocol/retry-request.ts";

/** As the ids of what was received (inbox.ts). */
const REMEMBERED_MS = 40 * DAY_MS;

/** Requests about one sender that wait: as many messages as a chain has. More, and they fill the store faster than the service takes them (60 an hour). */
const PENDING_MAX = 1_000;

export interface FailedMessage {
  readonly senderId: string;
  readonly itemId: string;
  readonly code: ProtocolCode;
}

export interface PendingRequest extends FailedMessage {
  /** The item id of the request: UUIDv7. */
  readonly requestId: string;
  readonly request: RetryRequest;
}

export class Failed {
  readonly #statements: ReturnType<typeof prepare>;

  constructor(database: DatabaseSync) {
    this.#statements = prepare(database);
  }

  /** Why it did not open, and whether its request is still to be made; null when it has not failed. */
  find(senderId: string, itemId: string): { readonly code: ProtocolCode; readonly isAsking: boolean } | null {
    const row = this.#statements.find.get(senderId, itemId) as { code: ProtocolCode; asking: number } | undefined;
    return row === undefined ? null : { code: row.code, isAsking: row.asking === 1 };
  }

  add({ senderId, itemId, code, requestId, request }: PendingRequest, now: number): void {
    const forgetAt = Math.min(messageIdTime(itemId) ?? now, now) + REMEMBERED_MS;
    const json = JSON.stringify(retryRequestToJson(request));
    this.#statements.add.run(senderId, itemId, code, requestId, json, forgetAt);
  }

  /** The sender after this one (null: the first) about whom there are requests to make; null after the last. */
  nextAsking(afterSenderId: string | null): string | null {
    const row = this.#statements.nextAsking.get(afterSenderId ?? "") as { sender_id: string | null };
    return row.sender_id;
  }

  /** The oldest request about a sender that the service has not taken. */
  pending(senderId: string): PendingRequest | null {
    const row = this.#statements.pending.get(senderId) as unknown as PendingRow | undefined;
    if (row === undefined) return null;
    const request = retryRequestFromJson(JSON.parse(row.request));
    return { senderId, itemId: row.item_id, code: row.code, requestId: row.request_id, request };
  }

  /** Are so many requests about this sender waiting already that no other is kept? */
  isFull(senderId: string): boolean {
    return this.#statements.isFull.get(senderId) !== undefined;
  }

  /** Another request in place of one that has grown too old to be taken. */
  renew({ senderId, itemId, requestId, request }: PendingRequest): void {
    this.#statements.renew.run(requestId, JSON.stringify(retryRequestToJson(request)), senderId, itemId);
  }

  /** There is nothing more to ask: the service has the request, or will never take it. */
  endRequest(senderId: string, itemId: string): void {
    this.#statements.end.run(senderId, itemId);
  }

  forgetOld(now: number): void {
    this.#statements.forget.run(now);
  }
}

interface PendingRow {
  item_id: string;
  code: ProtocolCode;
  request_id: string;
  request: string;
}

function prepare(database: DatabaseSync) {
  return {
    find: database.prepare(
      "SELECT code, request IS NOT NULL AS asking FROM failed WHERE sender_id = ? AND item_id = ?",
    ),
    add: database.prepare(
      "INSERT INTO failed (sender_id, item_id, code, request_id, request, forget_at) VALUES (?, ?, ?, ?, ?, ?)",
    ),
    nextAsking: database.prepare(
      "SELECT min(sender_id) AS sender_id FROM failed WHERE request IS NOT NULL AND sender_id > ?",
    ),
    pending: database.prepare(
      `SELECT item_id, code, request_id, request FROM failed
       WHERE sender_id = ? AND request IS NOT NULL ORDER BY request_id LIMIT 1`,
    ),
    isFull: database.prepare(
      `SELECT 1 FROM failed WHERE sender_id = ? AND request IS NOT NULL LIMIT 1 OFFSET ${PENDING_MAX - 1}`,
    ),
    renew: database.prepare("UPDATE failed SET request_id = ?, request = ? WHERE sender_id = ? AND item_id = ?"),
    end: database.prepare("UPDATE failed SET request = NULL WHERE sender_id = ? AND item_id = ?"),
    forget: database.prepare("DELETE FROM failed WHERE forget_at < ?"),
  };
}
