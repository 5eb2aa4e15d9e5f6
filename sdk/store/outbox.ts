/**
 * What this agent has sent, until its end and 40 days beyond (without content), for `status`.
 *
 * An envelope is stored before it leaves and never changes; content is kept, sealed, beside it until the message has ended, for Repair.
 * States only move forward, and the first end stays, in whatever order answers and receipts arrive.
 */

import type { DatabaseSync } from "node:sqlite";
import { DAY_MS, REPAIRS_MAX } from "../../protocol/limits.ts";
import { type Content, decodeContent, encodeContent } from "./content.ts";
import type { Sealer } from "./seal.ts";

/** In their order; stored by their index. The last three are ends. */
const STATES = ["pending", "accepted", "delivered", "acknowledged", "discarded", "rejected"] as const;
const FIRST_END = STATES.indexOf("acknowledged");

/** pending: not yet known to be with the service; rejected: never taken; discarded: taken, and ended without being acknowledged, as far as is known. */
export type OutboxState = (typeof STATES)[number];

/** As long as the receiver remembers the id (protocol.md §4). */
const ENDED_KEPT_MS = 40 * DAY_MS;

/** No message lives longer: 30 days in the mailbox and a day for what is under way (protocol.md §4). */
const CONTENT_KEPT_MS = 31 * DAY_MS;

export interface OutboxStatus {
  /** The one that was asked for; the state is that of the message that was sent in its place, if one was. */
  readonly messageId: string;
  readonly recipientId: string;
  readonly state: OutboxState;
  /** Why it was discarded or rejected; null otherwise. */
  readonly code: string | null;
  readonly createdAt: number;
  /** When this store learned of the state. */
  readonly changedAt: number;
}

export interface PendingEnvelope {
  /** Its place in the order of sending. */
  readonly n: number;
  readonly messageId: string;
  readonly recipientId: string;
  readonly createdAt: number;
  /** Canonical bytes. */
  readonly envelope: Uint8Array;
}

interface NewMessage extends Omit<PendingEnvelope, "n"> {
  readonly content: Content;
  readonly isControl: boolean;
  /** The message in whose place it is; null for one of its own. */
  readonly repairs: RepairOf | null;
}

export interface RepairOf {
  /** The first message that said this. */
  readonly firstId: string;
  /** How often it has been said anew, this time included. */
  readonly count: number;
}

/** A message that can be said anew. */
interface Repairable {
  readonly recipientId: string;
  readonly content: Content;
  readonly isControl: boolean;
  readonly repairs: RepairOf | null;
}

export interface UnansweredMessage extends Pick<PendingEnvelope, "n" | "messageId" | "createdAt"> {
  /** Why its recipient could not open it, while it waits to be asked for; else null. */
  readonly code: string | null;
}

export class Outbox {
  readonly #sealer: Sealer;
  readonly #statements: ReturnType<typeof prepare>;

  constructor(database: DatabaseSync, sealer: Sealer) {
    this.#sealer = sealer;
    this.#statements = prepare(database);
  }

  /** `isControl`: the protocol's own message, of which the application never hears. */
  add(message: NewMessage): void {
    const { messageId, recipientId, createdAt, envelope, content, isControl, repairs } = message;
    const sealed = this.#sealer.seal(contentPlace(messageId), encodeContent(content));
    const control = isControl ? 1 : 0;
    const [firstId, count] = [repairs?.firstId ?? null, repairs?.count ?? 0];
    this.#statements.add.run(messageId, recipientId, envelope, sealed, control, createdAt, createdAt, firstId, count);
  }

  /**
   * The next ones to send after place `afterN`, in order, but those that `isHeld`: at most `countMax`, and at most `bytesMax` unless one alone is larger.
   */
  pending(
    afterN: number,
    countMax: number,
    bytesMax: number,
    isHeld: (message: { readonly recipientId: string; readonly n: number }) => boolean = () => false,
  ): PendingEnvelope[] {
    const found: PendingEnvelope[] = [];
    let bytes = 0;
    for (const row of this.#statements.pending.iterate(afterN)) {
      const { n, message_id, recipient_id, created_at, envelope } = row as unknown as PendingRow;
      if (isHeld({ recipientId: recipient_id, n })) continue;
      bytes += envelope.length;
      if (found.length > 0 && bytes > bytesMax) break;
      found.push({ n, messageId: message_id, recipientId: recipient_id, createdAt: created_at, envelope });
      if (found.length === countMax) break;
    }
    return found;
  }

  /** Null when it did not move forward: an unknown message, an earlier state, or after an end. */
  move(messageId: string, state: OutboxState, { at, code = null }: { at: number; code?: string | null }): Moved | null {
    const index = STATES.indexOf(state);
    const ended = index >= FIRST_END ? 1 : 0;
    const change = { messageId, state: index, ended, code, at, firstEnd: FIRST_END };
    const row = this.#statements.move.get(change) as unknown as MovedRow | undefined;
    return row === undefined ? null : movedOf(messageId, row);
  }

  /**
   * Its recipient could not open it: it waits for the request to say it anew, for as long as its content is kept (a recipient that has many to
   * ask for asks for 60 an hour, or is away for a while). False when there is nothing to wait for: an unknown message, one
   * that has ended or whose content is not kept, one that was said anew as often as may be, a control message.
   */
  awaitRepair(messageId: string, code: string): boolean {
    return this.#statements.awaitRepair.run(code, CONTENT_KEPT_MS, messageId, FIRST_END).changes > 0;
  }

  /** Those for which no request came: they have ended now. */
  endUnrepaired(now: number): { readonly messageId: string; readonly code: string; readonly moved: Moved }[] {
    const rows = this.#statements.unrepaired.all(now, FIRST_END) as unknown as { message_id: string; code: string }[];
    return rows.flatMap(({ message_id: messageId, code }) => {
      const moved = this.move(messageId, "discarded", { at: now, code });
      return moved === null ? [] : [{ messageId, code, moved }];
    });
  }

  /** The envelope does not leave (any more): it is to be said anew. */
  hold(messageId: string): void {
    this.#statements.hold.run(messageId);
  }

  /** Those that are held, in the order of sending. */
  held(): Omit<PendingEnvelope, "n" | "envelope" | "createdAt">[] {
    const rows = this.#statements.held.all() as unknown as { message_id: string; recipient_id: string }[];
    return rows.map(({ message_id, recipient_id }) => ({ messageId: message_id, recipientId: recipient_id }));
  }

  /** Null when it has ended, or its content is not kept. */
  repairable(messageId: string): Repairable | null {
    const row = this.#statements.repairable.get(messageId, FIRST_END) as unknown as RepairableRow | undefined;
    if (row === undefined) return null;
    return {
      recipientId: row.recipient_id,
      content: decodeContent(this.#sealer.open(contentPlace(messageId), row.sealed_content)),
      isControl: row.is_control === 1,
      repairs: row.first_id === null ? null : { firstId: row.first_id, count: row.repairs },
    };
  }

  /** It was said anew: what becomes of it is what becomes of its successor. */
  replaceBy(messageId: string, successorId: string, at: number): void {
    this.move(messageId, "discarded", { at, code: "repaired" });
    this.#statements.setSuccessor.run(successorId, messageId);
  }

  /** Null when it is not known (any more). */
  status(messageId: string): OutboxStatus | null {
    let row = this.#statements.status.get(messageId) as unknown as StatusRow | undefined;
    for (let successor = row?.successor; successor != null; successor = row?.successor) {
      row = this.#statements.status.get(successor) as unknown as StatusRow | undefined;
    }
    if (row === undefined) return null;
    return {
      messageId,
      recipientId: row.recipient_id,
      state: STATES[row.state] ?? "pending",
      code: row.code,
      createdAt: row.created_at,
      changedAt: row.changed_at,
    };
  }

  /** Messages the service has and whose end is not known, after place `afterN`. */
  unanswered(afterN: number, countMax: number): UnansweredMessage[] {
    const rows = this.#statements.unanswered.all(afterN, countMax) as unknown as UnansweredRow[];
    return rows.map(({ n, message_id, created_at, code }) => ({
      n,
      messageId: message_id,
      createdAt: created_at,
      code,
    }));
  }

  forgetOld(now: number): void {
    this.#statements.forget.run(FIRST_END, now - ENDED_KEPT_MS);
    this.#statements.forgetContent.run(now - CONTENT_KEPT_MS);
  }
}

export interface Moved {
  readonly recipientId: string;
  readonly isControl: boolean;
  /** The first message that said this: the one the application knows. */
  readonly firstId: string;
}

interface MovedRow {
  recipient_id: string;
  is_control: number;
  first_id: string | null;
}

function movedOf(messageId: string, { recipient_id, is_control, first_id }: MovedRow): Moved {
  return { recipientId: recipient_id, isControl: is_control === 1, firstId: first_id ?? messageId };
}

interface RepairableRow extends MovedRow {
  sealed_content: Uint8Array;
  repairs: number;
}

interface PendingRow {
  n: number;
  message_id: string;
  recipient_id: string;
  created_at: number;
  envelope: Uint8Array;
}

interface UnansweredRow {
  n: number;
  message_id: string;
  created_at: number;
  code: string | null;
}

interface StatusRow {
  recipient_id: string;
  state: number;
  code: string | null;
  created_at: number;
  changed_at: number;
  successor: string | null;
}

function contentPlace(messageId: string): string {
  return `outbox.content:${messageId}`;
}

function prepare(database: DatabaseSync) {
  return {
    add: database.prepare(
      `INSERT INTO outbox (message_id, recipient_id, envelope, sealed_content, is_control, state, created_at, changed_at,
         first_id, repairs)
       VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?, ?)`,
    ),
    pending: database.prepare(
      `SELECT n, message_id, recipient_id, created_at, envelope FROM outbox
       WHERE state = 0 AND held = 0 AND n > ? ORDER BY n`,
    ),
    move: database.prepare(
      `UPDATE outbox SET state = :state, code = :code, changed_at = :at,
         envelope = CASE WHEN :ended THEN NULL ELSE envelope END,
         sealed_content = CASE WHEN :ended THEN NULL ELSE sealed_content END,
         repair_until = CASE WHEN :ended THEN NULL ELSE repair_until END
       WHERE message_id = :messageId AND state < :state AND state < :firstEnd
       RETURNING recipient_id, is_control, first_id`,
    ),
    awaitRepair: database.prepare(
      `UPDATE outbox SET code = ?, repair_until = created_at + ?
       WHERE message_id = ? AND state < ? AND is_control = 0 AND sealed_content IS NOT NULL AND repairs < ${REPAIRS_MAX}`,
    ),
    unrepaired: database.prepare("SELECT message_id, code FROM outbox WHERE repair_until < ? AND state < ?"),
    repairable: database.prepare(
      `SELECT recipient_id, sealed_content, is_control, first_id, repairs FROM outbox
       WHERE message_id = ? AND state < ? AND sealed_content IS NOT NULL`,
    ),
    hold: database.prepare("UPDATE outbox SET held = 1 WHERE message_id = ? AND state = 0"),
    held: database.prepare("SELECT message_id, recipient_id FROM outbox WHERE held = 1 AND state = 0 ORDER BY n"),
    setSuccessor: database.prepare("UPDATE outbox SET successor = ? WHERE message_id = ?"),
    status: database.prepare(
      "SELECT recipient_id, state, code, created_at, changed_at, successor FROM outbox WHERE message_id = ?",
    ),
    unanswered: database.prepare(
      "SELECT n, message_id, created_at, code FROM outbox WHERE state IN (1, 2) AND n > ? ORDER BY n LIMIT ?",
    ),
    forget: database.prepare("DELETE FROM outbox WHERE state >= ? AND changed_at < ?"),
    forgetContent: database.prepare(
      "UPDATE outbox SET sealed_content = NULL WHERE sealed_content IS NOT NULL AND state > 0 AND created_at < ?",
    ),
  };
}
