/**
 * What the clock starts, in one list.
 */
import type pino from "pino";
import { audit } from "../consumers/audit/audit.ts";
import { type CheckpointsDeps, checkpointsCron, signHead } from "../jobs/checkpoints.ts";
import { claimsCron, forgetOldClaims } from "../jobs/claims.ts";
import { destroyPassedEpochs, epochsCron } from "../jobs/epochs.ts";
import { type ExpiryDeps, expireItems, expiryCron } from "../jobs/expiry.ts";
import { keepPartitions, partitionsCron } from "../jobs/partitions.ts";
import { measurePrekeyHealth, prekeyHealthCron } from "../jobs/prekey-health.ts";
import { bundlesCron, deleteOldPrekeys, prekeyDeletionCron, warmBundles } from "../jobs/prekeys.ts";
import { answerRequests, type RepairsDeps, repairsCron } from "../jobs/repairs.ts";
import { resealingCron, sealAnew } from "../jobs/resealing.ts";
import { type RotationDeps, rotateDuePrekeys, rotationCron } from "../jobs/rotation.ts";
import { forgetOldSessions, sessionsCron } from "../jobs/sessions.ts";
import { trimmingCron, trimTopics } from "../jobs/trimming.ts";
import { announceUsage, forgetOldUsage, type UsageDeps, usageCron, usageDeletionCron } from "../jobs/usage.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { Unavailable } from "../protocol/refusal.ts";
import { readAuditKey } from "../store/audit-key.ts";
import { type Keyring, KeyringError } from "../store/keyring/keyring.ts";
import { checkKeyring } from "../store/keyring-of-database.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { openBundles } from "../store/prekey-bundles.ts";
import { readPrekeyHealth } from "../store/prekey-health.ts";
import { openRedis, type RedisDoor } from "../store/redis.ts";
import { type ScheduledJob, startSchedule } from "../store/schedule.ts";
import { openCodec } from "../streams/codec.ts";
import { type NewEvent, toOutgoing } from "../streams/headers.ts";
import { type KafkaDoor, openKafka } from "../streams/kafka.ts";
import { openProducer } from "../streams/producer.ts";
import type { PartContext } from "./consumer-role.ts";
import { openHeldKeys, serverKeysOf } from "./custody.ts";
import type { Metrics } from "./metrics.ts";
import type { Role } from "./role.ts";
import { joinRotation } from "./rotation.ts";

/** Each job has at most one statement under way; what is shown in metrics is read beside them. */
const POOL_CONNECTIONS_MAX = 4;

/** How long somebody who looks at metrics waits for PostgreSQL; then the numbers of before are shown. */
const MEASURE_MS_MAX = 1_000;

/** What the audit recorded since the last minute is signed when the process ends, unless something is away. */
const LAST_CHECKPOINT_MS_MAX = 2_000;

export async function startJobs({ config, log, metrics }: PartContext): Promise<Role> {
  const signer = config.auditKeyFile === undefined ? null : readAuditKey(config.auditKeyFile);
  const held = await openHeldKeys(config);
  const codec = await openCodec({ registryUrl: config.registryUrl, register: false });
  const redis = openRedis(config.redisUrl);
  const postgres = openPostgres(config.postgresUrl, {
    applicationName: "sealpost-jobs",
    connectionsMax: POOL_CONNECTIONS_MAX,
  });
  const kafka = openKafka({ ...config.kafka, clientId: "sealpost-jobs", log });
  const producer = openProducer({ kafka, log });
  const rotation = joinRotation({ codec, postgres, redis, keys: serverKeysOf(held, postgres), metrics, log });
  const appending: RepairsDeps & ExpiryDeps & UsageDeps = {
    postgres,
    append: <Value>(events: readonly NewEvent<Value>[]) =>
      producer.append(events.map((event) => toOutgoing(codec, event))),
  };
  const signing = signer === null ? [] : signingOn({ postgres, signer, metrics, log });
  if (signer === null) log.info("checkpoints of the audit are not signed in this process: it has no key for them");
  const schedule = startSchedule(
    config.postgresUrl,
    [
      ...jobsOn(postgres, redis, rotation, appending),
      ...signing,
      ...trimmingOn({ postgres, kafka, metrics, log }),
      ...(held === null ? [] : forgettingOn({ postgres, kafka, metrics, log }, held.keyring)),
    ].map((job) => byDatabaseClock(postgres, job)),
    listener(metrics, log),
  );
  metrics.onScrape(() => showPrekeyHealth(postgres, metrics));
  if (held !== null) metrics.onScrape(() => showOldestKeys(held.keyring, metrics));
  return {
    missing: () => (schedule.running() ? [] : ["jobs"]),
    stop: async () => {
      await schedule.stop();
      for (const { work } of signing)
        await work(Date.now(), AbortSignal.timeout(LAST_CHECKPOINT_MS_MAX)).catch(() => undefined);
      await producer.close();
      redis.close();
      held?.close();
      await Promise.all([kafka.close(), postgres.close()]);
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
function jobsOn(
  postgres: Postgres,
  redis: RedisDoor,
  rotation: RotationDeps,
  appending: RepairsDeps & ExpiryDeps & UsageDeps,
): readonly ScheduledJob[] {
  return [
    { name: "expiry", cron: expiryCron, work: (now, signal) => expireItems(appending, now, signal) },
    { name: "partitions", cron: partitionsCron, work: (now) => keepPartitions(postgres, now) },
    { name: "claims", cron: claimsCron, work: (now) => forgetOldClaims(postgres, now) },
    { name: "rotation", cron: rotationCron, work: (now, signal) => rotateDuePrekeys(rotation, now, signal) },
    { name: "repairs", cron: repairsCron, work: (now, signal) => answerRequests(appending, now, signal) },
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
    { name: "usage", cron: usageCron, work: (_now, signal) => announceUsage(appending, signal) },
    {
      name: "usage-deletion",
      cron: usageDeletionCron,
      work: (now, signal) => forgetOldUsage(postgres, now, signal),
    },
  ];
}

interface SigningParts extends Pick<CheckpointsDeps, "postgres" | "signer"> {
  readonly metrics: Metrics;
  readonly log: pino.Logger;
}

/** What only a process with the audit's key can do. */
function signingOn({ postgres, signer, metrics, log }: SigningParts): readonly ScheduledJob[] {
  const deps: CheckpointsDeps = {
    ...{ postgres, signer, group: audit.name },
    // The log of the process is a second place at which it can be found, out of the database's reach.
    onSigned: ({ size, note }) => {
      metrics.auditSigned.set(size);
      log.info({ size, note }, "a checkpoint of the audit was signed");
    },
    onCompared: (isContinued) => {
      metrics.auditBroken.set(isContinued ? 0 : 1);
      if (!isContinued)
        log.error("the audit log does not continue what was signed before: docs/audit.md says what to do");
    },
  };
  return [{ name: "checkpoints", cron: checkpointsCron, work: (now, signal) => signHead(deps, now, signal) }];
}

interface ForgettingParts {
  readonly postgres: Postgres;
  readonly kafka: KafkaDoor;
  readonly metrics: Metrics;
  readonly log: pino.Logger;
}

function trimmingOn({ postgres, kafka, metrics, log }: ForgettingParts): readonly ScheduledJob[] {
  const onTrimmed = (topic: string, records: number) => {
    metrics.recordsTrimmed.inc({ topic }, records);
    log.info({ topic, records }, "a topic was trimmed");
  };
  const work: ScheduledJob["work"] = (now, signal) => trimTopics({ postgres, kafka, onTrimmed }, now, signal);
  return [{ name: "trimming", cron: trimmingCron, work }];
}

/** What only a process with the keyring can do. */
function forgettingOn({ postgres, kafka, metrics, log }: ForgettingParts, keyring: Keyring): readonly ScheduledJob[] {
  const resealing = {
    postgres,
    keyring,
    onSealed: (column: string, rows: number) => metrics.sealedAnew.inc({ column }, rows),
    onUnopened: (column: string, code: string, rows: number) => {
      metrics.sealedUnopened.inc({ column, code }, rows);
      log.warn({ column, code, rows }, "rows did not open when they were to be sealed anew");
    },
  };
  // What was destroyed is known to the database at once: a keyring that is put back from a copy of before is found out by it.
  const check = () =>
    checkKeyring(postgres, keyring).catch((error) => {
      throw error instanceof KeyringError ? new Unavailable("keyring", error) : error;
    });
  const noted = (destroy: ScheduledJob["work"]) => async (now: number, signal: AbortSignal) => {
    await check();
    await destroy(now, signal);
    await check();
  };
  return [
    { name: "resealing", cron: resealingCron, work: noted((now, signal) => sealAnew(resealing, now, signal)) },
    {
      name: "epochs",
      cron: epochsCron,
      work: noted((now, signal) => destroyPassedEpochs({ keyring, kafka }, now, signal)),
    },
  ];
}

function showOldestKeys(keyring: Keyring, metrics: Metrics): void {
  for (const kind of ["day", "epoch"] as const) {
    try {
      const oldest = keyring.oldest(kind);
      metrics.oldestKey.set({ kind }, oldest === null ? 0 : Math.floor(Date.now() / DAY_MS) - oldest);
    } catch (error) {
      // The number of before is shown.
      if (!(error instanceof Unavailable)) throw error;
    }
  }
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
