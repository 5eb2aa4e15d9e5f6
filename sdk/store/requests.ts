/**
 * Requests of peers to say a message anew (protocol.md §4, Repair), until they are answered: one for each message, so no more than this agent
 * has messages on their way.
 */

import type { DatabaseSync } from "node:sqlite";
import { type RetryRequest, retryRequestFromJson, retryRequestToJson } from "../../protocol/retry-request.ts";

export class Requests {
  readonly #statements: ReturnType<typeof prepare>;

  constructor(database: DatabaseSync) {
    this.#statements = prepare(database);
  }

  /** To be answered at `dueAt` (milliseconds) or later; a second one about the same message changes nothing. */
  add(request: RetryRequest, dueAt: number): void {
    const json = JSON.stringify(retryRequestToJson(request));
    this.#statements.add.run(request.recipientId, request.messageId, json, dueAt);
  }

  /** The peer after this one (null: the first) that waits for answers; null after the last. */
  nextPeer(afterPeerId: string | null): string | null {
    const row = this.#statements.nextPeer.get(afterPeerId ?? "") as { peer_id: string | null };
    return row.peer_id;
  }

  /** When the first request of a peer is to be answered, milliseconds. */
  firstDueAt(peerId: string): number | null {
    return (this.#statements.firstDueAt.get(peerId) as { due_at: number | null }).due_at;
  }

  /** The request of a peer that has been due for longest; null when none is due. */
  due(peerId: string, now: number): RetryRequest | null {
    const row = this.#statements.due.get(peerId, now) as { request: string } | undefined;
    return row === undefined ? null : retryRequestFromJson(JSON.parse(row.request));
  }

  end(peerId: string, messageId: string): void {
    this.#statements.end.run(peerId, messageId);
  }
}

function prepare(database: DatabaseSync) {
  return {
    add: database.prepare("INSERT OR IGNORE INTO requests (peer_id, message_id, request, due_at) VALUES (?, ?, ?, ?)"),
    nextPeer: database.prepare("SELECT min(peer_id) AS peer_id FROM requests WHERE peer_id > ?"),
    firstDueAt: database.prepare("SELECT min(due_at) AS due_at FROM requests WHERE peer_id = ?"),
    due: database.prepare(
      "SELECT request FROM requests WHERE peer_id = ? AND due_at <= ? ORDER BY due_at, message_id LIMIT 1",
    ),
    end: database.prepare("DELETE FROM requests WHERE peer_id = ? AND message_id = ?"),
  };
}
