/**
 * What the streams of one gateway missed, asked for all of them at once.
 *
 * Promise: what is told stays true: a mailbox's last seq only grows, and a seq that is gone never comes back.
 */
import type { Queryable } from "./postgres.ts";

export interface SweepQuestion {
  readonly recipientId: string;
  /** Everything up to this seq is known. */
  readonly lastSent: number;
  /** Seqs of which is asked whether they still wait. */
  readonly seqs: readonly number[];
}

export interface SweepAnswer {
  /** The mailbox's last seq, or the question's `lastSent` when there is nothing above it. */
  readonly lastSeq: number;
  /** Those of the question's seqs that do not wait any more. */
  readonly gone: readonly number[];
}

/** By recipient; those with nothing to tell are absent. One statement: some 1,000 questions at a time are a good size. */
export async function sweepMailboxes(
  db: Queryable,
  questions: readonly SweepQuestion[],
): Promise<ReadonlyMap<string, SweepAnswer>> {
  const open = questions.flatMap(({ recipientId, seqs }) => seqs.map((seq) => ({ recipientId, seq })));
  // OFFSET 0 keeps the question one index look-up in one partition for each seq, where a join might read all 64.
  const { rows } = await db.query<{ recipient_id: string; last_seq: number | null; gone: number | null }>({
    name: "sweep-mailboxes",
    text: `SELECT b.recipient_id, b.last_seq, NULL::bigint AS gone
           FROM unnest($1::text[], $2::bigint[]) AS asked (recipient_id, last_sent)
           JOIN messaging_mailboxes b ON b.recipient_id = asked.recipient_id AND b.last_seq > asked.last_sent
           UNION ALL
           SELECT open.recipient_id, NULL, open.seq
           FROM unnest($3::text[], $4::bigint[]) AS open (recipient_id, seq)
           WHERE NOT EXISTS (SELECT FROM messaging_queue q
                             WHERE q.recipient_id = open.recipient_id AND q.seq = open.seq AND q.aside_at IS NULL
                             OFFSET 0)`,
    values: [
      questions.map(({ recipientId }) => recipientId),
      questions.map(({ lastSent }) => lastSent),
      open.map(({ recipientId }) => recipientId),
      open.map(({ seq }) => seq),
    ],
  });
  const lastSent = new Map(questions.map((question) => [question.recipientId, question.lastSent]));
  const answers = new Map<string, { lastSeq: number; gone: number[] }>();
  for (const row of rows) {
    const answer = answers.get(row.recipient_id) ?? { lastSeq: lastSent.get(row.recipient_id) ?? 0, gone: [] };
    if (row.last_seq !== null) answer.lastSeq = row.last_seq;
    if (row.gone !== null) answer.gone.push(row.gone);
    answers.set(row.recipient_id, answer);
  }
  return answers;
}
