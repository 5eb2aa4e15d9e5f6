/**
 * The tables that are made of the log, as they stand in one moment: for whoever compares them with it (docs/rebuild.md).
 *
 * Promise: all that is read inside one `atOneMoment` is of the same moment, whatever goes on meanwhile. Nothing is changed, nobody waits. Secrets are left
 * out, bodies are read as their SHA-256, and so are columns that say how a table is worked with and not what it holds (`turned`, `revision`, `is_announced`).
 */
import { agentIdOf } from "../protocol/identity.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";

type Column = string | number | null;

export interface ProjectedRow {
  /** The columns of its key, with slashes between. */
  readonly key: string;
  /** No fact of the row is older, ms since the epoch; null where the table does not say. */
  readonly since: number | null;
  readonly columns: Readonly<Record<string, Column>>;
}

/** Each selects `key` and `since`; all other columns are compared. */
const selections: Readonly<Record<string, string>> = {
  messaging_queue: `SELECT recipient_id || '/' || sender_id || '/' || item_id AS key, created_at AS since,
      seq, kind, encode(sha256(body), 'hex') AS body_sha256, created_at, expires_at, aside_at FROM messaging_queue`,
  messaging_messages: `SELECT sender_id || '/' || message_id AS key, accepted_at AS since, recipient_id, encode(digest, 'hex') AS digest,
      encode(session_id, 'hex') AS session_id, send_counter, seq, size, custody, accepted_at, queued_at, delivered_at, undeliverable_at,
      outcome, code, ended_at FROM messaging_messages`,
  messaging_discarded: `SELECT sender_id || '/' || message_id AS key, discarded_at AS since, recipient_id, code, discarded_at FROM messaging_discarded`,
  messaging_mailboxes: `SELECT recipient_id AS key, NULL AS since, last_seq, stored_items, stored_bytes, evicted_seq FROM messaging_mailboxes`,
  messaging_mailbox_ends: `SELECT recipient_id AS key, NULL AS since, ended_items, ended_bytes FROM messaging_mailbox_ends`,
  messaging_session_facts: `SELECT owner_id || '/' || peer_id || '/' || encode(session_id, 'hex') AS key, first_at AS since, message_id,
      encode(dh_public_key, 'hex') AS dh_public_key, send_counter, previous_counter, messages, first_at, last_at, suite, signed_prekey_id,
      one_time_prekey_id, kem_prekey_id, initialized_at FROM messaging_session_facts`,
  messaging_agents: `SELECT agent_id AS key, created_at AS since, custody, status, created_at,
      'owner:' || owner_issuer || '#' || owner_subject AS owner, encode(identity_key, 'hex') AS thumbprint FROM messaging_agents`,
  messaging_usage: `SELECT agent_id || '/' || hour AS key, hour AS since, messages_sent, bytes_sent, messages_received, bytes_received,
      messages_acknowledged, bytes_acknowledged, messages_discarded, bytes_discarded FROM messaging_usage`,
  // What was used is as it should be, and need not be read.
  messaging_prekeys: `SELECT agent_id || '/' || prekey_id AS key, NULL AS since, status FROM messaging_prekeys
      WHERE key_type IN ('one-time', 'kem') AND status <> 'USED'`,
};

/** Where a group stands in a partition. */
export interface Standing {
  readonly group: string;
  readonly topic: string;
  readonly partition: number;
  readonly nextOffset: number;
}

export interface Moment {
  positions(): Promise<readonly Standing[]>;
  /** What is committed and not told yet: of steps of these groups, and of the API and jobs. */
  untold(groups: readonly string[]): Promise<number>;
  /** Every row of the table, page by page. Throws (a bug) for a table that is not compared. */
  rows(table: string): AsyncGenerator<readonly ProjectedRow[]>;
}

/** Some MB at a time, and well below the time that a statement may take. */
const PAGE_ROWS = 5_000;

/** Throws what `work` throws, and `Unavailable`. */
export function atOneMoment<Result>(postgres: Postgres, work: (moment: Moment) => Promise<Result>): Promise<Result> {
  return inTransaction(postgres, async (client) => {
    await client.query({ text: "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY" });
    // Whole tables are read: what spares everybody else from it (postgres.ts) would be in the way.
    await client.query({ text: "SET LOCAL enable_seqscan = on" });
    return work({
      positions: () => positions(client),
      untold: (groups) => untold(client, groups),
      rows: (table) => rows(client, table),
    });
  });
}

async function positions(client: Queryable): Promise<readonly Standing[]> {
  const { rows: found } = await client.query<{ grp: string; topic: string; part: number; next_offset: number }>({
    text: "SELECT grp, topic, part, next_offset FROM consumer_positions",
  });
  return found.map(({ grp: group, topic, part: partition, next_offset: nextOffset }) => {
    return { group, topic, partition, nextOffset };
  });
}

async function untold(client: Queryable, groups: readonly string[]): Promise<number> {
  const { rows: found } = await client.query<{ count: number }>({
    text: `SELECT (SELECT count(*) FROM outbox WHERE grp = ANY ($1::text[]))
                + (SELECT count(*) FROM facts WHERE published_at IS NULL) AS count`,
    values: [groups],
  });
  return found[0]?.count ?? 0;
}

async function* rows(client: Queryable, table: string): AsyncGenerator<readonly ProjectedRow[]> {
  const selection = selections[table];
  if (selection === undefined) throw new Error("a table that is not made of the log");
  const cursor = `rows_of_${table}`;
  await client.query({ text: `DECLARE ${cursor} NO SCROLL CURSOR FOR ${selection}` });
  for (;;) {
    const { rows: page } = await client.query<{ key: string; since: number | null } & Record<string, Column>>({
      text: `FETCH ${PAGE_ROWS} FROM ${cursor}`,
    });
    if (page.length > 0) yield page.map(({ key, since, ...columns }) => ({ key, since, columns: asTold(columns) }));
    if (page.length < PAGE_ROWS) break;
  }
  await client.query({ text: `CLOSE ${cursor}` });
}

/** An agent's id is the thumbprint of its key: the log has the one, and the row the other. */
function asTold(columns: Record<string, Column>): Record<string, Column> {
  const { thumbprint } = columns;
  if (typeof thumbprint !== "string") return columns;
  return { ...columns, thumbprint: agentIdOf(nodePrimitives, Buffer.from(thumbprint, "hex")) };
}
