/**
 * Open-loop load: messages leave at a fixed rate whatever the system does, and latency counts from the intended time.
 *
 * A closed loop would send less while the system is slow and so leave out the latencies that matter (coordinated omission).
 */
import { build, type Histogram } from "hdr-histogram-js";

/** Latencies from 1 µs to 120 s, three significant digits. Recorded in microseconds. */
export function latencyHistogram(): Histogram {
  return build({ lowestDiscernibleValue: 1, highestTrackableValue: 120_000_000, numberOfSignificantValueDigits: 3 });
}

export interface LatencySummary {
  readonly count: number;
  readonly p50Ms: number;
  readonly p90Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  readonly maxMs: number;
}

export function summarise(histogram: Histogram): LatencySummary {
  const ms = (percentile: number) => Math.round(histogram.getValueAtPercentile(percentile) / 10) / 100;
  return {
    count: histogram.totalCount,
    p50Ms: ms(50),
    p90Ms: ms(90),
    p99Ms: ms(99),
    p999Ms: ms(99.9),
    maxMs: Math.round(histogram.maxValue / 10) / 100,
  };
}

/**
 * Calls `send(index, intendedMs)` at `ratePerSecond` for `seconds`; what is due in the same moment goes in one go. Never waits for `send`.
 *
 * `intendedMs` is on the clock of `performance.now()`. Resolves when the last was sent; answers how many.
 */
export async function openLoop(
  ratePerSecond: number,
  seconds: number,
  send: (index: number, intendedMs: number) => void,
): Promise<number> {
  const total = Math.floor(ratePerSecond * seconds);
  const started = performance.now();
  let next = 0;
  await new Promise<void>((resolve) => {
    const turn = () => {
      // The first is due at once.
      const due = Math.min(total, Math.floor(((performance.now() - started) / 1000) * ratePerSecond) + 1);
      for (; next < due; next += 1) send(next, started + (next / ratePerSecond) * 1000);
      if (next < total) setTimeout(turn, 1);
      else resolve();
    };
    turn();
  });
  return total;
}
