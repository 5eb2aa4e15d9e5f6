import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";
import { FakeService } from "./fake-service.ts";

test("the quick start of docs/sdk.md runs as it stands there", async () => {
  const service = await FakeService.start();
  const folder = mkdtempSync(join(tmpdir(), "sealpost-quick-"));
  onTestFinished(async () => {
    await service.stop();
    rmSync(folder, { recursive: true });
  });
  const page = readFileSync(resolve(import.meta.dirname, "../docs/sdk.md"), "utf8");
  const code = /```ts\n([\s\S]*?)```/.exec(page)?.[1] ?? "";
  const program = join(folder, "two-agents.mts");
  writeFileSync(program, code.replace("./sdk/agent.ts", resolve(import.meta.dirname, "agent.ts")));
  const run = promisify(execFile)(process.execPath, [program, service.url], { cwd: folder, timeout: 20_000 });
  const { stdout, stderr } = await run;
  expect(stdout).toBe("true { question: 'Are you there?' }\nacknowledged\n");
  expect(stderr).toBe("");
});
