/** The processes of a server of the local stack. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import type { ServerName } from "../../infra/local/ladder.ts";
import type { Stack } from "../../infra/local/stack.ts";

/** The first is the one that started the others. Empty: it does not run. */
export async function pidsOf(stack: Stack, name: ServerName): Promise<readonly number[]> {
  const pid = stack.pid(name);
  return pid === null ? [] : [pid, ...(await childrenOf(pid))];
}

/** PostgreSQL has a process for each connection. */
async function childrenOf(pid: number): Promise<readonly number[]> {
  try {
    const { stdout } = await promisify(execFile)("pgrep", ["-P", String(pid)]);
    return stdout.trim().split("\n").map(Number);
  } catch {
    // pgrep answers 1 when there are none.
    return [];
  }
}
