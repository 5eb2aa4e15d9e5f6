import { fork } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { isAlive } from "../../tests/processes.ts";
import { openGuard } from "./guard.ts";

const sleeper = {
  command: process.execPath,
  args: ["-e", "setInterval(() => undefined, 1000)"],
  cwd: tmpdir(),
  env: {},
  orphanSignal: "SIGTERM",
} as const;

async function untilGone(pids: readonly number[]): Promise<void> {
  const deadline = Date.now() + 12_000;
  while (pids.some(isAlive) && Date.now() < deadline) await new Promise((wake) => setTimeout(wake, 20));
}

test("a command's output and exit code come back", async () => {
  const guard = await openGuard({});
  const { code, output } = await guard.run({ ...sleeper, args: ["-e", "console.log('yes'); process.exitCode = 3"] });
  expect([code, output]).toEqual([3, "yes\n"]);
  await guard.close();
});

test("a command that does not exist is an ending with a reason", async () => {
  const guard = await openGuard({});
  const { error } = await guard.run({ ...sleeper, command: "/does/not/exist" });
  expect(error).toContain("ENOENT");
  await guard.close();
});

test("closing ends every process and removes the folders", async () => {
  const guard = await openGuard({});
  const folder = mkdtempSync(join(tmpdir(), "sealpost-guard-"));
  guard.removeAtEnd(folder);
  const { pid } = await guard.launch(sleeper);
  expect(isAlive(pid)).toBe(true);
  await guard.close();
  expect(isAlive(pid)).toBe(false);
  expect(existsSync(folder)).toBe(false);
});

test("a process that ignores its signal is ended all the same when its parent is killed with SIGKILL", async () => {
  const folder = mkdtempSync(join(tmpdir(), "sealpost-guard-"));
  const program = join(folder, "parent.ts");
  writeFileSync(
    program,
    `import { openGuard } from ${JSON.stringify(join(import.meta.dirname, "guard.ts"))};
     const guard = await openGuard({});
     const heard = Promise.withResolvers();
     const stubborn = "process.on('SIGTERM', () => undefined); setInterval(() => undefined, 1000); console.log('deaf')";
     const { pid } = await guard.launch({ ...${JSON.stringify(sleeper)}, args: ["-e", stubborn] }, heard.resolve);
     await heard.promise;
     process.send?.([guard.pid, pid]);`,
  );
  const parent = fork(program, [], { execArgv: [] });
  const [pids] = (await once(parent, "message")) as [number[]];
  expect(pids.every(isAlive)).toBe(true);
  parent.kill("SIGKILL");
  await untilGone(pids);
  expect(pids.filter(isAlive)).toEqual([]);
}, 20_000);
