import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createDatabase } from "../tests/stack.ts";
import { migrate } from "./migrate.ts";
import { openPostgres, type Postgres } from "./postgres.ts";
import { sweepMailboxes } from "./sweep.ts";

let db: Postgres;

beforeAll(async () => {
  const url = await createDatabase("sweep");
  await migrate(url);
  db = openPostgres(url);
});

afterAll(() => db.close());

const agent = (letter: string) => letter.repeat(43);

/** A mailbox with this last seq, in which these seqs wait. */
async function fill(recipientId: string, lastSeq: number, seqs: readonly number[], asideSeqs: readonly number[] = []) {
  await db.query({
    text: "INSERT INTO messaging_mailboxes (recipient_id, last_seq, stored_items, stored_bytes) VALUES ($1, $2, $2, $2)",
    values: [recipientId, lastSeq],
  });
  for (const seq of [...seqs, ...asideSeqs]) {
    await db.query({
      text: `INSERT INTO messaging_queue (recipient_id, sender_id, item_id, seq, kind, body, created_at, expires_at, aside_at)
             VALUES ($1, $2, $3, $4, 'message', '\\x01', 1, 2, $5)`,
      values: [recipientId, agent("s"), randomUUID(), seq, asideSeqs.includes(seq) ? 1 : null],
    });
  }
}

test("a sweep tells which mailboxes have more, and which of the asked items do not wait any more", async () => {
  await fill(agent("a"), 10, [3, 10]);
  await fill(agent("b"), 5, [4, 5], [2]);
  await fill(agent("c"), 7, []);
  const answers = await sweepMailboxes(db, [
    { recipientId: agent("a"), lastSent: 7, seqs: [1, 3, 7] },
    { recipientId: agent("b"), lastSent: 5, seqs: [2, 4, 5] },
    { recipientId: agent("c"), lastSent: 7, seqs: [] },
    { recipientId: agent("d"), lastSent: 0, seqs: [] },
  ]);
  expect(answers).toEqual(
    new Map([
      [agent("a"), { lastSeq: 10, gone: [1, 7] }],
      [agent("b"), { lastSeq: 5, gone: [2] }],
    ]),
  );
});

test("a sweep of no one, and one of thousands, are one question each", async () => {
  expect(await sweepMailboxes(db, [])).toEqual(new Map());
  const many = Array.from({ length: 1_000 }, (_, index) => ({
    recipientId: String(index).padStart(43, "0"),
    lastSent: index,
    seqs: [index + 1],
  }));
  const answers = await sweepMailboxes(db, many);
  expect(answers.size).toBe(1_000);
  expect(answers.get("1".padStart(43, "0"))).toEqual({ lastSeq: 1, gone: [2] });
});
