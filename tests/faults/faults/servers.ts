/** Servers that die, freeze, or forget. */
import { setTimeout as pause } from "node:timers/promises";
import type { ServerName } from "../../../infra/local/ladder.ts";
import { signal } from "../../processes.ts";
import { pidsOf } from "../server-processes.ts";
import { type Fault, oneOf } from "./fault.ts";

export const killServer: Fault = {
  name: "kill-server",
  targets: ({ servers }) => servers,
  duration: (chance, msMax) => oneOf([0, 2_000, 5_000, 15_000], chance, msMax),
  inject: async ({ stack }, { target, durationMs }) => {
    await stack.kill(target as ServerName);
    await pause(durationMs);
    await stack.restart(target as ServerName);
    return undefined;
  },
};

/** A broker that is frozen for longer than a request may take is the hardest that can happen to a producer. */
export const stopServer: Fault = {
  name: "stop-server",
  targets: ({ servers }) => servers,
  duration: (chance, msMax) => oneOf([5_000, 20_000, 45_000], chance, msMax),
  inject: async ({ stack }, { target, durationMs }) => {
    const pids = await pidsOf(stack, target as ServerName);
    if (pids.length === 0) throw new Error("the server does not run");
    for (const pid of pids) signal(pid, "SIGSTOP");
    await pause(durationMs);
    for (const pid of pids) signal(pid, "SIGCONT");
    return undefined;
  },
};

export const flushRedis: Fault = {
  name: "flush-redis",
  targets: () => ["redis"],
  duration: () => 0,
  inject: async (stage) => {
    await stage.redis("FLUSHALL");
    return undefined;
  },
};

/** Redis comes back with what it held a while ago: presence of who has left, states of ratchets that went on, nonces that were not used yet. */
export const staleRedis: Fault = {
  name: "stale-redis",
  targets: () => ["redis"],
  duration: (chance, msMax) => oneOf([3_000, 10_000], chance, msMax),
  inject: async (stage, { durationMs }) => {
    const restore = await stage.copyRedis();
    await pause(durationMs);
    await stage.stack.kill("redis");
    await restore();
    await stage.stack.restart("redis");
    return undefined;
  },
};
