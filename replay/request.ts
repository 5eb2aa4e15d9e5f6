/**
 * What is asked of a replay: which records, in what form. Everything that decides about the bytes of its files is here, and nothing else is.
 *
 * Records are chosen by `occurred_at`, when the thing happened: that is what an auditor asks for. Kafka knows when a record was appended, which is later:
 * so the log is read from a minute before the range to `lateMs` after it.
 */
import { z } from "zod";
import type { AuditRecord } from "../schemas/values.ts";

export const FORMATS = ["jsonl", "csv", "parquet"] as const;
export type Format = (typeof FORMATS)[number];

/** Clocks of the processes that say when a thing happened and of the brokers differ by less. */
const CLOCK_SKEW_MS = 60_000;

/** How much later than its fact a record may come by default: an audit consumer that was away for so long has caught up. */
export const LATE_MS_DEFAULT = 60 * 60 * 1000;

/** Of a file: some 30 MB of Parquet, which any tool opens. */
export const RECORDS_PER_FILE_DEFAULT = 250_000;

export const replayRequest = z.strictObject({
  /** ms since the epoch; the first that is in. */
  from: z.int().nonnegative(),
  /** ms since the epoch; the first that is out. */
  to: z.int().nonnegative(),
  late_ms: z.int().nonnegative(),
  /** Who takes part in any way; none: everybody. Sorted. */
  agents: z.array(z.string()),
  /** Each as it is, or a beginning with `*`; none: all. Sorted. */
  actions: z.array(z.string()),
  format: z.enum(FORMATS),
  records_per_file: z.int().positive(),
});

export type ReplayRequest = z.infer<typeof replayRequest>;

/** When what is read was appended. */
export function windowOf({ from, to, late_ms }: Pick<ReplayRequest, "from" | "to" | "late_ms">) {
  return { from: Math.max(0, from - CLOCK_SKEW_MS), to: to + late_ms };
}

/** A predicate over records, made once for all of them. */
export function selectorOf({ from, to, agents, actions }: ReplayRequest): (record: AuditRecord) => boolean {
  const wanted = new Set(agents);
  const exact = new Set(actions.filter((action) => !action.endsWith("*")));
  const prefixes = actions.filter((action) => action.endsWith("*")).map((action) => action.slice(0, -1));
  const isWantedAgent = ({ agentId, actor, senderId, recipientId }: AuditRecord) =>
    wanted.size === 0 ||
    wanted.has(agentId) ||
    wanted.has(actor) ||
    (senderId !== null && wanted.has(senderId)) ||
    (recipientId !== null && wanted.has(recipientId));
  const isWantedAction = ({ action }: AuditRecord) =>
    actions.length === 0 || exact.has(action) || prefixes.some((prefix) => action.startsWith(prefix));
  return (record) =>
    record.occurredAt >= from && record.occurredAt < to && isWantedAgent(record) && isWantedAction(record);
}
