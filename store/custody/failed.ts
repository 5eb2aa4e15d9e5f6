/**
 * Messages to agents of server custody that did not open, and the asking for them anew (protocol.md §4, Repair): by (recipient, sender, message id), for
 * 40 days.
 *
 * Promise: a failure has one request, under one item id, however often and by whomever it is handed to the encryption tier; another one only when the id has
 * grown too old to be taken. So no answer that is lost, and no two readers at once, make two requests.
 */
import { DAY_MS } from "../../protocol/limits.ts";
import { makeMessageId, messageIdTime } from "../../protocol/message-id.ts";
import type { Random } from "../../protocol/primitives/primitives.ts";
import type { ProtocolCode } from "../../protocol/refusal.ts";
import type { MessageDays } from "../message-days.ts";
import type { MessageKey } from "../messages.ts";
import type { Queryable } from "../postgres.ts";

/** Which mailbox it lies in, as well. */
export interface FailedKey extends MessageKey {
  readonly recipientId: string;
}

export interface FailedMessage extends FailedKey {
  readonly code: ProtocolCode;
  /** Of the failed envelope. */
  readonly sessionId: Uint8Array;
  readonly dhPublicKey: Uint8Array;
  /** The item id of the request: UUIDv7. */
  readonly requestId: string;
  /** How often the encryption tier was told to ask. */
  readonly asked: number;
  /** When it is to be told (again), ms since the epoch. */
  readonly askAt: number;
}

/** Usually the tier has asked within a second, and the message is gone. While it is away, its log is not filled with one thing. */
const ASK_AGAIN_MS = { first: 60_000, factor: 4, max: DAY_MS / 4 };

/** Item ids of up to eight days are taken. In the 30 days that a message waits there are five of them at most, which is how often one may be asked for. */
const REQUEST_AGE_MS_MAX = 6 * DAY_MS;

/** The same after it was handed on at `now`. Pure, but for the id. */
export function askedAgain(failed: FailedMessage, now: number, random: Random): FailedMessage {
  const { first, factor, max } = ASK_AGAIN_MS;
  const isOld = now - (messageIdTime(failed.requestId) ?? 0) > REQUEST_AGE_MS_MAX;
  return {
    ...failed,
    requestId: isOld ? makeMessageId(now, random) : failed.requestId,
    asked: failed.asked + 1,
    askAt: now + Math.min(first * factor ** failed.asked, max),
  };
}

/** Those that failed, in any order. */
export async function findFailed(db: Queryable, keys: readonly FailedKey[]): Promise<readonly FailedMessage[]> {
  if (keys.length === 0) return [];
  const { rows } = await db.query<FailedRow>({
    name: "find-failed",
    text: `SELECT f.* FROM unnest($1::text[], $2::text[], $3::uuid[]) AS i (recipient_id, sender_id, message_id)
           CROSS JOIN LATERAL (
             SELECT * FROM messaging_failed f
             WHERE f.recipient_id = i.recipient_id AND f.sender_id = i.sender_id AND f.message_id = i.message_id OFFSET 0) AS f`,
    values: columnsOf(keys),
  });
  return rows.map((row) => ({
    recipientId: row.recipient_id,
    senderId: row.sender_id,
    messageId: row.message_id,
    code: row.code,
    sessionId: row.session_id,
    dhPublicKey: row.dh_public_key,
    requestId: row.request_id,
    asked: row.asked,
    askAt: row.ask_at,
  }));
}

/** Of messages that had not failed: the caller holds the locks of the states, and found none of them. */
export async function writeFailed(
  client: Queryable,
  days: MessageDays,
  failed: readonly FailedMessage[],
): Promise<void> {
  if (failed.length === 0) return;
  await days.ensure(failed.map(({ messageId }) => messageIdTime(messageId) ?? 0));
  await client.query({
    name: "write-failed",
    text: `INSERT INTO messaging_failed (recipient_id, sender_id, message_id, code, session_id, dh_public_key, request_id, asked, ask_at)
           SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[], $5::bytea[], $6::bytea[], $7::uuid[], $8::int[], $9::bigint[])
             AS i (recipient_id, sender_id, message_id, code, session_id, dh_public_key, request_id, asked, ask_at)
           ORDER BY recipient_id, sender_id, message_id`,
    values: [
      ...columnsOf(failed),
      failed.map(({ code }) => code),
      failed.map(({ sessionId }) => sessionId),
      failed.map(({ dhPublicKey }) => dhPublicKey),
      failed.map(({ requestId }) => requestId),
      failed.map(({ asked }) => asked),
      failed.map(({ askAt }) => askAt),
    ],
  });
}

/** Writes down that these are handed on. Those of which somebody else did so meanwhile are left out of the answer. */
export async function writeAsked(
  client: Queryable,
  failed: readonly FailedMessage[],
  now: number,
): Promise<readonly FailedMessage[]> {
  if (failed.length === 0) return [];
  const { rows } = await client.query<{ request_id: string }>({
    name: "write-asked",
    text: `UPDATE messaging_failed f SET request_id = i.request_id, asked = i.asked, ask_at = i.ask_at
           FROM (SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[], $5::int[], $6::bigint[])
                   AS i (recipient_id, sender_id, message_id, request_id, asked, ask_at)
                 ORDER BY recipient_id, sender_id, message_id) AS i
           WHERE f.recipient_id = i.recipient_id AND f.sender_id = i.sender_id AND f.message_id = i.message_id AND f.ask_at <= $7
           RETURNING f.request_id`,
    values: [
      ...columnsOf(failed),
      failed.map(({ requestId }) => requestId),
      failed.map(({ asked }) => asked),
      failed.map(({ askAt }) => askAt),
      now,
    ],
  });
  const written = new Set(rows.map((row) => row.request_id));
  return failed.filter(({ requestId }) => written.has(requestId));
}

interface FailedRow {
  readonly recipient_id: string;
  readonly sender_id: string;
  readonly message_id: string;
  readonly code: ProtocolCode;
  readonly session_id: Uint8Array;
  readonly dh_public_key: Uint8Array;
  readonly request_id: string;
  readonly asked: number;
  readonly ask_at: number;
}

function columnsOf(keys: readonly FailedKey[]): [recipients: string[], senders: string[], ids: string[]] {
  return [
    keys.map(({ recipientId }) => recipientId),
    keys.map(({ senderId }) => senderId),
    keys.map(({ messageId }) => messageId),
  ];
}
