/**
 * The watcher: a process of its own that starts the local servers and outlives whoever asked for them.
 *
 * Promises: when the channel to its parent closes, for whatever reason (a clean end, a crash, SIGKILL of the parent),
 * every process it started is ended, the folders it was told to remove are removed, and it exits. It is the parent of
 * the servers, so it never ends a process by a stale pid.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { rm } from "node:fs/promises";
import type { GuardReport, GuardRequest, LaunchRequest } from "./guard.ts";

/** A clean end of Kafka takes about a second; a server that needs longer than this is stuck. */
const graceMs = 5_000;

const children = new Map<number, { readonly child: ChildProcess; readonly launch: LaunchRequest }>();
const foldersToRemove = new Set<string>();

function report(message: GuardReport): void {
  if (process.connected) process.send?.(message, () => undefined);
}

function launch(request: LaunchRequest): void {
  const log = request.logFile === undefined ? undefined : openSync(request.logFile, "a");
  const output = log ?? "pipe";
  const child = spawn(request.command, request.args, {
    cwd: request.cwd,
    env: request.env,
    stdio: ["ignore", output, output],
    ...(request.user === undefined ? {} : { uid: request.user.uid, gid: request.user.gid }),
  });
  if (log !== undefined) closeSync(log);
  children.set(request.id, { child, launch: request });
  const forward = (chunk: Buffer) => report({ kind: "output", id: request.id, text: chunk.toString("utf8") });
  child.stdout?.on("data", forward);
  child.stderr?.on("data", forward);
  child.once("spawn", () => report({ kind: "launched", id: request.id, pid: child.pid ?? 0 }));
  child.once("error", (error) => {
    children.delete(request.id);
    report({ kind: "ended", id: request.id, code: null, signal: null, error: error.message });
  });
  child.once("close", (code, signal) => {
    if (!children.delete(request.id)) return;
    report({ kind: "ended", id: request.id, code, signal, error: null });
  });
}

async function endAll(): Promise<void> {
  for (const { child, launch } of children.values()) child.kill(launch.orphanSignal);
  const deadline = Date.now() + graceMs;
  while (children.size > 0 && Date.now() < deadline) await new Promise((wake) => setTimeout(wake, 20));
  for (const { child } of children.values()) child.kill("SIGKILL");
  for (const folder of foldersToRemove) {
    // PostgreSQL's children see their postmaster's death a moment later and may still be writing.
    await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }).catch(() => undefined);
  }
  process.exit(0);
}

process.on("message", (request: GuardRequest) => {
  if (request.kind === "launch") launch(request);
  else if (request.kind === "signal") children.get(request.id)?.child.kill(request.signal);
  else foldersToRemove.add(request.folder);
});
process.once("disconnect", () => void endAll());
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => void endAll());
