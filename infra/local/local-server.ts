/**
 * A server as a local process: what one consists of, and how it is started, killed, restarted and stopped.
 *
 * Promises: started means that it answered a real question; a start that fails says what the server printed last; kill
 * is SIGKILL; a restart uses the same ports and data.
 */
import { mkdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { CannotRun, type Workshop } from "./binaries.ts";
import type { Ending, GuardedProcess, Launch } from "./guard.ts";
import type { ServerName, Way } from "./ladder.ts";

export interface LocalServer {
  readonly name: ServerName;
  readonly url: string;
  /** What it is, for people: "Kafka 4.1.1". */
  readonly title: string;
  readonly launch: Launch & { readonly logFile: string };
  /** Ends it in order. */
  readonly stopSignal: NodeJS.Signals;
  /** Ends it at once, when its data is not needed any more. */
  readonly dropSignal: NodeJS.Signals;
  /** Throws until the server answers. */
  readonly check: () => Promise<void>;
  /** Runs after an end in order. */
  readonly afterStop?: () => Promise<void>;
}

/** A server that answers, whichever way it runs. */
export interface RunningServer {
  readonly way: Way;
  readonly url: string;
  readonly title: string;
  /** The server's own processes; empty when it is not ours or runs in a container. */
  pids(): readonly number[];
  /** Ends it with SIGKILL. */
  kill(): Promise<void>;
  /** Ends it with SIGKILL if it runs, then starts it with the same ports and data. */
  restart(): Promise<void>;
  /** `drop`: the data is not needed any more. */
  stop(drop: boolean): Promise<void>;
}

/** The slowest, Kafka without a class archive on two busy cores, was seen to need 9 s. */
const startMsMax = 60_000;
/** After SIGKILL a broker recovers each partition's log first: with some 350 of them, on two cores at a load of 30, more than 60 s. */
const restartMsMax = 180_000;
const stopMsMax = 15_000;
const checkEveryMs = 50;
/** After SIGKILL of its postmaster, PostgreSQL's other processes hold the shared memory a moment longer. */
const earlyEndsMax = 20;
const earlyEndWaitMs = 250;

export async function startLocal(server: LocalServer, shop: Workshop): Promise<RunningServer> {
  let process = await launchUntilItAnswers(server, shop, { earlyEndsLeft: 0, msMax: startMsMax });
  let isWanted = true;
  watch();

  /** A server that dies by itself is worth a word to whoever watches the stack. */
  function watch(): void {
    const watched = process;
    void watched.ended.then((ending) => {
      if (!isWanted || watched !== process || shop.signal?.aborted === true) return;
      const text = `ended by itself (${howItEnded(ending)}); its log is ${server.launch.logFile}`;
      shop.progress({ kind: "note", server: server.name, text });
    });
  }
  async function kill(): Promise<void> {
    isWanted = false;
    process.signal("SIGKILL");
    await process.ended;
  }
  async function stop(drop: boolean): Promise<void> {
    isWanted = false;
    if (process.ending() === null) {
      process.signal(drop ? server.dropSignal : server.stopSignal);
      const tooLong = setTimeout(() => process.signal("SIGKILL"), stopMsMax);
      await process.ended;
      clearTimeout(tooLong);
    }
    // A server that had to be killed may have left something half written.
    if (process.ending()?.signal === null) await server.afterStop?.();
  }
  return {
    way: "local",
    url: server.url,
    title: server.title,
    pids: () => (process.ending() === null ? [process.pid] : []),
    kill,
    restart: async () => {
      await kill();
      process = await launchUntilItAnswers(server, shop, { earlyEndsLeft: earlyEndsMax, msMax: restartMsMax });
      isWanted = true;
      watch();
    },
    stop,
  };
}

async function launchUntilItAnswers(
  server: LocalServer,
  shop: Workshop,
  { earlyEndsLeft, msMax }: { readonly earlyEndsLeft: number; readonly msMax: number },
): Promise<GuardedProcess> {
  await mkdir(dirname(server.launch.logFile), { recursive: true });
  const process = await shop.guard.launch(server.launch);
  const deadline = Date.now() + msMax;
  let lastAnswer: unknown;
  while (process.ending() === null && Date.now() < deadline) {
    if (shop.signal?.aborted === true) {
      process.signal("SIGKILL");
      await process.ended;
      shop.signal.throwIfAborted();
    }
    try {
      await server.check();
      return process;
    } catch (error) {
      lastAnswer = error;
    }
    await pause(checkEveryMs);
  }
  const ending = process.ending();
  if (ending === null) {
    process.signal("SIGKILL");
    await process.ended;
    throw new CannotRun(`it did not answer within ${msMax / 1000} s (${messageOf(lastAnswer)}).`);
  }
  if (earlyEndsLeft > 0) {
    await pause(earlyEndWaitMs);
    return launchUntilItAnswers(server, shop, { earlyEndsLeft: earlyEndsLeft - 1, msMax });
  }
  throw new CannotRun(
    `"${server.launch.command}" ended at once (${howItEnded(ending)}). ${await lastLines(server.launch.logFile)}`,
  );
}

function howItEnded({ error, signal, code }: Ending): string {
  return error ?? (signal === null ? `exit code ${code}` : `signal ${signal}`);
}

async function lastLines(logFile: string): Promise<string> {
  const text = await readFile(logFile, "utf8").catch(() => "");
  const lines = text.trimEnd().split("\n").slice(-6).join("\n     ");
  return lines === "" ? `Its log (${logFile}) is empty.` : `Its log (${logFile}) ends with:\n     ${lines}`;
}

function pause(ms: number): Promise<void> {
  return new Promise((wake) => setTimeout(wake, ms));
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
