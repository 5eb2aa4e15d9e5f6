/**
 * CPU seconds of processes, from the kernel's own accounting (Linux: /proc/<pid>/stat, user and system, with waited-for children left out).
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import type { Stack } from "../infra/local/stack.ts";

const ticksPerSecond = Number(execFileSync("getconf", ["CLK_TCK"], { encoding: "utf8" }));

/** CPU seconds used so far by a process and, for servers that fork (PostgreSQL), by its live children. */
export function cpuSeconds(pid: number): number {
  return [pid, ...childrenOf(pid)].reduce((sum, each) => sum + ownCpuSeconds(each), 0);
}

/** Of the process alone. */
export function ownCpuSeconds(pid: number): number {
  const fields = statFields(pid);
  return fields === null ? 0 : (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

/** CPU seconds used so far by the stack's servers, as far as they are local processes. */
export function cpuOfServers(stack: Stack): Record<string, number> {
  const pids = stack.servers.map(({ name }) => [name, stack.pid(name)] as const);
  return Object.fromEntries(pids.flatMap(([name, pid]) => (pid === null ? [] : [[name, cpuSeconds(pid)]])));
}

/** What was spent between two looks, per 1,000 messages. */
export function cpuPer1000(
  before: Readonly<Record<string, number>>,
  after: Readonly<Record<string, number>>,
  messages: number,
): Record<string, number> {
  const spent = Object.entries(after).map(([name, seconds]) => {
    return [name, Math.round(((seconds - (before[name] ?? 0)) / messages) * 1_000_000) / 1_000];
  });
  return Object.fromEntries(spent) as Record<string, number>;
}

/** The fields after the command's name, which may hold spaces; null when the process is gone. */
function statFields(pid: number): string[] | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  } catch {
    return null;
  }
}

function childrenOf(pid: number): number[] {
  try {
    const listed = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
    return listed === "" ? [] : listed.split(" ").map(Number);
  } catch {
    return [];
  }
}
