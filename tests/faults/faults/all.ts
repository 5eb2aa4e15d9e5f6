/** Every fault there is, by its name. */
import { clock } from "./clock.ts";
import type { Fault } from "./fault.ts";
import { fullDisk } from "./full-disk.ts";
import { blackhole, delay, dropResponses, reset } from "./network.ts";
import { poison } from "./poison.ts";
import { failpoint, kill, rebalance, stop } from "./processes.ts";
import { flushRedis, killServer, staleRedis, stopServer } from "./servers.ts";

export const faults: readonly Fault[] = [
  kill,
  stop,
  failpoint,
  rebalance,
  killServer,
  stopServer,
  flushRedis,
  staleRedis,
  dropResponses,
  reset,
  delay,
  blackhole,
  poison,
  clock,
  fullDisk,
];

/** What cannot be done on this machine, and why: a line each. */
export function leftOut(): readonly string[] {
  return faults.flatMap(({ name, unavailable }) => {
    const why = unavailable?.() ?? null;
    return why === null ? [] : [`${name} is left out: ${why}`];
  });
}
