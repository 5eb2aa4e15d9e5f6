/**
 * The service: any set of its parts in one process.
 *
 *   node bin/service.ts [--prepare] [api] [encryption] [queuing] [routing] [acks] [receipts] [push] [sessions] [metering] [audit] [relay] [jobs]
 *
 * Without a part: all. Prints `ready <url>` on stdout when it serves; logs go to stderr, a JSON line each. SIGTERM or SIGINT: it says that it is not
 * ready, asks streams to go elsewhere, ends what is under way, leaves its groups, and ends with 0 within 20 s. What else it ends with: exit-codes.ts.
 */
import { parseArgs } from "node:util";
import pino from "pino";
import { saveCompiled } from "./compiled.ts";
import { type Config, readConfig } from "./config.ts";
import { openShortcut } from "./consumer-role.ts";
import { exitCodeOf, exitCodes } from "./exit-codes.ts";
import { createMetrics, type Metrics } from "./metrics.ts";
import { startOps } from "./ops-role.ts";
import { type Part, partNames, startPart } from "./parts.ts";
import { prepare } from "./prepare.ts";
import type { Role } from "./role.ts";

/** Longer than a drain of streams and a step take; shorter than the 30 s after which orchestrators kill. */
const STOP_MS_MAX = 20_000;

// What was given up on the way to the end, such as a connection that is still being made, holds nobody up.
process.exit(await main());

async function main(): Promise<number> {
  const asked = readArguments();
  const config = asked === null ? null : configOrComplaint();
  if (asked === null || config === null) return exitCodes.usage;
  const log = pino({ level: config.logLevel, base: { parts: asked.parts } }, pino.destination({ dest: 2, sync: true }));
  const ending = endingSignals();
  const stopping = new AbortController();
  const running: Running = { parts: [], others: [] };
  try {
    if (asked.prepare) log.info(await prepare(config, log), "servers prepared");
    const url = await startAll(config, asked.parts, running, { log, fail: ending.fail, stopping: stopping.signal });
    process.stdout.write(`ready ${url}\n`);
    log.info({ url }, "ready");
    saveCompiled();
    const failure = await ending.promise;
    if (failure !== null) log.fatal({ err: failure }, "ending: cannot go on");
    return failure === null ? exitCodes.asked : exitCodeOf(failure);
  } catch (error) {
    log.fatal({ err: error }, "could not start");
    return exitCodeOf(error);
  } finally {
    stopping.abort();
    await stopAll(running, log);
  }
}

/** What is to be stopped. */
interface Running {
  readonly parts: Role[];
  /** What parts stand on, and who tells how they are. */
  readonly others: Role[];
}

/** All parts at the same time: none waits for another, and each has its own bounds. */
async function stopAll({ parts, others }: Running, log: pino.Logger): Promise<void> {
  const begun = performance.now();
  const late = setTimeout(() => {
    log.warn("ending took too long; it ends where it is");
    process.exit(exitCodes.drainTooLong);
  }, STOP_MS_MAX);
  const stop = (role: Role) => role.stop().catch((error) => log.warn({ err: error }, "stopping"));
  await Promise.all(parts.map(stop));
  await Promise.all(others.map(stop));
  clearTimeout(late);
  log.info({ ms: Math.round(performance.now() - begun) }, "ended");
}

async function startAll(
  config: Config,
  parts: readonly Part[],
  running: Running,
  how: {
    readonly log: pino.Logger;
    readonly fail: (error: unknown) => void;
    readonly stopping: AbortSignal;
  },
): Promise<string> {
  const { log, fail, stopping } = how;
  const metrics: Metrics = createMetrics();
  const shortcut =
    parts.includes("queuing") && parts.includes("routing") ? openShortcut({ config, metrics }) : undefined;
  if (shortcut !== undefined) running.others.push(shortcut);
  for (const part of parts) {
    const context = { config, metrics, log: log.child({ part }), fail, stopping, shortcut };
    running.parts.push(await startPart(part, context));
  }
  const own = running.parts.find(({ url }) => url !== undefined)?.url;
  if (own !== undefined) return own;
  const ops = await startOps(config, metrics, running.parts, stopping);
  running.others.push(ops);
  return ops.url;
}

function readArguments(): { readonly prepare: boolean; readonly parts: readonly Part[] } | null {
  const usage = `Usage: node bin/service.ts [--prepare] [${partNames.join("] [")}]`;
  try {
    const { values, positionals } = parseArgs({
      options: { prepare: { type: "boolean", default: false } },
      allowPositionals: true,
    });
    const unknown = positionals.find((name) => !partNames.some((part) => part === name));
    if (unknown !== undefined) throw new Error(`there is no part called ${unknown}`);
    const parts = partNames.filter((part) => positionals.length === 0 || positionals.includes(part));
    return { prepare: values.prepare, parts };
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : ""}\n${usage}\n`);
    return null;
  }
}

function configOrComplaint(): Config | null {
  try {
    return readConfig();
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : ""}\n`);
    return null;
  }
}

/** Resolves with null when the process is asked to end, or with what made it impossible to go on. */
function endingSignals() {
  const { promise, resolve } = Promise.withResolvers<unknown>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => resolve(null));
  // Started by another process of ours: without it nobody would end this one.
  if (process.connected) process.once("disconnect", () => resolve(null));
  return { promise, fail: (error: unknown) => resolve(error ?? new Error("unknown")) };
}
