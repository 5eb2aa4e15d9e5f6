/** Takes down what clients do and see, as it happens; and writes a history to a file, and reads it back: a line of JSON for each thing, gzipped. */
import { createReadStream, createWriteStream } from "node:fs";
import { createInterface } from "node:readline";
import { pipeline } from "node:stream/promises";
import { createGunzip, createGzip } from "node:zlib";
import type { History, Injected, LogRecord, Operation } from "./checker/history.ts";

const LINES_AT_ONCE = 1_000;

type Told = Omit<Operation, "outcome" | "startMs" | "endMs" | "code">;

export class Recorder {
  readonly operations: Operation[] = [];
  /** What readers and senders could not make sense of, for people. */
  readonly notes: string[] = [];

  /** Tells what came of something that began at `startMs`. */
  tell(told: Told, startMs: number, outcome: Operation["outcome"], code: string | null = null): void {
    this.operations.push({ ...told, outcome, startMs, endMs: performance.now(), code });
  }

  /** Something that is there the moment it is seen. */
  saw(told: Told): void {
    this.tell(told, performance.now(), "ok");
  }

  note(text: string): void {
    this.notes.push(text);
  }
}

type Line =
  | { readonly operation: Operation }
  | { readonly injected: Injected }
  | { readonly record: LogRecord }
  | { readonly rest: Omit<History, "operations" | "injected" | "log"> };

export function writeHistory(file: string, history: History): Promise<void> {
  return pipeline(linesOf(history), createGzip(), createWriteStream(file));
}

/** Some at a time: an hour's history is longer than a string may be. */
function* linesOf({ operations, injected, log, ...rest }: History): Generator<string> {
  const text = (lines: readonly Line[]) => lines.map((line) => `${JSON.stringify(line)}\n`).join("");
  yield text([{ rest }, ...injected.map((one) => ({ injected: one }))]);
  for (let at = 0; at < operations.length; at += LINES_AT_ONCE) {
    yield text(operations.slice(at, at + LINES_AT_ONCE).map((operation) => ({ operation })));
  }
  for (let at = 0; at < log.length; at += LINES_AT_ONCE) {
    yield text(log.slice(at, at + LINES_AT_ONCE).map((record) => ({ record })));
  }
}

/** @throws Error where the file is none. */
export async function readHistory(file: string): Promise<History> {
  const operations: Operation[] = [];
  const injected: Injected[] = [];
  const log: LogRecord[] = [];
  let rest: Omit<History, "operations" | "injected" | "log"> | null = null;
  for await (const text of createInterface({ input: createReadStream(file).pipe(createGunzip()) })) {
    const line = JSON.parse(text) as Line;
    if ("operation" in line) operations.push(line.operation);
    else if ("injected" in line) injected.push(line.injected);
    else if ("record" in line) log.push(line.record);
    else rest = line.rest;
  }
  if (rest === null) throw new Error(`${file} holds no history`);
  return { ...rest, operations, injected, log };
}
