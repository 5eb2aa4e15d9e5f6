import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

const root = path.resolve(import.meta.dirname, "..");
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "sealpost-demo-test-"));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

interface Ran {
  readonly code: number | null;
  readonly output: string;
}

/** Runs the demo in a process group of its own, so that whatever it leaves behind can be seen. */
async function demo(args: readonly string[]): Promise<Ran & { readonly left: string[] }> {
  const child = spawn(process.execPath, ["bin/demo.ts", ...args], {
    cwd: root,
    detached: true,
    env: { ...process.env, NO_COLOR: "1" },
  });
  let output = "";
  child.stdout.on("data", (data: Buffer) => {
    output += data;
  });
  child.stderr.on("data", (data: Buffer) => {
    output += data;
  });
  const code = await new Promise<number | null>((resolve) => child.on("close", resolve));
  const left = await inGroup(child.pid ?? 0);
  return { code, output, left };
}

async function inGroup(group: number): Promise<string[]> {
  const listing = spawn("ps", ["-eo", "pgid=,args="]);
  let text = "";
  for await (const data of listing.stdout) text += String(data);
  return text.split("\n").filter((line) => Number.parseInt(line, 10) === group);
}

test("the demo delivers every message, shows where it stands, exits with 0 and leaves no process behind", async () => {
  const { code, output, left } = await demo([]);
  expect(output).toContain("11 of 11 messages stand once, by ce_id, in both topics");
  expect(output).toMatch(/Bob +reads #1 +Hello Bob/);
  expect(output).toContain("part of it out of order");
  expect(output).toMatch(/session [0-9a-f]{12} +begun by Alice, suite 2: X25519 and ML-KEM-768, post-quantum/);
  expect(output).toMatch(/prekey\.low\.v1 +\d left after 91 claims/);
  expect(output).toMatch(/prekey\.published\.v1 +\d+ ms later Bob's SDK has made \d+ more: 100 left/);
  expect(code).toBe(0);
  expect(left).toEqual([]);
});

test("the demo sends the lines of a file of real text", async () => {
  const file = path.join(folder, "lines.txt");
  const lines = [
    "Grüße aus Zürich",
    "価格は 40 kg で",
    "  indented, with trailing space ",
    "",
    "🚢 ETA Thursday",
    "last",
  ];
  await writeFile(file, lines.join("\n"));
  const { code, output } = await demo(["--input", file]);
  for (const line of lines.filter((text) => text !== "")) expect(output).toContain(line);
  expect(output).toContain("7 of 7 messages stand once, by ce_id, in both topics");
  expect(code).toBe(0);
});

test("a file that is not there is named, and nothing is started", async () => {
  const { code, output } = await demo(["--input", path.join(folder, "missing.txt")]);
  expect(output).toContain("missing.txt cannot be read");
  expect(code).toBe(2);
});
