import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";

const root = join(import.meta.dirname, "../..");
const scratch = mkdtempSync(join(tmpdir(), "sealpost-vectors-"));
const padding = join(root, "protocol/vectors/padding.json");

afterAll(() => rmSync(scratch, { recursive: true }));

function vectors(...files: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, "bin/vectors.ts"), ...files], {
    encoding: "utf8",
  });
  return { status, lines: stdout.trimEnd().split("\n"), stderr };
}

function file(name: string, text: string): string {
  const path = join(scratch, name);
  writeFileSync(path, text);
  return path;
}

function changedPadding(change: object): string {
  return JSON.stringify({ ...JSON.parse(readFileSync(padding, "utf8")), ...change });
}

test("a file that passes ends with its counts, and with 0", () => {
  const { status, lines } = vectors(padding);
  expect(lines).toEqual([expect.stringMatching(/^\d{3} passed, 0 failed$/)]);
  expect(status).toBe(0);
});

test("a wrong vector is named, and ends with 1", () => {
  const path = file("wrong.json", changedPadding({ padme: [[9, 11]] }));
  const { status, lines } = vectors(padding, path);
  expect(lines[0]).toMatch(/^failed: .*wrong\.json: padme \[9,11\]: node: padded length: 10 instead of 11$/);
  expect(lines[1]).toMatch(/^\d+ passed, 1 failed$/);
  expect(status).toBe(1);
});

test("a file with nothing to run fails", () => {
  const empty = file("empty.json", changedPadding({ padme: [], frames: [], refused_frames: [] }));
  const { status, lines } = vectors(empty);
  expect(lines.at(-1)).toBe("0 passed, 1 failed");
  expect(status).toBe(1);
});

test.each([
  ["is not there", join(scratch, "absent.json"), "cannot be read"],
  ["is not JSON", file("text.json", "{"), "is not JSON"],
  ["is of no known kind", file("kind.json", changedPadding({ kind: "other" })), "an unknown kind"],
  ["has another format", file("format.json", changedPadding({ format: "other" })), "another format"],
  ["says more than is looked at", file("more.json", changedPadding({ more: [] })), "nothing looks at more"],
])("a file that %s ends with 2 and says so", (_law, path, message) => {
  const { status, stderr } = vectors(path);
  expect(stderr).toContain(message);
  expect(status).toBe(2);
});

test("no file at all ends with 2", () => {
  expect(vectors().status).toBe(2);
});
