/**
 * The client's answers: what it has decrypted (acknowledged), and what it can never use (refused). An answer ends an item.
 *
 * Promise: what is accepted is in Kafka; *acks* applies it. The mailbox is always the caller's own, so that an answer for another
 * agent's item changes nothing. An answer may be given again; the first end of an item stays.
 */
import type { ProtocolCode } from "../../protocol/refusal.ts";
import type { Door, ReceiptItem } from "../../schemas/values.ts";
import { receiptEvents } from "../../streams/receipt-events.ts";
import type { Caller } from "../auth.ts";
import { ApiRefusal } from "../problem.ts";
import type { Counted } from "./counters.ts";
import { API_SOURCE, type Appender } from "./events.ts";

export interface AcknowledgeDeps {
  /** For receipts: a few milliseconds of lingering are fine. */
  readonly receipts: Appender;
  readonly counted: Counted;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface ResolveSeqsDeps {
  /** Which waiting items of the mailbox these are; those that no longer wait are left out. Throws `Unavailable`. */
  readonly itemsBySeq: (
    recipientId: string,
    seqs: readonly number[],
  ) => Promise<readonly { readonly seq: number; readonly senderId: string; readonly itemId: string }[]>;
}

export interface Answer {
  readonly senderId: string;
  /** The message's id, or the item's for other kinds. */
  readonly messageId: string;
  readonly outcome: "acknowledged" | "refused";
  /** Why it was refused; only then. */
  readonly code?: ProtocolCode;
}

/** An answer to an item named by its place in the mailbox. */
export interface SeqAnswer extends Omit<Answer, "senderId" | "messageId"> {
  readonly seq: number;
}

/** Four records of receipts: more would let one call hold a partition's step for long. */
export const ANSWERS_MAX = 1_000;

/**
 * @returns how many answers were taken
 * @throws ApiRefusal `too-many`; `Unavailable`: the same answers may be given again
 */
export async function acknowledge(
  deps: AcknowledgeDeps,
  caller: Caller,
  answers: readonly Answer[],
  door: Door,
): Promise<number> {
  if (answers.length > ANSWERS_MAX) {
    throw new ApiRefusal("too-many", { field: "/items", detail: `a call takes at most ${ANSWERS_MAX} answers` });
  }
  if (answers.length === 0) return 0;
  const at = deps.now();
  const items = answerItems(answers, at, door);
  await deps.receipts.append(receiptEvents(API_SOURCE, caller.agentId, items, at));
  deps.counted("answers_accepted", items.length);
  return items.length;
}

/** Answers as *acks* reads them. `at`: ms since the epoch. */
export function answerItems(answers: readonly Answer[], at: number, door: Door): ReceiptItem[] {
  return answers.map(({ senderId, messageId, outcome, code }) => {
    return { outcome, senderId, itemId: messageId, at, door, code: code ?? null };
  });
}

/** Answers by seq as answers by id. An item that no longer waits has its answer already, and is left out. */
export async function resolveSeqs(
  deps: ResolveSeqsDeps,
  caller: Caller,
  answers: readonly SeqAnswer[],
): Promise<readonly Answer[]> {
  if (answers.length === 0) return [];
  const items = await deps.itemsBySeq(
    caller.agentId,
    answers.map(({ seq }) => seq),
  );
  const bySeq = new Map(items.map((item) => [item.seq, item]));
  return answers.flatMap(({ seq, ...rest }) => {
    const item = bySeq.get(seq);
    return item === undefined ? [] : [{ senderId: item.senderId, messageId: item.itemId, ...rest }];
  });
}
