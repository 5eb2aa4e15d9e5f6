/**
 * The service: any set of its parts in one process.
 *
 *   node bin/service.ts [--prepare] [api] [queuing] [routing] [acks] [receipts] [sessions] [relay] [jobs]
 *
 * Without a part: all. Prints `ready <url>` on stdout when it serves; logs go to stderr, a JSON line each. Ends with 0 after SIGTERM or
 * SIGINT, with 2 for wrong words or a wrong environment, with 1 when it could not go on: a supervisor starts it again.
 */
import { parseArgs } from "node:util";
import pino from "pino";
import { type Config, readConfig } from "./config.ts";
import { openShortcut } from "./consumer-role.ts";
import { createMetrics, type Metrics } from "./metrics.ts";
import { startOps } from "./ops-role.ts";
import { type Part, partNames, startPart } from "./parts.ts";
import { prepare } from "./prepare.ts";
import type { Role } from "./role.ts";

/** Longer than a drain of streams and a step take; shorter than the 30 s after which orchestrators kill. */
const STOP_MS_MAX = 20_000;

process.exitCode = await main();

async function main(): Promise<number> {
  const asked = readArguments();
  const config = asked === null ? null : configOrComplaint();
  if (asked === null || config === null) return 2;
  const log = pino({ level: config.logLevel, base: { parts: asked.parts } }, pino.destination({ dest: 2, sync: true }));
  const ending = endingSignals();
  const roles: Role[] = [];
  try {
    if (asked.prepare) log.info(await prepare(config, log), "servers prepared");
    const url = await startAll(config, asked.parts, roles, log, ending.fail);
    process.stdout.write(`ready ${url}\n`);
    log.info({ url }, "ready");
    const failure = await ending.promise;
    if (failure !== null) log.fatal({ err: failure }, "ending: cannot go on");
    return failure === null ? 0 : 1;
  } catch (error) {
    log.fatal({ err: error }, "could not start");
    return 1;
  } finally {
    setTimeout(() => process.exit(1), STOP_MS_MAX).unref();
    // In the order opposite to the start: what takes new work ends first.
    for (const role of roles.reverse()) await role.stop().catch((error) => log.warn({ err: error }, "stopping"));
    // Listened to, the channel to the parent would keep the process until it is cut down.
    if (process.connected) process.disconnect?.();
  }
}

async function startAll(
  config: Config,
  parts: readonly Part[],
  roles: Role[],
  log: pino.Logger,
  fail: (error: unknown) => void,
): Promise<string> {
  const metrics: Metrics = createMetrics();
  const shortcut =
    parts.includes("queuing") && parts.includes("routing") ? openShortcut({ config, metrics }) : undefined;
  if (shortcut !== undefined) roles.push(shortcut);
  for (const part of parts)
    roles.push(await startPart(part, { config, metrics, log: log.child({ part }), fail, shortcut }));
  const own = roles.find(({ url }) => url !== undefined)?.url;
  if (own !== undefined) return own;
  const ops = await startOps(config, metrics, roles);
  roles.unshift(ops);
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
