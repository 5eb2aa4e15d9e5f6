/**
 * What was counted of agents, hour by hour: read for those who ask, announced to billing, and forgotten.
 *
 * Promise: what is read is of one moment. What was stored at the end of a time is what waits now, without what came and with what went since; so hours
 * that were forgotten are not missed.
 */
import type { UsageCounts, UsageStored } from "../schemas/values.ts";
import { nowMs } from "./meters.ts";
import type { Queryable } from "./postgres.ts";

/** A time of an agent: an hour, or a day. */
export interface UsagePeriod extends UsageCounts, UsageStored {
  readonly agentId: string;
  /** Its beginning, ms since the epoch. */
  readonly at: number;
}

export interface UsageRange {
  /** Beginnings of periods, ms since the epoch; `to` is not in it. */
  readonly from: number;
  readonly to: number;
  /** How long a period is. */
  readonly periodMs: number;
}

/** An hour as it is to be announced. */
export interface ChangedHour extends UsagePeriod {
  readonly revision: number;
}

export interface HourPlace {
  readonly agentId: string;
  readonly at: number;
}

const counts = `messages_sent, bytes_sent, messages_received, bytes_received, messages_acknowledged, bytes_acknowledged,
                messages_discarded, bytes_discarded`;
const sums = counts.replaceAll(/\w+/g, (name) => `sum(${name})::bigint AS ${name}`);

/** SQL, of a row of counts: by how much it changed what waits. */
const messagesGrown = "messages_received - messages_acknowledged - messages_discarded";
const bytesGrown = "bytes_received - bytes_acknowledged - bytes_discarded";

/** SQL: what waited at the end of the hours `u`. */
const storedAtEnd = `greatest(0, m.waiting_messages - later.messages) AS messages_stored, greatest(0, m.waiting_bytes - later.bytes) AS bytes_stored
  FROM u JOIN messaging_meters m ON m.agent_id = u.agent_id
  CROSS JOIN LATERAL (
    SELECT coalesce(sum(${messagesGrown}), 0)::bigint AS messages, coalesce(sum(${bytesGrown}), 0)::bigint AS bytes
    FROM messaging_usage l WHERE l.agent_id = u.agent_id AND l.hour > u.hour OFFSET 0) AS later`;

/** The periods of an agent in which something was counted, the earliest first; at most `limit`. */
export async function usageOf(
  db: Queryable,
  agentId: string,
  { from, to, periodMs }: UsageRange,
  limit: number,
): Promise<readonly UsagePeriod[]> {
  const { rows } = await db.query<UsageRow>({
    name: "usage-of-agent",
    text: `WITH periods AS MATERIALIZED (
             SELECT hour - hour % $4::bigint AS at, ${sums} FROM messaging_usage WHERE agent_id = $1 AND hour >= $2 GROUP BY 1
           ), grown AS (
             SELECT *, coalesce(sum(${messagesGrown}) OVER later, 0)::bigint AS later_messages,
                       coalesce(sum(${bytesGrown}) OVER later, 0)::bigint AS later_bytes
             FROM periods WINDOW later AS (ORDER BY at DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
           )
           SELECT m.agent_id, at, ${counts}, greatest(0, m.waiting_messages - later_messages) AS messages_stored,
                  greatest(0, m.waiting_bytes - later_bytes) AS bytes_stored
           FROM grown JOIN messaging_meters m ON m.agent_id = $1 WHERE at < $3 ORDER BY at LIMIT $5`,
    values: [agentId, from, to, periodMs, limit],
  });
  return rows.map(periodOf);
}

/** An hour of all agents, in the order of their ids, behind `after`; at most `limit`. */
export async function usageOfHour(
  db: Queryable,
  hour: number,
  after: string,
  limit: number,
): Promise<readonly UsagePeriod[]> {
  const { rows } = await db.query<UsageRow>({
    name: "usage-of-hour",
    text: `WITH u AS MATERIALIZED (
             SELECT agent_id, hour, ${counts} FROM messaging_usage WHERE hour = $1 AND agent_id > $2 ORDER BY agent_id LIMIT $3
           )
           SELECT u.agent_id, u.hour AS at, ${counts}, ${storedAtEnd} ORDER BY u.agent_id`,
    values: [hour, after, limit],
  });
  return rows.map(periodOf);
}

/** How long an end waits for its beginning until that counts as gone, with the log's beginning. An hour without anything of the mailbox. */
const beginningMsMax = 60 * 60 * 1000;

/**
 * SQL, of an hour `c`: whether something of the mailbox is counted as ended and not yet as stored. Nothing was taken from what waits then, so what is said
 * of earlier hours is too much until its beginning is read. Beginnings are read in their order. The newest hour has the revision of the last end.
 */
const isAhead = `coalesce((SELECT upper(m.ended_seqs) > coalesce(upper(m.stored_seqs), 0) FROM messaging_meters m WHERE m.agent_id = c.agent_id), false)
  AND (SELECT n.revision FROM messaging_usage n WHERE n.agent_id = c.agent_id ORDER BY n.hour DESC LIMIT 1) > ${nowMs} - ${beginningMsMax}`;

/**
 * Hours that have changed since they were announced, in the order of agents and hours, behind `after`; at most `limit`. Without those of agents of whom an
 * end is known and its beginning is not: the same revision would say two things.
 */
export async function changedHours(
  db: Queryable,
  after: HourPlace | null,
  limit: number,
): Promise<readonly ChangedHour[]> {
  const { rows } = await db.query<UsageRow & { readonly revision: number }>({
    name: "changed-hours",
    text: `WITH u AS MATERIALIZED (
             SELECT agent_id, hour, ${counts}, revision FROM messaging_usage c
             WHERE NOT is_announced AND (agent_id, hour) > ($1::text, $2::bigint) AND NOT (${isAhead})
             ORDER BY agent_id, hour LIMIT $3
           )
           SELECT u.agent_id, u.hour AS at, ${counts}, revision, ${storedAtEnd} ORDER BY u.agent_id, u.hour`,
    values: [after?.agentId ?? "", after?.at ?? 0, limit],
  });
  return rows.map((row) => ({ ...periodOf(row), revision: row.revision }));
}

/** What has changed meanwhile is to be announced once more, and what a step holds may be. Waits for nobody. */
export async function markAnnounced(db: Queryable, hours: readonly ChangedHour[]): Promise<void> {
  if (hours.length === 0) return;
  await db.query({
    name: "mark-hours-announced",
    text: `WITH mine AS MATERIALIZED (
             SELECT u.agent_id, u.hour FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS i (agent_id, hour, revision)
             JOIN messaging_usage u ON u.agent_id = i.agent_id AND u.hour = i.hour AND u.revision = i.revision
             FOR UPDATE OF u SKIP LOCKED
           )
           UPDATE messaging_usage u SET is_announced = true FROM mine m WHERE u.agent_id = m.agent_id AND u.hour = m.hour`,
    values: [hours.map(({ agentId }) => agentId), hours.map(({ at }) => at), hours.map(({ revision }) => revision)],
  });
}

/** Rows of one deletion: some milliseconds. */
const forgottenRowsMax = 1_000;

/** Deletes the hours before `before` (ms since the epoch), batch by batch, until `signal` ends it. Answers how many went. */
export async function forgetUsage(db: Queryable, before: number, signal?: AbortSignal): Promise<number> {
  for (let forgotten = 0; ; ) {
    const { rowCount } = await db.query({
      name: "forget-usage",
      text: `WITH old AS MATERIALIZED (
               SELECT agent_id, hour FROM messaging_usage WHERE hour < $1 ORDER BY hour, agent_id LIMIT $2 FOR UPDATE SKIP LOCKED
             )
             DELETE FROM messaging_usage u USING old o WHERE u.agent_id = o.agent_id AND u.hour = o.hour`,
      values: [before, forgottenRowsMax],
    });
    forgotten += rowCount ?? 0;
    if ((rowCount ?? 0) < forgottenRowsMax || signal?.aborted === true) return forgotten;
  }
}

interface UsageRow {
  readonly agent_id: string;
  readonly at: number;
  readonly messages_sent: number;
  readonly bytes_sent: number;
  readonly messages_received: number;
  readonly bytes_received: number;
  readonly messages_acknowledged: number;
  readonly bytes_acknowledged: number;
  readonly messages_discarded: number;
  readonly bytes_discarded: number;
  readonly messages_stored: number;
  readonly bytes_stored: number;
}

function periodOf(row: UsageRow): UsagePeriod {
  return {
    agentId: row.agent_id,
    at: row.at,
    messagesSent: row.messages_sent,
    bytesSent: row.bytes_sent,
    messagesReceived: row.messages_received,
    bytesReceived: row.bytes_received,
    messagesAcknowledged: row.messages_acknowledged,
    bytesAcknowledged: row.bytes_acknowledged,
    messagesDiscarded: row.messages_discarded,
    bytesDiscarded: row.bytes_discarded,
    messagesStored: row.messages_stored,
    bytesStored: row.bytes_stored,
  };
}
