/**
 * Keeps the days of what is remembered of messages: three made ahead, so that midnight is no event, and those that nobody may ask for dropped. What agents of server
 * custody said goes sooner. So it does with the weeks of facts that have their audit record.
 */
import { dropOldAuditWeeks, ensureAuditWeeks, weekOf } from "../store/audit-weeks.ts";
import { forgetOldContents } from "../store/custody/commands.ts";
import { dayOf, dropOldMessageDays, ensureMessageDays } from "../store/message-days.ts";
import type { Postgres } from "../store/postgres.ts";

/** Outlives two nights on which this job fails; queuing makes a day that is missing all the same. */
const daysAhead = 3;

/** Ids up to 8 days old are taken (consumers/queuing): on a new database those days are missing as well. */
const daysBehind = 8;

/** Every hour. */
export const partitionsCron = "7 * * * *";

/**
 * @param now ms since the epoch
 * @throws Unavailable
 */
export async function keepPartitions(postgres: Postgres, now: number): Promise<void> {
  const today = dayOf(now);
  await ensureMessageDays(
    postgres,
    Array.from({ length: daysBehind + 1 + daysAhead }, (_, index) => today - daysBehind + index),
  );
  await ensureAuditWeeks(postgres, [weekOf(now), weekOf(now) + 1]);
  await forgetOldContents(postgres, now);
  await dropOldMessageDays(postgres, now);
  await dropOldAuditWeeks(postgres, now);
}
