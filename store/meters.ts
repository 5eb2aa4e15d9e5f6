/**
 * Meters: what was counted of each agent, and the memory that lets nothing be counted twice. What the metering consumer's step does in the database.
 *
 * Promises: whoever holds an agent's meter is the only one who changes it and the agent's hours; meters are locked in one order, so two steps never wait for
 * each other. What is added to an hour raises its revision, and so does what changes the stock at its end.
 */
import type { UsageCounts } from "../schemas/values.ts";
import type { Queryable } from "./postgres.ts";

/** Places of a mailbox: ranges from first to last, both included, in order, never touching each other. */
export type SeqRanges = readonly (readonly [first: number, last: number])[];

export interface Meter {
  readonly agentId: string;
  /** Where it was counted that something was stored, and that it has ended. */
  readonly storedSeqs: SeqRanges;
  readonly endedSeqs: SeqRanges;
  /** Seen stored, and not seen ended. */
  readonly waitingMessages: number;
  readonly waitingBytes: number;
}

/** What comes to an agent's hour. */
export interface HourCounts extends UsageCounts {
  readonly agentId: string;
  /** Its beginning, ms since the epoch. */
  readonly hour: number;
}

/** SQL: rises also in a database that was put back from a backup. Readers of `usage.v1` know the highest as the newest. */
export const nowMs = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/** Locks the meters of these agents, each given once, until the transaction ends; those that are not there are made. In any order. */
export async function lockMeters(client: Queryable, agentIds: readonly string[]): Promise<readonly Meter[]> {
  if (agentIds.length === 0) return [];
  await client.query({
    name: "make-meters",
    text: `INSERT INTO messaging_meters (agent_id)
           SELECT agent_id FROM unnest($1::text[]) AS i (agent_id) ORDER BY agent_id COLLATE "C"
           ON CONFLICT (agent_id) DO NOTHING`,
    values: [agentIds],
  });
  const { rows } = await client.query<MeterRow>({
    name: "lock-meters",
    text: `SELECT agent_id, stored_seqs::text, ended_seqs::text, waiting_messages, waiting_bytes
           FROM messaging_meters WHERE agent_id = ANY ($1::text[]) ORDER BY agent_id FOR UPDATE`,
    values: [agentIds],
  });
  return rows.map((row) => ({
    agentId: row.agent_id,
    storedSeqs: parseRanges(row.stored_seqs),
    endedSeqs: parseRanges(row.ended_seqs),
    waitingMessages: row.waiting_messages,
    waitingBytes: row.waiting_bytes,
  }));
}

/** Writes meters that are locked, over what was there. */
export async function writeMeters(client: Queryable, meters: readonly Meter[]): Promise<void> {
  if (meters.length === 0) return;
  await client.query({
    name: "write-meters",
    text: `UPDATE messaging_meters m SET stored_seqs = i.stored_seqs::int8multirange, ended_seqs = i.ended_seqs::int8multirange,
             waiting_messages = i.waiting_messages, waiting_bytes = i.waiting_bytes
           FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
             AS i (agent_id, stored_seqs, ended_seqs, waiting_messages, waiting_bytes)
           WHERE m.agent_id = i.agent_id`,
    values: [
      meters.map(({ agentId }) => agentId),
      meters.map(({ storedSeqs }) => formatRanges(storedSeqs)),
      meters.map(({ endedSeqs }) => formatRanges(endedSeqs)),
      meters.map(({ waitingMessages }) => waitingMessages),
      meters.map(({ waitingBytes }) => waitingBytes),
    ],
  });
}

/** Adds to the hours of agents whose meters are locked; at most one for each hour of an agent. */
export async function addToHours(client: Queryable, hours: readonly HourCounts[]): Promise<void> {
  if (hours.length === 0) return;
  await client.query({
    name: "add-to-hours",
    text: `INSERT INTO messaging_usage AS u (agent_id, hour, messages_sent, bytes_sent, messages_received, bytes_received,
             messages_acknowledged, bytes_acknowledged, messages_discarded, bytes_discarded, revision, is_announced)
           SELECT i.*, ${nowMs}, false
           FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
                       $9::bigint[], $10::bigint[]) AS i
           ON CONFLICT (agent_id, hour) DO UPDATE SET
             messages_sent = u.messages_sent + excluded.messages_sent, bytes_sent = u.bytes_sent + excluded.bytes_sent,
             messages_received = u.messages_received + excluded.messages_received,
             bytes_received = u.bytes_received + excluded.bytes_received,
             messages_acknowledged = u.messages_acknowledged + excluded.messages_acknowledged,
             bytes_acknowledged = u.bytes_acknowledged + excluded.bytes_acknowledged,
             messages_discarded = u.messages_discarded + excluded.messages_discarded,
             bytes_discarded = u.bytes_discarded + excluded.bytes_discarded,
             revision = greatest(u.revision + 1, excluded.revision), is_announced = false`,
    values: [
      hours.map(({ agentId }) => agentId),
      hours.map(({ hour }) => hour),
      hours.map(({ messagesSent }) => messagesSent),
      hours.map(({ bytesSent }) => bytesSent),
      hours.map(({ messagesReceived }) => messagesReceived),
      hours.map(({ bytesReceived }) => bytesReceived),
      hours.map(({ messagesAcknowledged }) => messagesAcknowledged),
      hours.map(({ bytesAcknowledged }) => bytesAcknowledged),
      hours.map(({ messagesDiscarded }) => messagesDiscarded),
      hours.map(({ bytesDiscarded }) => bytesDiscarded),
    ],
  });
  await reviseLater(client, hours);
}

/** What came late changes what was stored at the end of every hour behind it. Rarely of more than none. */
async function reviseLater(client: Queryable, hours: readonly HourCounts[]): Promise<void> {
  const first = new Map<string, number>();
  for (const { agentId, hour, messagesReceived, messagesAcknowledged, messagesDiscarded } of hours) {
    if (messagesReceived + messagesAcknowledged + messagesDiscarded === 0) continue;
    first.set(agentId, Math.min(first.get(agentId) ?? hour, hour));
  }
  if (first.size === 0) return;
  await client.query({
    name: "revise-later-hours",
    text: `UPDATE messaging_usage u SET revision = greatest(u.revision + 1, ${nowMs}), is_announced = false
           FROM unnest($1::text[], $2::bigint[]) AS i (agent_id, hour)
           WHERE u.agent_id = i.agent_id AND u.hour > i.hour`,
    values: [[...first.keys()], [...first.values()]],
  });
}

/** As PostgreSQL writes a multirange of whole numbers: `{[1,5),[7,8)}`. */
function parseRanges(text: string): SeqRanges {
  return Array.from(text.matchAll(/\[(\d+),(\d+)\)/g), ([, first, end]) => [Number(first), Number(end) - 1] as const);
}

function formatRanges(ranges: SeqRanges): string {
  return `{${ranges.map(([first, last]) => `[${first},${last + 1})`).join(",")}}`;
}

interface MeterRow {
  readonly agent_id: string;
  readonly stored_seqs: string;
  readonly ended_seqs: string;
  readonly waiting_messages: number;
  readonly waiting_bytes: number;
}
