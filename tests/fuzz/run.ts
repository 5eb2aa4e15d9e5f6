/**
 * One run: the service under its fuzzers, round by round and part by part, with a message between two agents after each part; and what was found.
 *
 * The first round is short: by its end everything is loaded, connected and compiled. Two equal ones follow, and memory is looked at after each of the three.
 */
import { setTimeout as pause } from "node:timers/promises";
import { Chance } from "../../sdk/chance.ts";
import { fuzzFrames } from "./frames.ts";
import { fuzzHttp } from "./http.ts";
import { growthOf, type Memory, takeMemory } from "./memory.ts";
import { fuzzPolls } from "./polls.ts";
import { RecordFuzzer } from "./records.ts";
import { openStage, type Stage } from "./stage.ts";
import { merged, type PartReport, type Tally } from "./tally.ts";
import { Watch } from "./watch.ts";

export const parts = ["frames", "records", "http"] as const;
export type Part = (typeof parts)[number];

interface RunOptions {
  readonly seed: number;
  /** Of fuzzing, all parts together; starting, warming up and settling come on top. */
  readonly seconds: number;
  readonly parts: readonly Part[];
  /** Told what happens, a line each. */
  readonly say: (line: string) => void;
}

export interface Report {
  readonly seed: number;
  readonly seconds: number;
  readonly inputs: number;
  readonly parts: readonly PartReport[];
  /** How long control messages took to their acknowledgement, ms. */
  readonly controlMs: readonly number[];
  /** After each round. */
  readonly memory: readonly Memory[];
  readonly peakRssMib: number;
  readonly slowestLookMs: number;
  readonly looks: number;
  /** Empty: everything held. */
  readonly findings: readonly string[];
}

/** Longer than this without an answer, and probes would have the process restarted. */
const SLOWEST_LOOK_MS_MAX = 10_000;
/** The first is short. */
const ROUNDS = ["warming up", "first half", "second half"] as const;
const WARM_UP_SECONDS = 5;
/** Connections that were cut are let go of, and what was published is deleted. */
const QUIET_MS = 5_000;
/** Then the readers come to the end: what is appended is read more slowly. */
const APPEND_MS = 5_000;
const FRAME_FUZZERS = 3;
const POLL_FUZZERS = 1;

export async function run(options: RunOptions): Promise<Report> {
  const { seed, seconds, say } = options;
  say("starting the servers and the service");
  const stage = await openStage();
  const watch = new Watch(stage);
  try {
    const chance = new Chance(seed);
    const records = new RecordFuzzer(stage, new Chance(chance.below(2 ** 31)));
    const controlMs = [await stage.control()];
    const tallies: Tally[] = [];
    const memory: Memory[] = [];
    for (const [round, name] of ROUNDS.entries()) {
      const partSeconds = (round === 0 ? WARM_UP_SECONDS * options.parts.length : seconds / 2) / options.parts.length;
      for (const part of options.parts) {
        const fuzzed = await onePart({ stage, chance, records }, part, partSeconds);
        for (const one of fuzzed) say(`${name}: ${one.part}: ${one.inputs} inputs, ${one.findings.length} findings`);
        tallies.push(...fuzzed);
        controlMs.push(await stage.control());
      }
      await pause(QUIET_MS);
      memory.push(await takeMemory(stage.service));
    }
    if (options.parts.includes("records")) await records.settle();
    const reports = [...merged(tallies)].map((tally) => tally.report());
    const { slowestMs, looks, peakRssMib } = watch;
    const found = [
      ...reports.flatMap(({ part, findings }) => findings.map((finding) => `${part}: ${finding}`)),
      ...watch.findings(),
      ...growthOf(memory),
      ...(slowestMs > SLOWEST_LOOK_MS_MAX ? [`it took ${slowestMs} ms to answer a look`] : []),
      ...(looks === 0 ? ["nobody looked at the service"] : []),
    ];
    return {
      ...{ seed, seconds, memory, peakRssMib, looks, controlMs },
      inputs: reports.reduce((sum, { inputs }) => sum + inputs, 0),
      parts: reports,
      slowestLookMs: slowestMs,
      findings: found,
    };
  } catch (error) {
    // Why the run could not go on is most often that the service ended.
    throw new Error(`the run ended early: ${watch.findings().join("\n")}`, { cause: error });
  } finally {
    await watch.end();
    await stage.close();
  }
}

interface Fuzzed {
  readonly stage: Stage;
  readonly chance: Chance;
  /** One for all rounds: its dead letters are looked for at the end. */
  readonly records: RecordFuzzer;
}

async function onePart({ stage, chance, records }: Fuzzed, part: Part, seconds: number): Promise<readonly Tally[]> {
  const untilMs = performance.now() + seconds * 1_000;
  const fork = () => new Chance(chance.below(2 ** 31));
  if (part === "http") return fuzzHttp(stage, fork(), seconds);
  if (part === "frames") {
    const frames = fuzzFrames(stage, Array.from({ length: FRAME_FUZZERS }, fork), untilMs);
    const polls = fuzzPolls(stage, Array.from({ length: POLL_FUZZERS }, fork), untilMs);
    return [await frames, await polls];
  }
  do {
    await records.append(Math.min(untilMs, performance.now() + APPEND_MS));
    await records.read();
  } while (performance.now() < untilMs);
  return [records.tally];
}
