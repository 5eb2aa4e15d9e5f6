/**
 * Each kind of fault by itself, one after the other, each in a process of its own: whatever comes of one, the next is run.
 *
 * What came of each is written down when it is over: a line of JSON in `results.jsonl`, a row of a table in `results.md`. Histories and logs are kept beside them.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { appendFile, mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { text } from "node:stream/consumers";
import type { Report } from "./run.ts";

export interface EachOptions {
  /** `KIND` or `KIND:TARGET`, as on the command line. */
  readonly choices: readonly string[];
  readonly seed: number;
  readonly seconds: number;
  /** What every run is told besides. */
  readonly more: readonly string[];
  readonly keptIn: string;
  readonly say: (line: string) => void;
}

/** What came of one kind. `error`: it came to no verdict. */
export interface Result {
  readonly fault: string;
  readonly seed: number;
  readonly seconds: number;
  readonly holds: boolean;
  readonly tookS: number;
  readonly keptIn: string;
  readonly figures: Figures | null;
  readonly error: string | null;
}

interface Figures {
  /** What clients did, by what came of it. */
  readonly operations: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly faults: number;
  /** How many, by invariant; of all of them, also where there are none. */
  readonly findings: Readonly<Record<string, number>>;
  readonly records: number;
  readonly repeats: number;
  readonly worstRecoveryMs: number | null;
  readonly quietAfterMs: number | null;
  readonly mutants: number;
  readonly mutantsCaught: number;
}

const head = [
  "kind of fault",
  "sends, read, acknowledged",
  "faults",
  "lost",
  "duplicated",
  "reordered",
  "other findings",
  "repeats",
  "worst recovery",
  "quiet after",
  "mutants found",
];

/** Resolves with 0 when everything held in all of them. */
export async function runEach(options: EachOptions): Promise<number> {
  const { choices, keptIn, say } = options;
  await mkdir(keptIn, { recursive: true });
  const table = path.join(keptIn, "results.md");
  await writeFile(table, `${row(head)}\n${row(head.map(() => "---"))}\n`);
  let hold = true;
  for (const choice of choices) {
    say(`--- ${choice}`);
    const result = await runOne(choice, options);
    hold = hold && result.holds;
    await appendFile(path.join(keptIn, "results.jsonl"), `${JSON.stringify(result)}\n`);
    await appendFile(table, `${row(cells(result))}\n`);
    console.log(row(cells(result)));
  }
  return hold ? 0 : 1;
}

async function runOne(choice: string, { seed, seconds, more, keptIn, say }: EachOptions): Promise<Result> {
  const folder = path.join(keptIn, choice.replaceAll(/[^\w-]/g, "_"));
  await mkdir(folder, { recursive: true });
  const startMs = performance.now();
  const words = [
    "--fault",
    choice,
    "--seed",
    `${seed}`,
    "--seconds",
    `${seconds}`,
    "--keep",
    folder,
    "--json",
    ...more,
  ];
  const child = spawn(process.execPath, [...process.execArgv, path.join(import.meta.dirname, "main.ts"), ...words], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const story = createWriteStream(path.join(folder, "story.log"));
  child.stderr.pipe(story);
  const [said, [code, signal]] = await Promise.all([text(child.stdout), once(child, "exit")]);
  const report = reportIn(said);
  const tookS = Math.round((performance.now() - startMs) / 1_000);
  const error = report === null ? `it ended with ${signal ?? code} before it was judged; see story.log` : null;
  if (error !== null) say(`${choice}: ${error}`);
  const figures = report === null ? null : figuresOf(report);
  return { fault: choice, seed, seconds, holds: report?.holds ?? false, tookS, keptIn: folder, figures, error };
}

function reportIn(said: string): Report | null {
  try {
    return JSON.parse(said) as Report;
  } catch {
    return null;
  }
}

function figuresOf({ verdict, mutants }: Report): Figures {
  const { counts, faults, findings, records, repeats, worstRecoveryMs, quietAfterMs } = verdict;
  return {
    operations: counts,
    faults: Object.values(faults).reduce((sum, count) => sum + count, 0),
    findings: Object.fromEntries(Object.entries(findings).map(([invariant, { length }]) => [invariant, length])),
    records,
    repeats,
    worstRecoveryMs,
    quietAfterMs,
    mutants: mutants.length,
    mutantsCaught: mutants.filter(({ caught }) => caught).length,
  };
}

/** A row of the table: as `head` says. */
export function cells({ fault, figures, error }: Result): readonly string[] {
  if (figures === null) return [fault, error ?? "", ...head.slice(2).map(() => "")];
  const { operations, findings, records, repeats, worstRecoveryMs, quietAfterMs } = figures;
  const { lost, duplicated, reordered, ...others } = findings;
  const taken = ["send", "receive", "acknowledge"].map((kind) => count(operations[kind]?.["ok"]));
  const broken = Object.entries(others).filter(([, found]) => found > 0);
  return [
    fault,
    taken.join(", "),
    count(figures.faults),
    ...[lost, duplicated, reordered].map(count),
    broken.length === 0 ? "none" : broken.map(([invariant, found]) => `${invariant} ${found}`).join(", "),
    `${count(repeats)} of ${count(records)}`,
    // Null: nothing that was sent after a healing was read before the load ended.
    worstRecoveryMs === null ? "not seen" : seconds(worstRecoveryMs),
    quietAfterMs === null ? "never" : seconds(quietAfterMs),
    `${figures.mutantsCaught} of ${figures.mutants}`,
  ];
}

function count(number: number | undefined): string {
  return number === undefined ? "?" : number.toLocaleString("en-US");
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(1)} s`;
}

function row(texts: readonly string[]): string {
  return `| ${texts.join(" | ")} |`;
}
