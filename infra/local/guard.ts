/**
 * The parent's side of the watcher (`guard-process.ts`): starts processes through it and hears of their end.
 *
 * Promises: a process started here never outlives this process by more than the watcher's grace time, even when this
 * process is killed with SIGKILL.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";

export interface OsUser {
  readonly uid: number;
  readonly gid: number;
}

export interface Launch {
  readonly command: string;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  /** The OS user to run as; without it, ours. */
  readonly user?: OsUser;
  /** Where its output goes (appended); without it, to `onOutput`. */
  readonly logFile?: string;
  /** What the watcher sends first when we are gone. */
  readonly orphanSignal: NodeJS.Signals;
}

export interface LaunchRequest extends Launch {
  readonly kind: "launch";
  readonly id: number;
}

export type GuardRequest =
  | LaunchRequest
  | { readonly kind: "signal"; readonly id: number; readonly signal: NodeJS.Signals }
  | { readonly kind: "remove-at-end"; readonly folder: string };

export type GuardReport =
  | { readonly kind: "launched"; readonly id: number; readonly pid: number }
  | { readonly kind: "output"; readonly id: number; readonly text: string }
  | ({ readonly kind: "ended"; readonly id: number } & Ending);

export interface Ending {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Why it could not be started at all; null when it was started. */
  readonly error: string | null;
}

export interface GuardedProcess {
  /** 0 when it could not be started at all; `ended` tells why. */
  readonly pid: number;
  readonly ended: Promise<Ending>;
  /** Null while it runs. */
  ending(): Ending | null;
  signal(signal: NodeJS.Signals): void;
}

export interface Guard {
  readonly pid: number;
  launch(launch: Launch, onOutput?: (text: string) => void): Promise<GuardedProcess>;
  /** Runs a command to its end; its output (both streams) comes back whole. */
  run(
    launch: Omit<Launch, "logFile" | "orphanSignal">,
    onOutput?: (text: string) => void,
  ): Promise<Ending & { readonly output: string }>;
  /** The folder is removed when the watcher ends, however that comes about. */
  removeAtEnd(folder: string): void;
  /** Ends everything that still runs; resolves when the watcher is gone. */
  close(): Promise<void>;
}

interface Waiting {
  readonly onLaunched: (pid: number) => void;
  readonly onOutput: (text: string) => void;
  readonly onEnded: (ending: Ending) => void;
}

/** `env` is the environment of the watcher itself, not of what it starts. */
export async function openGuard(env: Readonly<Record<string, string>>): Promise<Guard> {
  const watcher = fork(join(import.meta.dirname, "guard-process.ts"), [], {
    // Its own process group: a Ctrl-C in the terminal reaches only us, and we stop the servers in order.
    detached: true,
    execArgv: [],
    env: { ...env },
    stdio: ["ignore", "ignore", "ignore", "ipc"],
  });
  const gone = once(watcher, "exit");
  await once(watcher, "spawn");
  const waiting = new Map<number, Waiting>();
  let lastId = 0;

  watcher.on("message", (report: GuardReport) => {
    const entry = waiting.get(report.id);
    if (entry === undefined) return;
    if (report.kind === "launched") entry.onLaunched(report.pid);
    else if (report.kind === "output") entry.onOutput(report.text);
    else {
      waiting.delete(report.id);
      entry.onEnded(report);
    }
  });
  watcher.once("exit", () => {
    for (const entry of waiting.values()) entry.onEnded({ code: null, signal: null, error: "its watcher is gone" });
    waiting.clear();
  });

  function send(request: GuardRequest): void {
    if (watcher.connected) watcher.send(request, () => undefined);
  }

  function launch(request: Launch, onOutput: (text: string) => void = () => undefined): Promise<GuardedProcess> {
    lastId += 1;
    const id = lastId;
    return new Promise((resolve) => {
      let ending: Ending | null = null;
      const ended = Promise.withResolvers<Ending>();
      const handle = (pid: number): GuardedProcess => ({
        pid,
        ended: ended.promise,
        ending: () => ending,
        signal: (signal) => send({ kind: "signal", id, signal }),
      });
      waiting.set(id, {
        onLaunched: (pid) => resolve(handle(pid)),
        onOutput,
        onEnded: (how) => {
          ending = { code: how.code, signal: how.signal, error: how.error };
          ended.resolve(ending);
          // Only the first resolve counts: this one is for a process that was never started.
          resolve(handle(0));
        },
      });
      if (watcher.connected) send({ ...request, kind: "launch", id });
      else waiting.get(id)?.onEnded({ code: null, signal: null, error: "its watcher is gone" });
    });
  }

  return {
    pid: watcher.pid ?? 0,
    launch,
    run: async (request, onOutput) => {
      let output = "";
      const started = await launch({ ...request, orphanSignal: "SIGTERM" }, (text) => {
        output += text;
        onOutput?.(text);
      });
      return { ...(await started.ended), output };
    },
    removeAtEnd: (folder) => send({ kind: "remove-at-end", folder }),
    close: async () => {
      if (watcher.connected) watcher.disconnect();
      await gone;
    },
  };
}
