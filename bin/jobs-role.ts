/**
 * What the clock starts, in one list.
 */
import type pino from "pino";
import { claimsCron, forgetOldClaims } from "../jobs/claims.ts";
import { keepPartitions, partitionsCron } from "../jobs/partitions.ts";
import { measurePrekeyHealth, prekeyHealthCron } from "../jobs/prekey-health.ts";
import { bundlesCron, deleteOldPrekeys, prekeyDeletionCron, warmBundles } from "../jobs/prekeys.ts";
import { type RotationDeps, rotateDuePrekeys, rotationCron } from "../jobs/rotation.ts";
import { forgetOldSessions, sessionsCron } from "../jobs/sessions.ts";
import { Unavailable } from "../protocol/refusal.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { openBundles } from "../store/prekey-bundles.ts";
import { readPrekeyHealth } from "../store/prekey-health.ts";
import { openRedis, type RedisDoor } from "../store/redis.ts";
import { type ScheduledJob, startSchedule } from "../store/schedule.ts";
import { openCodec } from "../streams/codec.ts";
import type { PartContext } from "./consumer-role.ts";
import { openHeldKeys, serverKeysOf } from "./custody.ts";
import type { Metrics } from "./metrics.ts";
import type { Role } from "./role.ts";
import { joinRotation } from "./rotation.ts";

/** Each job has at most one statement under way; what is shown in metrics is read beside them. */
const POOL_CONNECTIONS_MAX = 4;

/** How long somebody who looks at metrics waits for PostgreSQL; then the numbers of before are shown. */
const MEASURE_MS_MAX = 1_000;

export async function startJobs({ config, log, metrics }: PartContext): Promise<Role> {
  const codec = await openCodec({ registryUrl: config.registryUrl, register: false });
  const redis = openRedis(config.redisUrl);
  const postgres = openPostgres(config.postgresUrl, {
    applicationName: "sealpost-jobs",
    connectionsMax: POOL_CONNECTIONS_MAX,
  });
  const held = await openHeldKeys(config);
  const rotation = joinRotation({ codec, postgres, redis, keys: serverKeysOf(held, postgres), metrics, log });
  const schedule = startSchedule(
    config.postgresUrl,
    jobsOn(postgres, redis, rotation).map((job) => byDatabaseClock(postgres, job)),
    listener(metrics, log),
  );
  metrics.onScrape(() => showPrekeyHealth(postgres, metrics));
  return {
    missing: () => (schedule.running() ? [] : ["jobs"]),
    stop: async () => {
      await schedule.stop();
      redis.close();
      held?.close();
      await postgres.close();
    },
  };
}

/** By the database's clock: a host that boots years ahead must not delete what is years old to it. */
function byDatabaseClock(postgres: Postgres, job: ScheduledJob): ScheduledJob {
  return {
    ...job,
    work: async (_now, signal) => {
      const { rows } = await postgres.query<{ now: number }>({
        text: "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now",
      });
      if (rows[0] === undefined) throw new Error("the database has no time");
      await job.work(rows[0].now, signal);
    },
  };
}

/** Name, when, what. */
function jobsOn(postgres: Postgres, redis: RedisDoor, rotation: RotationDeps): readonly ScheduledJob[] {
  return [
    { name: "partitions", cron: partitionsCron, work: (now) => keepPartitions(postgres, now) },
    { name: "claims", cron: claimsCron, work: (now) => forgetOldClaims(postgres, now) },
    { name: "rotation", cron: rotationCron, work: (now, signal) => rotateDuePrekeys(rotation, now, signal) },
    {
      name: "prekey-health",
      cron: prekeyHealthCron,
      work: (now, signal) => measurePrekeyHealth(postgres, now, signal),
    },
    {
      name: "prekey-deletion",
      cron: prekeyDeletionCron,
      work: (now, signal) => deleteOldPrekeys(postgres, now, signal),
    },
    { name: "bundles", cron: bundlesCron, work: (now) => warmBundles(openBundles(redis, postgres))(postgres, now) },
    { name: "sessions", cron: sessionsCron, work: (now, signal) => forgetOldSessions(postgres, now, signal) },
  ];
}

function listener(metrics: Metrics, log: pino.Logger) {
  return {
    onDone: (job: string) => metrics.jobRuns.inc({ job, outcome: "done" }),
    onFailed: (job: string, error: unknown) => {
      metrics.jobRuns.inc({ job, outcome: "failed" });
      if (error instanceof Unavailable) log.warn({ err: error, job }, "a job could not run; it is tried again");
      else log.error({ err: error, job }, "a bug in a job: please report it; the job is tried again");
    },
    onTrouble: (error: unknown) => log.warn({ err: error }, "the schedule waits for PostgreSQL"),
  };
}

/** The job counts in one process; every process shows what it counted, or a number would stay behind where it ran last. */
async function showPrekeyHealth(postgres: Postgres, metrics: Metrics): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<null>();
  const timer = setTimeout(resolve, MEASURE_MS_MAX, null);
  const health = await Promise.race([readPrekeyHealth(postgres), late]).catch(() => null);
  clearTimeout(timer);
  if (health === null) return;
  metrics.prekeysLow.set(health.low);
  metrics.signedPrekeysOld.set({ days: "7" }, health.older7Days);
  metrics.signedPrekeysOld.set({ days: "30" }, health.older30Days);
}
