import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

const root = path.resolve(import.meta.dirname, "..");

/** What is run in the image, as docs/configuration.md and docs/operations.md tell. */
const commands = [
  ...["service", "prepare", "sealpost", "accept-gap", "after-restore", "rotate", "keyring", "audit-key"],
].map((name) => path.join("bin", `${name}.ts`));

/** A file and all of ours that it loads, by their paths in the project. */
function loadedBy(file: string, found = new Set<string>()): ReadonlySet<string> {
  if (found.has(file)) return found;
  found.add(file);
  const text = readFileSync(path.join(root, file), "utf8");
  const load = (specifier: string) => loadedBy(path.join(path.dirname(file), specifier), found);
  for (const [, isType, specifier = ""] of text.matchAll(/^(?:import|export) (type )?[^;]*?from "(\.[^"]+)";$/gms)) {
    if (isType === undefined) load(specifier);
  }
  for (const [, specifier = ""] of text.matchAll(/\bimport\("(\.[^"]+)"\)/g)) load(specifier);
  return found;
}

test("whatever the image's commands load is in the image", () => {
  const ignore = readFileSync(path.join(root, ".dockerignore"), "utf8").split("\n");
  const taken = new Set(ignore.flatMap((line) => (line.startsWith("!") ? [line.slice(1)] : [])));
  const loaded = new Set(commands.flatMap((command) => [...loadedBy(command)]));
  expect(loaded.size).toBeGreaterThan(200);
  expect([...loaded].filter((file) => !taken.has(file.split(path.sep)[0] ?? ""))).toEqual([]);
  expect([...taken].filter((name) => !existsSync(path.join(root, name)))).toEqual([]);
});
