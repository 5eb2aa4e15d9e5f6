/** Clocks that somebody sets: the wall clock of one process jumps, stays wrong for a while, and jumps back. */
import { setTimeout as pause } from "node:timers/promises";
import { type Fault, oneOf } from "./fault.ts";

const SECOND_MS = 1_000;
const MINUTE_MS = 60 * SECOND_MS;

/**
 * A second is within what signatures allow (2 s); half a minute is what clocks are wrong by that nobody looks after; 10 minutes are longer than a signature is good
 * for, and an hour is a wrong zone, and as long as a period of usage. A day would begin other partitions, which is a matter of `jobs/` and its tests.
 */
const jumps: Readonly<Record<string, number>> = {
  "+1s": SECOND_MS,
  "-1s": -SECOND_MS,
  "+30s": 30 * SECOND_MS,
  "-30s": -30 * SECOND_MS,
  "+10m": 10 * MINUTE_MS,
  "-10m": -10 * MINUTE_MS,
  "+1h": 60 * MINUTE_MS,
  "-1h": -60 * MINUTE_MS,
};

export const clock: Fault = {
  name: "clock",
  targets: ({ processes }) => processes.flatMap((process) => Object.keys(jumps).map((jump) => `${process}:${jump}`)),
  duration: (chance, msMax) => oneOf([2_000, 8_000, 20_000], chance, msMax),
  inject: async (stage, { target, durationMs }) => {
    const [process = "", jump = ""] = target.split(":");
    await stage.clocks.set(process, jumps[jump] ?? 0);
    await pause(durationMs);
    await stage.clocks.set(process, 0);
    return undefined;
  },
};
