/**
 * What the clock starts, in one list.
 */
import { claimsCron, forgetOldClaims } from "../jobs/claims.ts";
import { keepPartitions, partitionsCron } from "../jobs/partitions.ts";
import { Unavailable } from "../protocol/refusal.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { type ScheduledJob, startSchedule } from "../store/schedule.ts";
import type { PartContext } from "./consumer-role.ts";
import type { Role } from "./role.ts";

/** Some jobs at a time, each with one statement under way. */
const POOL_CONNECTIONS_MAX = 3;

export async function startJobs(context: PartContext): Promise<Role> {
  const { config, log, metrics } = context;
  const postgres = openPostgres(config.postgresUrl, {
    applicationName: "sealpost-jobs",
    connectionsMax: POOL_CONNECTIONS_MAX,
  });
  const schedule = startSchedule(config.postgresUrl, jobsOn(postgres), {
    onDone: (job) => metrics.jobRuns.inc({ job, outcome: "done" }),
    onFailed: (job, error) => {
      metrics.jobRuns.inc({ job, outcome: "failed" });
      if (error instanceof Unavailable) log.warn({ err: error, job }, "a job could not run; it is tried again");
      else log.error({ err: error, job }, "a bug in a job: please report it; the job is tried again");
    },
    onTrouble: (error) => log.warn({ err: error }, "the clock's jobs wait"),
  });
  return {
    missing: () => (schedule.running() ? [] : ["jobs"]),
    stop: async () => {
      await schedule.stop();
      await postgres.close();
    },
  };
}

/** Name, when, what. */
function jobsOn(postgres: Postgres): readonly ScheduledJob[] {
  return [
    { name: "partitions", cron: partitionsCron, work: (now) => keepPartitions(postgres, now) },
    { name: "claims", cron: claimsCron, work: (now) => forgetOldClaims(postgres, now) },
  ];
}
