/** How far a replay is: a bar where there is a terminal, else a line now and then. On stderr, so that stdout has the result alone. */
import { Presets, SingleBar } from "cli-progress";

const LINE_MS = 5_000;

export interface ReplayProgress {
  readonly sink: (phase: string, done: number, total: number) => void;
  /** Takes the bar away. */
  close(): void;
}

export function showReplayProgress(stream: NodeJS.WriteStream, now: () => number): ReplayProgress {
  return stream.isTTY ? bar(stream, now) : lines(stream, now);
}

/** Records a second, and what is left at this rate. Pure. */
export function rateOf(done: number, total: number, tookMs: number): { readonly rate: number; readonly leftS: number } {
  const rate = tookMs <= 0 ? 0 : Math.round((done * 1_000) / tookMs);
  return { rate, leftS: rate === 0 ? 0 : Math.ceil((total - done) / rate) };
}

function lines(stream: NodeJS.WritableStream, now: () => number): ReplayProgress {
  let [current, begunAt, toldAt] = ["", 0, 0];
  return {
    sink: (phase, done, total) => {
      if (phase !== current) [current, begunAt, toldAt] = [phase, now(), now()];
      if (now() - toldAt < LINE_MS) return;
      toldAt = now();
      const { rate, leftS } = rateOf(done, total, now() - begunAt);
      stream.write(`${phase} ${done} of ${total}, ${rate}/s, ${leftS} s left\n`);
    },
    close: () => undefined,
  };
}

function bar(stream: NodeJS.WriteStream, now: () => number): ReplayProgress {
  let [current, begunAt] = ["", 0];
  let shown: SingleBar | null = null;
  const format = "  {phase} [{bar}] {value}/{total} {rate}/s, {leftS} s left";
  return {
    sink: (phase, done, total) => {
      if (phase !== current) {
        shown?.stop();
        [current, begunAt] = [phase, now()];
        shown = new SingleBar({ stream, format, hideCursor: true }, Presets.shades_classic);
        shown.start(total, 0, { phase: phase.padEnd(9), rate: 0, leftS: 0 });
      }
      shown?.update(done, rateOf(done, total, now() - begunAt));
    },
    close: () => shown?.stop(),
  };
}
