/**
 * One run: a load, faults by a schedule, healing, quiet, and then the history, judged.
 */
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { Chance } from "../../sdk/chance.ts";
import { broken, check, type Verdict } from "./checker/check.ts";
import type { History, Injected, LogRecord } from "./checker/history.ts";
import { type Caught, mutantsOf } from "./checker/mutants.ts";
import { faults } from "./faults/all.ts";
import { type Load, openLoad } from "./load/load.ts";
import { logRecord } from "./log/items.ts";
import { readSegments } from "./log/segments.ts";
import { Recorder, writeHistory } from "./recorder.ts";
import type { Scheduled } from "./schedule.ts";
import { groups, leftToDo, snapshot, stateNow } from "./snapshot.ts";
import { type Layout, openStage, type Stage } from "./stage.ts";

export interface RunOptions {
  readonly seed: number;
  readonly seconds: number;
  readonly layout: Layout;
  readonly plan: readonly Scheduled[];
  readonly sessions: number;
  readonly perSecond: number;
  /** Where the history and what the processes wrote is kept. */
  readonly keptIn: string;
  /** Told what happens, a line each. */
  readonly say: (line: string) => void;
}

export interface Report {
  readonly seed: number;
  readonly holds: boolean;
  readonly verdict: Verdict;
  readonly mutants: readonly Caught[];
  readonly notes: readonly string[];
  readonly keptIn: string;
}

/** The quiet that is hoped for within 60 s is waited for twice as long: late is another finding than never. */
const QUIET_MS_MAX = 120_000;
const LOOK_EVERY_MS = 1_000;
/** How late a plan may be before what is left of it is left out: two minutes, and of a long one a tenth. */
const LATE_MS_MAX = 120_000;
const LATE_MS_PER_S = 100;
/** So many looks in a row that find nothing left to do. */
const QUIET_LOOKS = 3;

export async function run(options: RunOptions): Promise<Report> {
  const { seed, layout, say, keptIn } = options;
  const recorder = new Recorder();
  say("starting the servers and the service");
  const stage = await openStage(layout);
  try {
    const history = await live(stage, recorder, options);
    await mkdir(keptIn, { recursive: true });
    await writeHistory(path.join(keptIn, "history.jsonl.gz"), history);
    for (const [name, output] of Object.entries(await stage.endService())) {
      await writeFile(path.join(keptIn, `${name}.log`), output);
    }
    return { ...judged(history), seed, notes: recorder.notes, keptIn };
  } finally {
    await stage.close();
  }
}

/** What is right and wrong with a history, and whether the checker can be believed. */
export function judged(history: History): Pick<Report, "holds" | "verdict" | "mutants"> {
  const verdict = check(history);
  const mutants = mutantsOf(history);
  return { verdict, mutants, holds: broken(verdict).length === 0 && mutants.every(({ caught }) => caught) };
}

async function live(stage: Stage, recorder: Recorder, options: RunOptions): Promise<History> {
  const { seed, seconds, sessions, perSecond, plan, say } = options;
  const { urls, folder } = stage;
  const chance = new Chance(seed);
  const load = await openLoad({ urls, folder, sessions, perSecond, seconds, chance, recorder });
  say(`${sessions} pairs talk for ${seconds} s; ${plan.length} faults`);
  load.start();
  const startMs = performance.now();
  const endMs = startMs + seconds * 1_000 + Math.max(LATE_MS_MAX, seconds * LATE_MS_PER_S);
  const [injected] = await Promise.all([injectAll(stage, plan, { startMs, endMs }, say), pause(seconds * 1_000)]);
  const leftOut = plan.length - injected.length;
  if (leftOut > 0) recorder.note(`${leftOut} of ${plan.length} planned faults were left out: the time was over`);
  await stage.heal();
  const healedMs = performance.now();
  say("healed; waiting for what is under way");
  const { quietMs, unquiet } = await becomeQuiet(stage, load);
  say(quietMs === null ? "it does not become quiet" : `quiet after ${Math.round(quietMs - healedMs)} ms`);
  await load.end();
  const state = await snapshot(stage.stack.urls, stage.kafka);
  const log: LogRecord[] = [];
  const files = path.join(stage.stack.dataDir, "kafka", "log");
  for await (const raw of readSegments(files, (topic) => !topic.startsWith("__"))) log.push(logRecord(raw));
  return {
    seed,
    operations: recorder.operations,
    planned: plan.length - leftOut,
    injected,
    log,
    snapshot: state,
    groups,
    readers: load.readers,
    healedMs,
    quietMs,
    unquiet,
  };
}

/** Those that were begun before the end. Each waits for the healing of the one before, which a slow machine takes longer for than the plan. */
async function injectAll(
  stage: Stage,
  plan: readonly Scheduled[],
  { startMs, endMs }: { readonly startMs: number; readonly endMs: number },
  say: (line: string) => void,
): Promise<readonly Injected[]> {
  const injecting: Promise<Injected>[] = [];
  for (const entry of plan) {
    if (!entry.overlaps) await Promise.all(injecting);
    await pause(entry.gapMs);
    if (performance.now() > endMs) break;
    injecting.push(inject(stage, entry, startMs, say));
  }
  return Promise.all(injecting);
}

async function inject(
  stage: Stage,
  { fault, target, durationMs, seed }: Scheduled,
  runStartMs: number,
  say: (line: string) => void,
): Promise<Injected> {
  const kind = faults.find(({ name }) => name === fault);
  if (kind === undefined) throw new Error("a fault that is none was planned");
  const startMs = performance.now();
  const at = () => `${((performance.now() - runStartMs) / 1_000).toFixed(1)} s`;
  say(`${at()}  ${fault} ${target}${durationMs > 0 ? ` for ${durationMs} ms` : ""}`);
  let failure: string | null = null;
  let poison: readonly string[] = [];
  try {
    poison = (await kind.inject(stage, { target, durationMs, chance: new Chance(seed) })) ?? [];
  } catch (error) {
    failure = error instanceof Error ? error.message : String(error);
  }
  say(`${at()}  ${fault} ${target} ${failure ?? "is healed"}`);
  return { fault, target, startMs, endMs: performance.now(), failure, poison };
}

async function becomeQuiet(stage: Stage, load: Load): Promise<Pick<History, "quietMs" | "unquiet">> {
  const until = performance.now() + QUIET_MS_MAX;
  const tooLate = pause(QUIET_MS_MAX, null, { ref: false });
  const stopped = await Promise.race([load.stop().then(() => true), tooLate]);
  if (stopped === null) return { quietMs: null, unquiet: ["clients still wait for answers"] };
  let unquiet: readonly string[] = [];
  let quietSinceMs = 0;
  for (let looks = 0; performance.now() < until; ) {
    const startMs = performance.now();
    try {
      unquiet = leftToDo(await stateNow(stage.stack.urls.postgresUrl, stage.kafka), load.readers);
    } catch (error) {
      unquiet = [`the servers do not answer: ${error instanceof Error ? error.message : error}`];
    }
    if (looks === 0) quietSinceMs = startMs;
    looks = unquiet.length === 0 ? looks + 1 : 0;
    if (looks === QUIET_LOOKS) return { quietMs: quietSinceMs, unquiet: [] };
    await pause(LOOK_EVERY_MS);
  }
  return { quietMs: null, unquiet };
}
