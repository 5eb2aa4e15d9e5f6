/**
 * A lock between processes: a file that names who holds it.
 *
 * Promises: at most one living process holds it; a lock whose holders are all dead is taken over. A pid that was given
 * to another program in the meantime does not count as the holder, because the file also keeps when it started.
 */
import { execFileSync } from "node:child_process";
import { link, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";

interface Holder {
  readonly pid: number;
  readonly startedAt: string | null;
}

export interface Lock {
  release(): Promise<void>;
}

/** `heldBy` is the first holder that lives; `ownerLives` tells whether that is the first one named. */
export type LockAttempt = { readonly lock: Lock } | { readonly heldBy: number; readonly ownerLives: boolean };

/** `pids`: the processes that keep the lock alive; it is free when none of them lives any more. */
export async function tryLock(file: string, pids: readonly number[]): Promise<LockAttempt> {
  await mkdir(dirname(file), { recursive: true });
  const own = `${file}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  const holders: Holder[] = pids.map((pid) => ({ pid, startedAt: startOf(pid) }));
  await writeFile(own, JSON.stringify(holders));
  try {
    for (;;) {
      // A link appears with its content at once, so nobody ever reads half a lock.
      if (await linked(own, file)) return { lock: { release: () => rm(file, { force: true }) } };
      const found = await readHolders(file);
      const living = found?.find(isAlive);
      if (living !== undefined) return { heldBy: living.pid, ownerLives: living === found?.[0] };
      if (found !== null) await rename(file, `${own}.stale`).catch(() => undefined);
    }
  } finally {
    await rm(own, { force: true });
    await rm(`${own}.stale`, { force: true });
  }
}

/** Waits as long as another process holds the lock; `onWait` is told once who that is. */
export async function lockWhenFree(file: string, onWait: (pid: number) => void, signal?: AbortSignal): Promise<Lock> {
  let told = false;
  for (;;) {
    signal?.throwIfAborted();
    const attempt = await tryLock(file, [process.pid]);
    if ("lock" in attempt) return attempt.lock;
    if (!told) onWait(attempt.heldBy);
    told = true;
    await new Promise((wake) => setTimeout(wake, 200));
  }
}

async function linked(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

async function readHolders(file: string): Promise<Holder[] | null> {
  try {
    return JSON.parse(await readFile(file, "utf8")) as Holder[];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

function isAlive(holder: Holder): boolean {
  try {
    process.kill(holder.pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
  }
  return holder.startedAt === null || startOf(holder.pid) === holder.startedAt;
}

/** When a process started, in whatever form the system tells it; null when it does not. */
function startOf(pid: number): string | null {
  try {
    return execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], { encoding: "utf8" }).trim();
  } catch {
    return null;
  }
}
