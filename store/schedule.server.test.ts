import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { openProxy } from "../tests/proxy.ts";
import { createDatabase } from "../tests/stack.ts";
import { openPostgres, type Postgres } from "./postgres.ts";
import { type Schedule, type ScheduledJob, startSchedule } from "./schedule.ts";

const hurried = { tick: 1, poll: 0.5, lease: 10, supervise: 1, retry: 1 };
/** Nothing is due by the clock while a test lasts. */
const never = "0 0 29 2 *";

let url: string;
let postgres: Postgres;
let running: Schedule[];
let children: ChildProcess[];
let heard: { done: string[]; failed: [job: string, error: unknown][]; troubles: unknown[] };

beforeEach(async () => {
  url = await createDatabase("schedule");
  postgres = openPostgres(url);
  running = [];
  children = [];
  heard = { done: [], failed: [], troubles: [] };
});

afterEach(async () => {
  for (const child of children) child.kill("SIGKILL");
  await Promise.all(running.map((schedule) => schedule.stop()));
  await postgres.close();
});

function start(jobs: readonly ScheduledJob[], databaseUrl = url): Schedule {
  const listener = {
    onDone: (job: string) => heard.done.push(job),
    onFailed: (job: string, error: unknown) => heard.failed.push([job, error]),
    onTrouble: (error: unknown) => heard.troubles.push(error),
  };
  const schedule = startSchedule(databaseUrl, jobs, listener, hurried);
  running.push(schedule);
  return schedule;
}

const work = async () => undefined;

test("every job runs once soon after the first start, and a second start at once does not repeat it", async () => {
  const jobs = ["one", "two"].map((name) => ({ name, cron: never, work }));
  start(jobs);
  await vi.waitFor(() => expect(heard.done.toSorted()).toEqual(["one", "two"]), 15_000);
  start(jobs);
  await vi.waitFor(() => expect(running[1]?.running()).toBe(true), 15_000);
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  expect(heard).toMatchObject({ done: { length: 2 }, failed: [], troubles: [] });
});

test("a job whose time has come runs", async () => {
  const everySecond = "* * * * * *";
  start([{ name: "timely", cron: everySecond, work }]);
  await vi.waitFor(() => expect(heard.done).toEqual(["timely", "timely"]), 20_000);
});

test("many schedulers on one database: a job has one runner at a time", async () => {
  let now = 0;
  let most = 0;
  let runs = 0;
  const slow = async () => {
    most = Math.max(most, ++now);
    await new Promise((resolve) => setTimeout(resolve, 150));
    now--;
    // Fails, so that it is wanted again and again.
    if (++runs < 4) throw new Error("not yet");
  };
  for (let n = 0; n < 4; n++) start([{ name: "slow", cron: never, work: slow }]);
  await vi.waitFor(() => expect(heard.done).toEqual(["slow"]), 45_000);
  expect([most, runs]).toEqual([1, 4]);
});

test("a run that fails is reported and tried again, keeps nothing of the failure in the database, and no other job waits for it", async () => {
  let attempts = 0;
  const failing = async () => {
    if (++attempts === 1) throw new Error("the secret inside");
  };
  start([
    { name: "failing", cron: never, work: failing },
    { name: "other", cron: never, work },
  ]);
  await vi.waitFor(() => expect(heard.failed).toEqual([["failing", new Error("the secret inside")]]), 15_000);
  await vi.waitFor(() => expect(heard.done).toContain("other"), 15_000);
  const { rows } = await postgres.query({ text: "SELECT output::text FROM pgboss.job WHERE name = 'failing'" });
  expect(JSON.stringify(rows)).not.toContain("secret");
  await vi.waitFor(() => expect(heard.done).toContain("failing"), 15_000);
});

test("the run of a process that was killed is begun again by another", async () => {
  const child = spawn(process.execPath, [path.join(import.meta.dirname, "../tests/schedule-process.ts"), url], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.push(child);
  await once(child.stdout, "data");
  start([{ name: "killed", cron: never, work }]);
  await vi.waitFor(() => expect(running[0]?.running()).toBe(true), 15_000);
  child.kill("SIGKILL");
  expect(heard.done).toEqual([]);
  await vi.waitFor(() => expect(heard.done).toEqual(["killed"]), 40_000);
});

test("while PostgreSQL is away nothing is thrown, and jobs run when it is there", async () => {
  const target = new URL(url);
  const proxy = await openProxy({ targetPort: Number(target.port) });
  target.port = String(proxy.port);
  await proxy.close();
  let runs = 0;
  const schedule = start([{ name: "patient", cron: never, work: async () => void runs++ }], target.href);
  await vi.waitFor(() => expect(heard.troubles).toHaveLength(1), 10_000);
  expect(schedule.running()).toBe(false);
  const back = await openProxy({ port: proxy.port, targetPort: Number(new URL(url).port) });
  await vi.waitFor(() => expect(runs).toBe(1), 15_000);
  expect(schedule.running()).toBe(true);

  back.reset();
  back.mode = "silent";
  const begun = performance.now();
  await schedule.stop();
  expect(performance.now() - begun).toBeLessThan(2_000);
  await back.close();
});

test("a stop ends a run that heeds its signal, and is over within 2 seconds", async () => {
  const { promise: began, resolve } = Promise.withResolvers<void>();
  let ended = false;
  const schedule = start([
    {
      name: "long",
      cron: never,
      work: async (_now, signal) => {
        resolve();
        await once(signal, "abort");
        ended = true;
      },
    },
  ]);
  await began;
  const begun = performance.now();
  await schedule.stop();
  expect(performance.now() - begun).toBeLessThan(2_000);
  expect(ended).toBe(true);
  expect(heard).toMatchObject({ done: ["long"], failed: [], troubles: [] });
});
