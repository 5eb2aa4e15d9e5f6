/**
 * What stands in questions for usage and in their answers, in zod; strict, like `value-schemas.ts`.
 */
import { z } from "zod";
import "zod-openapi";
import { parseTimestamp } from "../../protocol/timestamp.ts";
import type { UsageCounts, UsageStored } from "../../schemas/values.ts";
import { GRANULARITIES, HOUR_MS, USAGE_PERIODS_MAX } from "../operations/usage.ts";
import { agentId, timestamp } from "./value-schemas.ts";

const exampleHour = "2026-08-19T09:00:00.000Z";

/** As ms since the epoch. */
const hour = z
  .string()
  .refine((text) => isHour(parseTimestamp(text)), { error: `not the beginning of an hour in UTC, like ${exampleHour}` })
  .transform((text) => parseTimestamp(text) ?? 0)
  .meta({ description: "The beginning of an hour, UTC", format: "date-time", example: exampleHour });

function isHour(ms: number | null): boolean {
  return ms !== null && ms % HOUR_MS === 0;
}

const limit = z
  .string()
  .regex(/^[1-9]\d{0,2}$/, { error: "not a count" })
  .transform(Number)
  .refine((count) => count <= USAGE_PERIODS_MAX, { error: `more than ${USAGE_PERIODS_MAX}` })
  .default(USAGE_PERIODS_MAX)
  .meta({ description: `1 to ${USAGE_PERIODS_MAX}; default ${USAGE_PERIODS_MAX}` });

const granularity = z.enum(GRANULARITIES);

export const usageQuery = z.strictObject({
  from: hour.optional().describe("The first hour; default: 24 hours before to, of days 30 days"),
  to: hour.optional().describe("Behind the last hour; default: the end of this one"),
  granularity: granularity.default("hour").describe("Of days from and to begin at midnight, UTC"),
  after: hour.optional().describe("The cursor of the answer before; left out for the first page"),
  limit,
});

export const hourUsageQuery = z.strictObject({
  hour,
  after: agentId.optional().describe("The cursor of the answer before; left out for the first page"),
  limit,
});

const count = z.int().min(0);

const counted = {
  messages_sent: count.describe("That were stored for their recipients"),
  bytes_sent: count.describe("Bytes are of ciphertext, everywhere here"),
  messages_received: count.describe("That were stored in the mailbox"),
  bytes_received: count,
  messages_acknowledged: count.describe("Of those in the mailbox, read and acknowledged"),
  bytes_acknowledged: count,
  messages_discarded: count.describe("Of those in the mailbox, refused, evicted, expired or deleted"),
  bytes_discarded: count,
  messages_stored: count.describe("That waited in the mailbox when the time was over"),
  bytes_stored: count,
};

export const usageAnswer = z
  .strictObject({
    agent_id: agentId,
    granularity,
    from: timestamp,
    to: timestamp.describe("Not in it"),
    usage: z
      .array(z.strictObject({ start: timestamp, ...counted }).meta({ id: "UsagePeriod" }))
      .describe("The earliest first, without times in which nothing was counted: what was stored stays as it was"),
    cursor: z.string().optional().describe("`after` of the next call; absent on the last page"),
  })
  .meta({ id: "Usage" });

export const hourUsageAnswer = z
  .strictObject({
    hour: timestamp,
    usage: z
      .array(z.strictObject({ agent_id: agentId, ...counted }).meta({ id: "AgentUsage" }))
      .describe("By agent_id"),
    cursor: z.string().optional().describe("`after` of the next call; absent on the last page"),
  })
  .meta({ id: "HourUsage" });

/** What was counted, as it stands in answers, and in what the command line prints. */
export function countsToWire(period: UsageCounts & UsageStored): Record<string, number> {
  return {
    messages_sent: period.messagesSent,
    bytes_sent: period.bytesSent,
    messages_received: period.messagesReceived,
    bytes_received: period.bytesReceived,
    messages_acknowledged: period.messagesAcknowledged,
    bytes_acknowledged: period.bytesAcknowledged,
    messages_discarded: period.messagesDiscarded,
    bytes_discarded: period.bytesDiscarded,
    messages_stored: period.messagesStored,
    bytes_stored: period.bytesStored,
  };
}
