/**
 * The commands of server custody that are done: by (sender, message id) the envelope that each led to, for 40 days; and what each said, sealed, for as
 * long as it may have to be said anew.
 *
 * Promises: a command has one envelope, for good. What wants to write a second one fails as the record's fault, and finds the first when it is done again.
 * A content is there until its message has ended other than by a refusal that asks for it (store/acks.ts), or its successor has it, which is named from then on; 31 days at most.
 */
import { DAY_MS, REPAIRS_MAX } from "../../protocol/limits.ts";
import { messageIdTime } from "../../protocol/message-id.ts";
import { REPAIRABLE_CODES } from "../../protocol/retry-request.ts";
import type { Delegation } from "../../schemas/values.ts";
import { firstIdAt, type MessageDays } from "../message-days.ts";
import { type MessageKey, messageName } from "../messages.ts";
import type { Queryable } from "../postgres.ts";

/** Content is kept so long at most (protocol.md §4): one day longer than a request is followed. */
export const CONTENT_AGE_MS_MAX = 31 * DAY_MS;

/** Rows of one statement of the forgetting. */
const FORGOTTEN_MAX = 500;

export interface DoneCommand extends MessageKey {
  /** Of recipient, id, type and content (`CustodyKeys.commandMac`); empty where it brought no content. Null: a recovery brought its envelope back, and what it said is not known until it is read again. */
  readonly hmac: Uint8Array | null;
  /** Canonical bytes; of a request to say something anew its JSON. */
  readonly envelope: Uint8Array;
  /** The chain that its sender presented with it; of what is said anew, with what was said first. */
  readonly delegation: readonly Delegation[];
}

/** A done command, and what it said. */
export interface NewCommand extends DoneCommand {
  readonly hmac: Uint8Array;
  /** Sealed; null for what is not said anew. */
  readonly content: Uint8Array | null;
  /** The first message that said this; null when this is the first. */
  readonly firstId: string | null;
  /** How often it was said anew. */
  readonly repairs: number;
}

/** A command whose envelope a recovery had brought back, and what it said. */
export type RecalledCommand = NewCommand;

/** What was said and may be said anew. */
export interface KeptMessage extends MessageKey {
  readonly envelope: Uint8Array;
  readonly content: Uint8Array;
  readonly firstId: string | null;
  readonly repairs: number;
  readonly delegation: readonly Delegation[];
}

/** Those that are done, in any order. */
export async function findCommands(db: Queryable, keys: readonly MessageKey[]): Promise<readonly DoneCommand[]> {
  if (keys.length === 0) return [];
  const { rows } = await db.query<{
    sender_id: string;
    message_id: string;
    hmac: Uint8Array | null;
    envelope: Uint8Array;
    delegation: readonly Delegation[] | null;
  }>({
    name: "find-commands",
    text: `SELECT c.* FROM unnest($1::text[], $2::uuid[]) AS i (sender_id, message_id)
           CROSS JOIN LATERAL (
             SELECT sender_id, message_id, hmac, envelope, delegation FROM messaging_commands c
             WHERE c.sender_id = i.sender_id AND c.message_id = i.message_id OFFSET 0) AS c`,
    values: columnsOf(keys),
  });
  return rows.map(({ sender_id: senderId, message_id: messageId, hmac, envelope, delegation }) => {
    return { senderId, messageId, hmac, envelope, delegation: delegation ?? [] };
  });
}

/**
 * Those whose content is there, in any order, locked until the transaction ends: nobody seals a content anew, and then destroys its day's key, while what was read here is still to be
 * opened (store/custody/sealed-columns.ts leaves what is locked). Rows are locked in key order, behind those of states.
 */
export async function lockKept(client: Queryable, keys: readonly MessageKey[]): Promise<readonly KeptMessage[]> {
  if (keys.length === 0) return [];
  const { rows } = await client.query<{
    sender_id: string;
    message_id: string;
    envelope: Uint8Array;
    content: Uint8Array;
    first_id: string | null;
    repairs: number;
    delegation: readonly Delegation[] | null;
  }>({
    name: "lock-kept",
    text: `SELECT c.* FROM (SELECT * FROM unnest($1::text[], $2::uuid[]) AS i (sender_id, message_id)
                            ORDER BY sender_id COLLATE "C", message_id) AS i
           CROSS JOIN LATERAL (
             SELECT sender_id, message_id, envelope, content, first_id, repairs, delegation FROM messaging_commands c
             WHERE c.sender_id = i.sender_id AND c.message_id = i.message_id AND c.content IS NOT NULL OFFSET 0 FOR NO KEY UPDATE) AS c`,
    values: columnsOf(keys),
  });
  return rows.map((row) => {
    const { sender_id: senderId, message_id: messageId, first_id: firstId, delegation, ...kept } = row;
    return { ...kept, senderId, messageId, firstId, delegation: delegation ?? [] };
  });
}

export async function writeCommands(
  client: Queryable,
  days: MessageDays,
  commands: readonly NewCommand[],
): Promise<void> {
  if (commands.length === 0) return;
  await days.ensure(commands.map(({ messageId }) => messageIdTime(messageId) ?? 0));
  await client.query({
    name: "write-commands",
    text: `INSERT INTO messaging_commands (sender_id, message_id, hmac, envelope, content, first_id, repairs, delegation)
           SELECT * FROM unnest($1::text[], $2::uuid[], $3::bytea[], $4::bytea[], $5::bytea[], $6::uuid[], $7::smallint[], $8::jsonb[])
             AS i (sender_id, message_id, hmac, envelope, content, first_id, repairs, delegation)
           ORDER BY sender_id, message_id`,
    values: [
      ...columnsOf(commands),
      commands.map(({ hmac }) => hmac),
      commands.map(({ envelope }) => envelope),
      commands.map(({ content }) => content),
      commands.map(({ firstId }) => firstId),
      commands.map(({ repairs }) => repairs),
      commands.map(({ delegation }) => delegationColumn(delegation)),
    ],
  });
}

/** What is written for a chain. */
export function delegationColumn(delegation: readonly Delegation[]): string | null {
  return delegation.length === 0 ? null : JSON.stringify(delegation);
}

/** Keeps what they said with the envelopes that a recovery brought back; once each. Content whose message has ended meanwhile is not needed (store/acks.ts). */
export async function recallCommands(client: Queryable, commands: readonly RecalledCommand[]): Promise<void> {
  if (commands.length === 0) return;
  await client.query({
    name: "recall-commands",
    text: `UPDATE messaging_commands c SET hmac = i.hmac, first_id = i.first_id, repairs = i.repairs, content = CASE WHEN EXISTS (
             SELECT 1 FROM messaging_messages m WHERE m.sender_id = i.sender_id AND m.message_id = i.message_id
               AND m.outcome IS NOT NULL AND NOT (m.outcome = 'refused' AND coalesce(m.code = ANY ($7::text[]), false))
           ) THEN NULL ELSE i.content END
           FROM (SELECT * FROM unnest($1::text[], $2::uuid[], $3::bytea[], $4::bytea[], $5::uuid[], $6::smallint[])
                   AS i (sender_id, message_id, hmac, content, first_id, repairs)
                 ORDER BY sender_id, message_id) AS i
           WHERE c.sender_id = i.sender_id AND c.message_id = i.message_id AND c.hmac IS NULL`,
    values: [
      ...columnsOf(commands),
      commands.map(({ hmac }) => hmac),
      commands.map(({ content }) => content),
      commands.map(({ firstId }) => firstId),
      commands.map(({ repairs }) => repairs),
      REPAIRABLE_CODES,
    ],
  });
}

/** What becomes of a kept message that its recipient asked for. */
export interface KeptChange extends MessageKey {
  /** Its content is not needed here any more: its successor has it, or nobody will. */
  readonly isSpent: boolean;
  /** As which it was said anew; null when it was not. */
  readonly successorId: string | null;
  /** Before this, ms since the epoch, asking for it again leads nowhere. */
  readonly repairAt: number;
}

export async function changeKept(client: Queryable, changes: readonly KeptChange[]): Promise<void> {
  if (changes.length === 0) return;
  await client.query({
    name: "change-kept",
    text: `UPDATE messaging_commands c SET content = CASE WHEN i.is_spent THEN NULL ELSE c.content END, repair_at = i.repair_at,
             successor_id = coalesce(i.successor_id, c.successor_id)
           FROM (SELECT * FROM unnest($1::text[], $2::uuid[], $3::boolean[], $4::bigint[], $5::uuid[])
                   AS i (sender_id, message_id, is_spent, repair_at, successor_id)
                 ORDER BY sender_id, message_id) AS i
           WHERE c.sender_id = i.sender_id AND c.message_id = i.message_id`,
    values: [
      ...columnsOf(changes),
      changes.map(({ isSpent }) => isSpent),
      changes.map(({ repairAt }) => repairAt),
      changes.map(({ successorId }) => successorId),
    ],
  });
}

/** As which messages these were said anew, one after the other, the newest last; by `messageName`. Those that were not are left out. */
export async function findSuccessors(
  db: Queryable,
  keys: readonly MessageKey[],
): Promise<ReadonlyMap<string, readonly MessageKey[]>> {
  if (keys.length === 0) return new Map();
  const { rows } = await db.query<{ sender_id: string; first_id: string; message_id: string }>({
    name: "find-successors",
    text: `WITH RECURSIVE said AS (
             SELECT sender_id, message_id AS first_id, message_id, 0 AS times
             FROM unnest($1::text[], $2::uuid[]) AS i (sender_id, message_id)
             UNION ALL
             SELECT s.sender_id, s.first_id, c.successor_id, s.times + 1 FROM said s
             CROSS JOIN LATERAL (
               SELECT successor_id FROM messaging_commands c
               WHERE c.sender_id = s.sender_id AND c.message_id = s.message_id AND c.successor_id IS NOT NULL OFFSET 0) AS c
             WHERE s.times < ${REPAIRS_MAX}
           )
           SELECT sender_id, first_id, message_id FROM said WHERE times > 0 ORDER BY times`,
    values: columnsOf(keys),
  });
  const successors = new Map<string, MessageKey[]>();
  for (const { sender_id: senderId, first_id: firstId, message_id: messageId } of rows) {
    const name = messageName({ senderId, messageId: firstId });
    successors.set(name, [...(successors.get(name) ?? []), { senderId, messageId }]);
  }
  return successors;
}

/**
 * Forgets what was said longer ago than content is kept, whatever became of it. What somebody else holds just now is left for another time.
 *
 * @param now ms since the epoch
 * @throws Unavailable
 */
export async function forgetOldContents(db: Queryable, now: number): Promise<void> {
  const firstKept = firstIdAt(now - CONTENT_AGE_MS_MAX);
  for (let forgotten = FORGOTTEN_MAX; forgotten === FORGOTTEN_MAX; ) {
    const { rowCount } = await db.query({
      name: "forget-old-contents",
      text: `WITH old AS MATERIALIZED (
               SELECT sender_id, message_id FROM messaging_commands WHERE content IS NOT NULL AND message_id < $1
               ORDER BY sender_id, message_id LIMIT ${FORGOTTEN_MAX} FOR UPDATE SKIP LOCKED)
             UPDATE messaging_commands c SET content = NULL FROM old o
             WHERE c.sender_id = o.sender_id AND c.message_id = o.message_id`,
      values: [firstKept],
    });
    forgotten = rowCount ?? 0;
  }
}

function columnsOf(keys: readonly MessageKey[]): [senders: string[], ids: string[]] {
  return [keys.map(({ senderId }) => senderId), keys.map(({ messageId }) => messageId)];
}
