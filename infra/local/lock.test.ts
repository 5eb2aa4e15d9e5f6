import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { tryLock } from "./lock.ts";

const file = () => join(mkdtempSync(join(tmpdir(), "sealpost-lock-")), "lock");

async function deadPid(): Promise<number> {
  const child = spawn(process.execPath, ["-e", ""]);
  await once(child, "exit");
  return child.pid ?? 0;
}

test("of many who try at the same time exactly one gets the lock", async () => {
  const path = file();
  const attempts = await Promise.all(Array.from({ length: 20 }, () => tryLock(path, [process.pid])));
  expect(attempts.filter((attempt) => "lock" in attempt)).toHaveLength(1);
});

test("a lock that was released can be taken again", async () => {
  const path = file();
  const first = await tryLock(path, [process.pid]);
  if ("lock" in first) await first.lock.release();
  expect(await tryLock(path, [process.pid])).toHaveProperty("lock");
});

test("a lock whose holders are all dead is taken over", async () => {
  const path = file();
  await tryLock(path, [await deadPid()]);
  expect(await tryLock(path, [process.pid])).toHaveProperty("lock");
});

test("a lock is held as long as any of its holders lives", async () => {
  const path = file();
  await tryLock(path, [await deadPid(), process.pid]);
  expect(await tryLock(path, [process.pid])).toEqual({ heldBy: process.pid, ownerLives: false });
});

test("a pid that another program got in the meantime does not hold a lock", async () => {
  const path = file();
  writeFileSync(path, JSON.stringify([{ pid: process.pid, startedAt: "Thu Jan  1 00:00:00 1970" }]));
  expect(await tryLock(path, [process.pid])).toHaveProperty("lock");
});
