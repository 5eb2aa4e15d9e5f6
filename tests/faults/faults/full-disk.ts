/**
 * A disk that is full, for one server: no file of it may grow beyond a size, its own logs and journals among them (RLIMIT_FSIZE, set on the running process). A write that
 * goes over it ends in the middle, as on a disk on which that much was left; the next one fails. Other than with a small file system, nothing has to be
 * mounted, nothing is left behind, and files that are there can be overwritten up to that size only.
 */
import { execFile, execFileSync } from "node:child_process";
import { stat } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import type { ServerName } from "../../../infra/local/ladder.ts";
import type { Stack } from "../../../infra/local/stack.ts";
import { isAlive } from "../../processes.ts";
import { pidsOf } from "../server-processes.ts";
import { type Fault, oneOf } from "./fault.ts";

/** Nothing at all; less than a page; what a journal reaches within seconds. */
const SIZES_BYTES = [0, 5_000, 300_000];

/** The registry keeps everything in memory. */
const servers: readonly ServerName[] = ["kafka", "postgres", "redis"];

/** A server that gives up does so within this, when it has room again. */
const GIVES_UP_MS_MAX = 3_000;

export const fullDisk: Fault = {
  name: "full-disk",
  targets: () => servers,
  unavailable: () => {
    try {
      execFileSync("prlimit", ["--version"], { stdio: "ignore" });
      return null;
    } catch {
      return "the limit of a running process is set with prlimit (util-linux), and there is none";
    }
  },
  duration: (chance, msMax) => oneOf([3_000, 10_000, 20_000], chance, msMax),
  inject: async ({ stack }, { target, durationMs, chance }) => {
    const server = target as ServerName;
    if (stack.pid(server) === null) throw new Error("the server does not run");
    await limit(stack, server, `${chance.choose(SIZES_BYTES)}`);
    await pause(durationMs);
    await limit(stack, server, "unlimited");
    // Kafka ends when it cannot write, and so does PostgreSQL when it cannot write what it recovers with; Redis is ended by the signal.
    await pause(GIVES_UP_MS_MAX);
    if (stack.pid(server) === null || server === "kafka") await stack.restart(server);
    return undefined;
  },
};

async function limit(stack: Stack, server: ServerName, size: string): Promise<void> {
  // Twice: a process of PostgreSQL that begins during the first look has the limit that the first of them had until then.
  for (let look = 0; look < 2; look++) {
    for (const pid of await pidsOf(stack, server)) await limitOne(pid, size);
  }
}

/** The soft limit alone: who is not root could not raise the hard one again. A process that has ended meanwhile is left out. */
async function limitOne(pid: number, size: string): Promise<void> {
  try {
    // As its own user: a container's root may not touch the limits of others.
    const { uid, gid } = await stat(`/proc/${pid}`);
    await promisify(execFile)("prlimit", ["--pid", `${pid}`, `--fsize=${size}:`], { uid, gid });
  } catch (error) {
    if (isAlive(pid)) throw error;
  }
}
