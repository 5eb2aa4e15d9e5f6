/**
 * What the clock starts, on PostgreSQL: the one door to pg-boss.
 *
 * Promises: a job runs in one process at a time, however many processes schedule it; it runs once soon after the first of them has
 * started, and then at its times; a run whose process died is begun again by another. While PostgreSQL is away nothing is thrown, and
 * jobs go on when it is back. A run that fails is reported and tried again.
 */
import { Socket } from "node:net";
import { setTimeout as wait } from "node:timers/promises";
import pg from "pg";
import { PgBoss } from "pg-boss";

export interface ScheduledJob {
  /** In metrics, logs and the tables of pg-boss: kebab-case. */
  readonly name: string;
  /** When, as cron in UTC; minutes are the finest. */
  readonly cron: string;
  /**
   * Begins at `now`, ms since the epoch, and comes to an end soon after the signal: the process stops, or has lost the run. It must bear to
   * be begun again after a half, and beside another run of itself, which happens when a process was frozen for longer than its lease.
   */
  readonly work: (now: number, signal: AbortSignal) => Promise<void>;
}

/** What somebody should hear of. None of them may throw. */
export interface ScheduleListener {
  readonly onDone: (job: string) => void;
  /** A run failed; it is tried again. */
  readonly onFailed: (job: string, error: unknown) => void;
  /** The scheduler itself cannot go on for the moment; said once for an outage. */
  readonly onTrouble: (error: unknown) => void;
}

/** In seconds; tests are in more of a hurry. */
export interface ScheduleTimes {
  /** Between two looks at the clock: below the minute in which a time is due. */
  readonly tick: number;
  /** Between two looks for work. Nobody waits for a job, and each of them asks in every process. */
  readonly poll: number;
  /** A run that gave no sign of life for this long is another process's to begin. */
  readonly lease: number;
  /** Between two looks for runs that gave no sign. */
  readonly supervise: number;
  /** From a failure to the next attempt; longer after each. */
  readonly retry: number;
}

const TIMES: ScheduleTimes = { tick: 30, poll: 10, lease: 30, supervise: 30, retry: 30 };

export interface Schedule {
  /** False before the first contact with PostgreSQL, and while it is away. */
  running(): boolean;
  /** Within 2 s when the work heeds its signal. Never rejects. */
  stop(): Promise<void>;
}

/** Longer than any job takes that goes well; one that hangs is given up. */
const RUN_SECONDS_MAX = 60 * 60;

/** Attempts after a failure, at most 5 minutes apart: about half an hour of them. By then the job's next time is near, or was there. */
const RETRIES_MAX = 8;
const RETRY_SECONDS_MAX = 5 * 60;

/** Runs stay in their table for a day: long enough to look up what happened last night. */
const KEPT_SECONDS = 24 * 60 * 60;

/** Processes that start within a minute of each other begin one run together. */
const START_SECONDS = 60;

/** Between two attempts to begin while PostgreSQL is away. */
const BEGIN_AGAIN_MS = 1_000;

/** What is granted to runs under way at the end: the least that pg-boss takes. */
const STOP_MS_MAX = 1_000;
/** After this, connections are cut, again and again, for what waits for one opens the next. */
const CUT_AFTER_MS = 1_500;
const CUT_EVERY_MS = 100;

/** Begins in the background and goes on until it is stopped. */
export function startSchedule(
  postgresUrl: string,
  jobs: readonly ScheduledJob[],
  { onDone, onFailed, onTrouble }: ScheduleListener,
  times: Partial<ScheduleTimes> = {},
): Schedule {
  const { tick, poll, lease, supervise, retry } = { ...TIMES, ...times };
  const stopping = new AbortController();
  const database = openDatabase(postgresUrl);
  let begun = false;
  let troubled = false;
  const trouble = (error: unknown) => {
    if (!troubled && !stopping.signal.aborted) onTrouble(error);
    troubled = true;
  };
  const boss = new PgBoss({
    db: {
      executeSql: async (text, values) => {
        const result = await database.pool.query(text, values);
        troubled = false;
        return result;
      },
    },
    cronMonitorIntervalSeconds: tick,
    cronWorkerIntervalSeconds: Math.max(1, poll),
    superviseIntervalSeconds: supervise,
    monitorIntervalSeconds: supervise,
    // Of pg-boss's own care for large queues nothing is needed: there is one row for each run of the last day.
    registerInstance: false,
    reindex: false,
    monitorVacuum: false,
  });
  boss.on("error", trouble);
  boss.on("warning", ({ message }) => trouble(new Error(message)));

  async function declare({ name, cron }: ScheduledJob): Promise<void> {
    const options = {
      retryLimit: RETRIES_MAX,
      retryDelay: retry,
      retryBackoff: true,
      retryDelayMax: RETRY_SECONDS_MAX,
      heartbeatSeconds: lease,
      expireInSeconds: RUN_SECONDS_MAX,
      deleteAfterSeconds: KEPT_SECONDS,
    };
    // Exclusive: while a run waits or is under way, another cannot even be asked for.
    await boss.createQueue(name, { ...options, policy: "exclusive" });
    await boss.updateQueue(name, options);
    await boss.schedule(name, cron, null, { missed: "once" });
    await boss.send(name, null, { singletonSeconds: START_SECONDS });
  }

  async function run({ name, work }: ScheduledJob, lost: AbortSignal): Promise<void> {
    try {
      await work(Date.now(), AbortSignal.any([lost, stopping.signal]));
    } catch (error) {
      onFailed(name, error);
      // What is thrown from here is kept in a table: nothing of a failure's inside may get there.
      throw new Error("the run failed");
    }
    onDone(name);
  }

  async function begin(): Promise<void> {
    const working = new Set<string>();
    while (!stopping.signal.aborted) {
      try {
        await boss.start();
        for (const job of jobs) await declare(job);
        for (const job of jobs) {
          if (working.has(job.name)) continue;
          await boss.work(job.name, { pollingIntervalSeconds: poll }, ([started]) =>
            started === undefined ? Promise.resolve() : run(job, started.signal),
          );
          working.add(job.name);
        }
        begun = true;
        return;
      } catch (error) {
        trouble(error);
        await wait(BEGIN_AGAIN_MS, undefined, { signal: stopping.signal }).catch(() => undefined);
      }
    }
  }

  const beginning = begin();
  return {
    running: () => begun && !troubled,
    async stop() {
      stopping.abort();
      let cutting: NodeJS.Timeout | undefined;
      const late = setTimeout(() => {
        cutting = setInterval(database.cut, CUT_EVERY_MS);
      }, CUT_AFTER_MS);
      await beginning;
      await boss.stop({ close: false, timeout: STOP_MS_MAX }).catch(() => undefined);
      await database.pool.end().catch(() => undefined);
      clearTimeout(late);
      clearInterval(cutting);
    },
  };
}

/** pg-boss asks here: its statements are not ours, so neither the planner's settings nor the errors of `openPostgres` fit them. */
function openDatabase(connectionString: string): { readonly pool: pg.Pool; readonly cut: () => void } {
  const sockets = new Set<Socket>();
  const pool = new pg.Pool({
    connectionString,
    application_name: "sealpost-schedule",
    max: 2,
    connectionTimeoutMillis: 5_000,
    query_timeout: 15_000,
    keepAlive: true,
    stream: () => {
      const socket = new Socket();
      sockets.add(socket);
      return socket.once("close", () => sockets.delete(socket));
    },
  });
  pool.on("error", () => undefined);
  return {
    pool,
    // A server that stopped without closing its sockets answers nothing, and pg would wait for it.
    cut: () => {
      for (const socket of sockets) socket.destroy();
    },
  };
}
