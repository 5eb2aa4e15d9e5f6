/**
 * `npm run faults -- --seconds N --seed S [--fault NAME[:TARGET]]…`: breaks a running service by a schedule, and checks that what it promises holds all the same.
 *
 * docs/faults.md explains what is broken and what is checked. Ends with 0 only when every invariant holds and every mutant of the history was found out.
 */
import { randomInt } from "node:crypto";
import path from "node:path";
import { parseArgs } from "node:util";
import type { Findings, Verdict } from "./checker/check.ts";
import { runEach } from "./each.ts";
import { faults, leftOut } from "./faults/all.ts";
import { readHistory } from "./recorder.ts";
import { judged, type Report, run } from "./run.ts";
import { choiceOf, schedule } from "./schedule.ts";
import { layouts, worldOf } from "./stage.ts";

const usage = `Usage: npm run faults -- [options]

  --seconds N      of load and faults (60)
  --seed S         of the schedule; the same seed, the same faults at the same times (a random one)
  --fault NAME     only this kind, or NAME:TARGET; may be given several times. Kinds:
                   ${faults.map(({ name }) => name).join(", ")}
  --sessions N     pairs of agents that talk (50)
  --rate N         messages per second, of all together (50)
  --processes HOW  few: six processes; each: every part in its own (few)
  --each           each kind by itself, for so many seconds, one after the other; a table of what came of them
  --keep FOLDER    where the history and the logs go (.sealpost/faults/SEED)
  --plan           prints the schedule, and starts nothing
  --history FILE   checks a history that was kept, and starts nothing
  --json           one line of JSON on stdout; what happens goes to stderr
`;

/** Of each invariant: the file of the run has them all. */
const FINDINGS_SHOWN_MAX = 10;

process.exitCode = await main();

async function main(): Promise<number> {
  const options = readArguments();
  if (options === null) return 2;
  const { seed, seconds, plan, json } = options;
  const say = (line: string) => void process.stderr.write(`${line}\n`);
  if (options.isPlanOnly) {
    for (const one of plan) console.log(JSON.stringify(one));
    return 0;
  }
  if (options.historyFile !== null) {
    const history = await readHistory(options.historyFile);
    return show({ ...judged(history), seed: history.seed, notes: [], keptIn: path.dirname(options.historyFile) }, json);
  }
  say(`seed ${seed}`);
  for (const line of options.left) say(line);
  const { layout, processes, sessions, perSecond, keptIn } = options;
  if (options.isEach) {
    const more = ["--sessions", `${sessions}`, "--rate", `${perSecond}`, "--processes", processes];
    return runEach({ choices: options.choices, seed, seconds, more, keptIn, say });
  }
  const report = await run({ seed, seconds, layout, plan, sessions, perSecond, keptIn, say });
  return show({ ...report, notes: [...options.left, ...report.notes] }, json);
}

function readArguments() {
  const number = (text: string, name: string) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value <= 0) throw new Error(`--${name} takes a whole number above 0`);
    return value;
  };
  try {
    const { values } = parseArgs({
      options: {
        seconds: { type: "string", default: "60" },
        seed: { type: "string", default: String(randomInt(1, 2 ** 31)) },
        fault: { type: "string", multiple: true, default: [] },
        sessions: { type: "string", default: "50" },
        rate: { type: "string", default: "50" },
        processes: { type: "string", default: "few" },
        each: { type: "boolean", default: false },
        keep: { type: "string" },
        plan: { type: "boolean", default: false },
        history: { type: "string" },
        json: { type: "boolean", default: false },
      },
    });
    if (values.processes !== "few" && values.processes !== "each") throw new Error("--processes takes few or each");
    const layout = layouts[values.processes];
    const world = worldOf(layout);
    const chosen = values.fault.map((text) => choiceOf(text, world));
    for (const { fault } of chosen) {
      const why = fault.unavailable?.() ?? null;
      if (why !== null) throw new Error(`--fault ${fault.name} cannot be done on this machine: ${why}`);
    }
    const possible = faults.filter(({ unavailable }) => (unavailable?.() ?? null) === null);
    const choices = chosen.length > 0 ? chosen : possible.map((fault) => ({ fault, target: null }));
    const [seed, seconds] = [number(values.seed, "seed"), number(values.seconds, "seconds")];
    const name = values.each ? `each-${seed}` : `${seed}`;
    const folder = values.keep ?? path.join(import.meta.dirname, "../../.sealpost/faults", name);
    return {
      seed,
      seconds,
      layout,
      processes: values.processes,
      keptIn: path.resolve(folder),
      isEach: values.each,
      choices: values.fault.length === 0 ? possible.map(({ name: kind }) => kind) : values.fault,
      plan: schedule(seed, seconds, world, choices),
      left: chosen.length > 0 ? [] : leftOut(),
      sessions: number(values.sessions, "sessions"),
      perSecond: number(values.rate, "rate"),
      isPlanOnly: values.plan,
      historyFile: values.history ?? null,
      json: values.json,
    };
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : ""}\n\n${usage}`);
    return null;
  }
}

function show(report: Report, json: boolean): number {
  if (json) console.log(JSON.stringify(report));
  else print(report);
  return report.holds ? 0 : 1;
}

function print({ seed, holds, verdict, mutants, notes, keptIn }: Report): void {
  console.log(`seed ${seed}; kept in ${path.relative(process.cwd(), keptIn)}`);
  console.table(verdict.counts);
  printFigures(verdict);
  for (const [invariant, found] of Object.entries(verdict.findings as Findings & Record<string, readonly string[]>)) {
    console.log(`${found.length === 0 ? "ok    " : "BROKEN"} ${invariant}: ${found.length}`);
    for (const line of found.slice(0, FINDINGS_SHOWN_MAX)) console.log(`         ${line}`);
  }
  for (const { name, caught } of mutants) console.log(`${caught ? "caught" : "MISSED"} ${name}`);
  for (const note of new Set(notes)) console.log(`note   ${note} (${notes.filter((one) => one === note).length})`);
  console.log(holds ? "everything holds" : "NOT everything holds");
}

function printFigures({
  faults: done,
  records,
  repeats,
  envelopes,
  saidAnew,
  unattributed,
  impliedDeliveries,
  ...times
}: Verdict): void {
  console.log(`faults: ${JSON.stringify(done)}`);
  console.log(`${records} records, ${repeats} of them repeats; ${envelopes} envelopes; ${saidAnew} messages said anew`);
  console.log(
    `${unattributed} messages of the SDK itself, or of which nobody heard; ${impliedDeliveries} deliveries told by their answer`,
  );
  console.log(`worst recovery ${times.worstRecoveryMs} ms; quiet ${times.quietAfterMs} ms after the last was healed`);
}
