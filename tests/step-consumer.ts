/**
 * A small consumer over the real servers for the runner's tests: it notes each record in a table, and tells the world once per record.
 */
import { Refusal } from "../protocol/refusal.ts";
import type { PushRequested } from "../schemas/values.ts";
import type { Queryable } from "../store/postgres.ts";
import { pushRequested } from "../streams/catalogue.ts";
import type { StepConsumer } from "../streams/consumer.ts";
import type { Topic } from "../streams/topic.ts";

/** A topic of a test: the schema of `push.requested.v1` under a name of its own. */
export function testTopic(name: string): Topic<PushRequested> {
  return { ...pushRequested, name, schema: pushRequested.name };
}

/** `n` counts the times a record was applied: it must end as 1. */
export const noteTable = `CREATE TABLE IF NOT EXISTS noted (
  topic text, part integer, off bigint, key text, seq bigint CHECK (seq <> 666), n integer DEFAULT 1, PRIMARY KEY (topic, part, off))`;

/** A record whose `seq` is 666 is refused by the database, 13 by the consumer's check, 404 makes it throw like a bug. */
export function noting(
  name: string,
  input: Topic<PushRequested>,
  output: Topic<PushRequested>,
): StepConsumer<PushRequested, Queryable> {
  return {
    name,
    reads: [input],
    check: ({ value }) => {
      if (value.seq === 13) throw new Refusal("unlucky");
      if (value.seq === 404) throw new TypeError("a bug");
    },
    async step(batch, tx) {
      await tx.query({
        text: `INSERT INTO noted (topic, part, off, key, seq)
               SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::text[], $5::bigint[])
               ON CONFLICT (topic, part, off) DO UPDATE SET n = noted.n + 1`,
        values: [
          batch.map(({ topic }) => topic.name),
          batch.map(({ partition }) => partition),
          batch.map(({ offset }) => offset),
          batch.map(({ key }) => key),
          batch.map(({ value }) => value.seq),
        ],
      });
      return batch.map((record) => ({
        topic: output,
        key: record.key,
        cause: record,
        time: record.timestamp,
        subject: record.key,
        value: () => ({ ...record.value, requestedAt: record.timestamp }),
      }));
    },
    lament: (record, code) => [
      {
        topic: output,
        key: record.key,
        cause: { ...record, topic: { name: record.topic } },
        time: record.timestamp,
        subject: code,
        value: () => ({ recipientId: `lament:${code}`, seq: record.offset, requestedAt: record.timestamp }),
      },
    ],
  };
}
