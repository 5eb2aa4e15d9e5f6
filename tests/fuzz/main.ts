/**
 * `npm run fuzz -- --seconds N --seed S [--part http|frames|records]…`: puts malformed input of every kind into a running service, and checks that it holds.
 *
 * docs/fuzzing.md explains what is put in and what is checked. Ends with 0 only when nothing was found, and every operation, kind and topic had inputs.
 */
import { randomInt } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import { requireSchemathesis } from "./http.ts";
import type { Memory } from "./memory.ts";
import { type Part, parts, type Report, run } from "./run.ts";

const usage = `Usage: npm run fuzz -- [options]

  --seconds N    of fuzzing, all parts together (480)
  --seed S       of what is put in (a random one)
  --part PART    only this one: ${parts.join(", ")}; may be given several times
  --json         one line of JSON on stdout
`;

process.exitCode = await main();

async function main(): Promise<number> {
  const options = readArguments();
  if (options === null) return 2;
  const say = (line: string) => void process.stderr.write(`${line}\n`);
  say(`seed ${options.seed}`);
  const report = await run({ ...options, say });
  const folder = path.resolve(import.meta.dirname, "../../.sealpost/fuzz");
  await mkdir(folder, { recursive: true });
  await writeFile(path.join(folder, `${options.seed}.json`), `${JSON.stringify(report, null, 2)}\n`);
  if (options.json) console.log(JSON.stringify(report));
  else show(report);
  return report.findings.length === 0 ? 0 : 1;
}

function readArguments() {
  const number = (text: string, name: string) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value <= 0) throw new Error(`--${name} takes a whole number above 0`);
    return value;
  };
  try {
    const { values } = parseArgs({
      options: {
        seconds: { type: "string", default: "480" },
        seed: { type: "string", default: String(randomInt(1, 2 ** 31)) },
        part: { type: "string", multiple: true, default: [...parts] },
        json: { type: "boolean", default: false },
      },
    });
    const chosen = values.part.map((text): Part => {
      const part = parts.find((one) => one === text);
      if (part === undefined) throw new Error(`--part takes one of ${parts.join(", ")}`);
      return part;
    });
    if (chosen.includes("http")) requireSchemathesis();
    return {
      seconds: number(values.seconds, "seconds"),
      seed: number(values.seed, "seed"),
      parts: chosen,
      json: values.json,
    };
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : ""}\n${usage}`);
    return null;
  }
}

function show({ parts: all, memory, peakRssMib, slowestLookMs, looks, controlMs, inputs, findings }: Report): void {
  for (const { part, inputs: count, of, answers, classes } of all) {
    const numbers = Object.values(of);
    console.log(`${part}: ${count} inputs in ${numbers.length} kinds, the rarest ${Math.min(...numbers)} times`);
    console.log(`  ${counted(answers)}`);
    for (const [name, by] of Object.entries(classes)) console.log(`  ${name}: ${counted(by)}`);
  }
  const mib = (name: keyof Memory) => memory.map((one) => Math.round(one[name])).join(" → ");
  console.log(`memory after each round, MiB: live ${mib("liveMib")}, resident ${mib("rssMib")} (peak ${peakRssMib})`);
  console.log(
    `${looks} looks, the slowest answered in ${slowestLookMs} ms; control messages acknowledged in ${controlMs.join(", ")} ms`,
  );
  console.log(`${inputs} inputs, ${findings.length} findings`);
  for (const finding of findings) console.log(`- ${finding}`);
}

function counted(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .map(([what, times]) => `${what} ${times}`)
    .join(", ");
}
