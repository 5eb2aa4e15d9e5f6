/**
 * What the databases say, and what is still to do. Asked of the servers themselves, past the service's doors to PostgreSQL; only the comparison of the tables
 * with the log is the product's own.
 */
import pg from "pg";
import { rebuildOver } from "../../bin/rebuild-diff.ts";
import type { StackUrls } from "../../infra/local/stack.ts";
import type { Difference } from "../../rebuild/compare.ts";
import { catalogue } from "../../streams/catalogue.ts";
import type { KafkaDoor } from "../../streams/kafka.ts";
import { readers } from "../../streams/readers.ts";
import { deadLetterTopicName } from "../../streams/topic.ts";
import type { GroupOffset, GroupReads, MessageRow, MeterRow, Snapshot, UsageRow } from "./checker/history.ts";

export const groups: readonly GroupReads[] = readers.map(({ group, reads, positions }) => ({
  group,
  topics: reads.map(({ name }) => name),
  hasState: positions === "postgres",
}));

const topics = catalogue.flatMap((topic) => [topic.name, deadLetterTopicName(topic)]);
const readTopics = [...new Set(groups.flatMap((group) => group.topics))];

type Rows = Pick<Snapshot, "messages" | "usage" | "meters">;
type Comparison = Pick<Snapshot, "tables" | "uncompared">;
type State = Omit<Snapshot, keyof Comparison>;

/** Of waiting for a moment in which everything is read. It is quiet already, or will not be. */
const COMPARISON_MS_MAX = 20_000;

/** Everything but the rows of tables, of what consumers read: it is asked every second. */
export function stateNow(postgresUrl: string, kafka: KafkaDoor): Promise<State> {
  return ask(postgresUrl, kafka, readTopics, async () => ({ messages: [], usage: [], meters: [] }));
}

export async function snapshot(urls: StackUrls, kafka: KafkaDoor): Promise<Snapshot> {
  return { ...(await ask(urls.postgresUrl, kafka, topics, rowsIn)), ...(await compareTables(urls)) };
}

async function compareTables(urls: StackUrls): Promise<Comparison> {
  try {
    const servers = { ...urls, kafka: { brokers: urls.kafkaBrokers } };
    const rebuilt = await rebuildOver(servers, { patienceMs: COMPARISON_MS_MAX });
    if (rebuilt.outcome === "busy") return { tables: [], uncompared: rebuilt.why };
    const tables = rebuilt.tables.map(({ table, rows, differences }) => {
      return { table, rows, differences: differences.map(words) };
    });
    return { tables, uncompared: null };
  } catch (error) {
    return { tables: [], uncompared: String(error) };
  }
}

function words({ key, what, columns }: Difference): string {
  const sides = Object.entries(columns).map(([name, { log, table }]) => `${name} ${log} by the log, and ${table}`);
  return `${key} is ${what}: ${sides.join("; ")}`;
}

async function rowsIn(client: pg.Client): Promise<Rows> {
  // As the service reads them: a bigint here is a number that a number holds.
  const { rows: messages } = await client.query<MessageRow>(
    `SELECT sender_id AS "senderId", message_id AS "messageId", recipient_id AS "recipientId", seq::float8 AS seq,
       delivered_at IS NOT NULL AS "isDelivered", outcome
     FROM messaging_messages`,
  );
  const counts = ["sent", "received", "acknowledged", "discarded"].flatMap((what) =>
    ["messages", "bytes"].map(
      (unit) => `${unit}_${what}::float8 AS "${unit}${what[0]?.toUpperCase()}${what.slice(1)}"`,
    ),
  );
  const { rows: usage } = await client.query<UsageRow>(
    `SELECT agent_id AS "agentId", hour::float8 AS hour, ${counts.join(", ")} FROM messaging_usage`,
  );
  const { rows: meters } = await client.query<MeterRow>(
    `SELECT agent_id AS "agentId", waiting_messages::float8 AS "waitingMessages", waiting_bytes::float8 AS "waitingBytes"
     FROM messaging_meters`,
  );
  return { messages, usage, meters };
}

async function ask(
  postgresUrl: string,
  kafka: KafkaDoor,
  asked: readonly string[],
  tableRows: (client: pg.Client) => Promise<Rows>,
): Promise<State> {
  const client = new pg.Client({ connectionString: postgresUrl });
  client.on("error", () => undefined);
  await client.connect();
  try {
    const count = async (text: string) => Number((await client.query<{ count: string }>(text)).rows[0]?.count);
    const outboxRows = await count("SELECT count(*) FROM outbox");
    const unpublishedFacts = await count("SELECT count(*) FROM facts WHERE published_at IS NULL");
    const queued = await client.query<{ recipient: string }>("SELECT recipient_id AS recipient FROM messaging_queue");
    const { rows } = await client.query<{ group: string; topic: string; partition: number; offset: string }>(
      'SELECT grp AS "group", topic, part AS partition, next_offset AS "offset" FROM consumer_positions',
    );
    const ends = [];
    for (const topic of asked) {
      const found = await kafka.ask((admin) => admin.fetchTopicOffsets(topic));
      ends.push(...found.map(({ partition, high }) => ({ topic, partition, offset: Number(high) })));
    }
    return {
      positions: rows.map((row) => ({ ...row, offset: Number(row.offset) })),
      committed: await committedOf(kafka),
      ends,
      ...(await tableRows(client)),
      waiting: queued.rows.map(({ recipient }) => recipient),
      outboxRows,
      unpublishedFacts,
    };
  } finally {
    await client.end();
  }
}

async function committedOf(kafka: KafkaDoor): Promise<readonly GroupOffset[]> {
  const all: GroupOffset[] = [];
  for (const { group, topics: read } of groups) {
    const found = await kafka.ask((admin) => admin.fetchOffsets({ groupId: group, topics: [...read] }));
    for (const { topic, partitions } of found) {
      for (const { partition, offset } of partitions) {
        // −1: Kafka was never told.
        if (Number(offset) >= 0) all.push({ group, topic, partition, offset: Number(offset) });
      }
    }
  }
  return all;
}

/** What is left to do, in words; nothing when all is quiet. `readers`: whose mailboxes shall be empty. */
export function leftToDo(state: State, readers: readonly string[]): readonly string[] {
  const told = new Map(state.committed.map((one) => [`${one.group} ${one.topic}/${one.partition}`, one.offset]));
  const positions = new Map(state.positions.map((one) => [`${one.group} ${one.topic}/${one.partition}`, one.offset]));
  const left: string[] = [];
  for (const { group, topics: read, hasState } of groups) {
    for (const { topic, partition, offset } of state.ends) {
      const place = `${group} ${topic}/${partition}`;
      const at = (hasState ? positions : told).get(place) ?? 0;
      if (read.includes(topic) && at < offset) left.push(`${place} is read up to ${at} of ${offset}`);
    }
  }
  const waiting = state.waiting.filter((recipientId) => readers.includes(recipientId)).length;
  if (waiting > 0) left.push(`${waiting} items wait in mailboxes`);
  if (state.outboxRows > 0) left.push(`${state.outboxRows} rows are in the outbox`);
  if (state.unpublishedFacts > 0) left.push(`${state.unpublishedFacts} facts are not published`);
  return left;
}
