/** What the commands have in common: their words, the agent they act for, and what they print. */
import { existsSync } from "node:fs";
import { type ParseArgsConfig, parseArgs } from "node:util";
import { Agent } from "../../sdk/agent.ts";
import { readAgentConfig } from "../config.ts";

export interface Command {
  /** One line of the overview. */
  readonly summary: string;
  readonly usage: string;
  /** The exit code. Throws a `WrongWords`, a `NotSo`, and what the SDK throws. */
  readonly run: (args: readonly string[], interrupted: AbortSignal) => Promise<number>;
}

/** The command line does not make sense. */
export class WrongWords extends Error {}

/** It was understood, and is not so, or not to be done; the message names what to do. */
export class NotSo extends Error {}

/** The service did not answer in time. */
export class Late extends Error {}

export const EXIT = { done: 0, notDone: 1, wrongWords: 2, late: 3 } as const;

/** Where a service on a developer's machine is. */
export const URL_DEFAULT = "http://127.0.0.1:8080";

const common = {
  store: { type: "string" },
  url: { type: "string" },
  json: { type: "boolean", default: false },
} as const satisfies ParseArgsConfig["options"];

/** The words of a command, with those that all have. Throws `WrongWords`. */
export function readWords<Options extends NonNullable<ParseArgsConfig["options"]>>(
  args: readonly string[],
  options: Options,
) {
  return parseWords(args, { ...options, ...common });
}

/** An agent id, alone or with more behind it, that begins with a hyphen: one in 64 does. No option is that long. */
const idLikeAnOption = /^-[A-Za-z0-9_-]{42}(?=\/|$)/;

/** What no word of a command line can hold. */
const MARK = "\u0000";

/** The words of a command, each id as it is. Throws `WrongWords`. */
export function parseWords<Options extends NonNullable<ParseArgsConfig["options"]>>(
  args: readonly string[],
  options: Options,
) {
  const marked = args.map((word) => (idLikeAnOption.test(word) ? MARK + word : word));
  try {
    const parsed = parseArgs({ args: marked, options, allowPositionals: true, strict: true });
    const values: Record<string, unknown> = parsed.values;
    for (const [name, value] of Object.entries(values)) {
      if (typeof value === "string") values[name] = unmarked(value);
      else if (Array.isArray(value)) values[name] = value.map((one) => (typeof one === "string" ? unmarked(one) : one));
    }
    return { ...parsed, positionals: parsed.positionals.map(unmarked) };
  } catch (error) {
    throw new WrongWords(error instanceof Error ? unmarked(error.message) : "", { cause: error });
  }
}

function unmarked(word: string): string {
  return word.replaceAll(MARK, "");
}

/** So many seconds, as milliseconds. Throws `WrongWords`. */
export function secondsOf(name: string, text: string): number {
  const seconds = Number(text);
  if (text.trim() === "" || !Number.isFinite(seconds) || seconds <= 0) {
    throw new WrongWords(`--${name} takes a number of seconds`);
  }
  return seconds * 1_000;
}

interface Place {
  readonly store?: string | undefined;
  readonly url?: string | undefined;
}

interface Opening {
  readonly signal: AbortSignal;
  /** May the agent be made? Otherwise there must be one. */
  readonly isNew?: boolean;
  readonly custody?: "agent" | "server";
  /** The chain under which it acts. */
  readonly delegation?: string | undefined;
  readonly ownerStatement?: string;
}

/** Does something with the agent of the store, and closes it. */
export async function withAgent<T>(
  { store, url }: Place,
  { signal, isNew = false, custody, delegation, ownerStatement }: Opening,
  work: (agent: Agent) => Promise<T>,
): Promise<T> {
  const config = readAgentConfig();
  const storePath = store ?? config.storePath;
  if (!isNew && !existsSync(storePath)) {
    throw new NotSo(`there is no agent in ${storePath}: make one with sealpost register, or name its --store`);
  }
  const key = config.storeKey === undefined ? {} : { key: config.storeKey };
  const service = url ?? config.url ?? (isNew && !existsSync(storePath) ? URL_DEFAULT : undefined);
  const agent = await Agent.open({
    ...(service === undefined ? {} : { url: service }),
    ...{ storePath, ...key, signal },
    ...(custody === undefined ? {} : { custody }),
    ...(delegation === undefined ? {} : { delegation }),
    ...(ownerStatement === undefined ? {} : { ownerStatement }),
  });
  const telling = tellProblems(agent);
  try {
    return await work(agent);
  } finally {
    await agent.close();
    await telling;
  }
}

/** Troubles pass by themselves: each kind is told once. */
async function tellProblems(agent: Agent): Promise<void> {
  const told = new Set<string>();
  for await (const problem of agent.problems()) {
    const { type } = problem;
    const code = type === "trouble" ? problem.error.code : type === "not-opened" ? problem.item.code : "";
    if (told.has(`${type} ${code}`)) continue;
    told.add(`${type} ${code}`);
    if (type === "trouble") console.error(`sealpost: ${code}: ${problem.error.message}; trying again`);
    else if (type === "not-opened")
      console.error(`sealpost: ${code}: a message of ${problem.item.senderId} did not open`);
    else console.error(`sealpost: ${type}`);
  }
}

/** Resolves to 0 when it is written: what was printed may be acknowledged. Rejects when nobody reads any more. */
export function writeOut(text: string): Promise<number> {
  return new Promise((resolve, reject) => {
    process.stdout.write(text, (error) => {
      if (error) reject(error);
      else resolve(EXIT.done);
    });
  });
}

/** As JSON where that was asked for, else as lines of name and value; what is null is left out. */
export function writeFacts(isJson: boolean, facts: Readonly<Record<string, unknown>>): Promise<number> {
  if (isJson) return writeOut(`${JSON.stringify(facts)}\n`);
  const lines = Object.entries(facts).flatMap(([name, value]) =>
    value === null ? [] : [`${name.replaceAll("_", " ").padEnd(14)}${value}\n`],
  );
  return writeOut(lines.join(""));
}

/** Rejects with `Late` after so long; the work goes on by itself. */
export async function inTime<T>(msMax: number, work: (signal: AbortSignal) => Promise<T>, late: string): Promise<T> {
  const signal = AbortSignal.timeout(msMax);
  try {
    return await work(signal);
  } catch (error) {
    if (signal.aborted && error === signal.reason) throw new Late(late, { cause: error });
    throw error;
  }
}

/** Without what would steer the terminal: what is printed may be a stranger's. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it is about.
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd");
}
