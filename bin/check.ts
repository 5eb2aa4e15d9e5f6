/**
 * `npm run check`: every gate that needs no server. Fails when a gate fails, and when a gate looked at nothing.
 *
 * The boundary gate is itself checked: a forbidden import in each folder must be refused.
 */
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";

const root = path.resolve(import.meta.dirname, "..");
const bin = path.join(root, "node_modules", ".bin");

interface Outcome {
  readonly ok: boolean;
  readonly output: string;
}

function run(command: string, args: readonly string[]): Outcome {
  const done = spawnSync(path.join(bin, command), args, { cwd: root, encoding: "utf8" });
  return { ok: done.status === 0, output: `${done.stdout ?? ""}${done.stderr ?? ""}${done.error?.message ?? ""}` };
}

/** The linter has to name at least as many files as there are sources, else it looked past some. */
function lint(): Outcome {
  const result = run("biome", ["check", "--error-on-warnings", "."]);
  const checked = Number(/Checked (\d+) files?/.exec(result.output)?.[1] ?? 0);
  const sources = sourceFiles().length;
  return checked >= sources && sources > 0
    ? result
    : { ok: false, output: `${result.output}\nchecked ${checked} of ${sources} source files` };
}

function types(project: string, fewest: number): Outcome {
  const result = run("tsc", ["-p", project, "--listFiles"]);
  const own = result.output.split("\n").filter((line) => line.startsWith(root) && !line.includes("node_modules"));
  const complaints = result.output.split("\n").filter((line) => !line.startsWith("/"));
  return {
    ok: result.ok && own.length >= fewest,
    output: `${complaints.join("\n")}\n${own.length} files`,
  };
}

const forbidden = [
  { file: "api/forbidden.ts", source: 'import { Kafka } from "kafkajs";\n\nexport const kafka = Kafka;\n' },
  { file: "api/forbidden.ts", source: 'import { acks } from "../consumers/acks/acks.ts";\n\nexport const a = acks;\n' },
  {
    file: "consumers/forbidden.ts",
    source: 'import { Webhook } from "standardwebhooks";\n\nexport const a = Webhook;\n',
  },
  { file: "sdk/forbidden.ts", source: 'import { p } from "../store/postgres.ts";\n\nexport const a = p;\n' },
  { file: "jobs/forbidden.ts", source: 'import { PgBoss } from "pg-boss";\n\nexport const boss = PgBoss;\n' },
  { file: "streams/forbidden.ts", source: 'import { p } from "../store/postgres.ts";\n\nexport const a = p;\n' },
  {
    file: "rebuild/forbidden.ts",
    source: 'import { acks } from "../consumers/acks/acks.ts";\n\nexport const a = acks;\n',
  },
  { file: "protocol/forbidden.ts", source: 'import { hash } from "node:crypto";\n\nexport const a = hash;\n' },
  { file: "store/forbidden.ts", source: "export const a = process.env;\n", rule: "noProcessEnv" },
];

function boundaries(): Outcome {
  const missed = forbidden.filter(({ file, source, rule }) => {
    const { ok, output } = lintOf(file, source);
    return ok || !output.includes(rule ?? "noRestrictedImports");
  });
  return {
    ok: missed.length === 0,
    output: missed.map(({ file, source }) => `not refused: ${file}\n${source}`).join(""),
  };
}

/** What the linter says of a file that is there only for the moment: it decides by the folder. */
function lintOf(file: string, source: string): Outcome {
  const full = path.join(root, file);
  writeFileSync(full, source, { flag: "wx" });
  try {
    return run("biome", ["lint", file]);
  } finally {
    rmSync(full);
  }
}

function sourceFiles(): string[] {
  return readdirSync(root, { recursive: true, encoding: "utf8" }).filter(
    (file) => file.endsWith(".ts") && !/(^|\/)(node_modules|\.sealpost)\//.test(file),
  );
}

const gates: readonly (readonly [string, () => Outcome])[] = [
  ["format, lint and import boundaries", lint],
  ["boundaries are seen to work", boundaries],
  ["types", () => types("tsconfig.json", sourceFiles().length)],
  ["types of the pure core", () => types("protocol/tsconfig.json", 10)],
  ["dead code", () => run("knip", ["--no-progress"])],
];

let failed = 0;
for (const [name, gate] of gates) {
  const started = performance.now();
  const { ok, output } = gate();
  console.log(`${ok ? "ok    " : "FAILED"} ${name} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  if (!ok) {
    failed += 1;
    console.log(output.trim());
  }
}
process.exitCode = failed === 0 ? 0 : 1;
