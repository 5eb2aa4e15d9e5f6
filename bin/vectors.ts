/**
 * `npm run -s vectors -- FILE...`: runs vector files over both implementations of the primitives.
 *
 * Prints what failed and what was skipped, and in the end one line of counts. Exits with 1 when anything failed or a file
 * had no case, with 2 when a file cannot be read or is of no known kind.
 */
import { readFileSync } from "node:fs";
import { noblePrimitives } from "../protocol/primitives/noble.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { casesOf, type Result, runCase, UnknownVectors } from "../protocol/vectors/run.ts";

const IMPLEMENTATIONS = { node: nodePrimitives, noble: noblePrimitives };

class Unusable extends Error {}

function runFile(path: string): Result[] {
  const results = casesOf(readJson(path)).map((one) => runCase(one, IMPLEMENTATIONS));
  const named = results.map((result) => ({ ...result, name: `${path}: ${result.name}` }));
  return named.length > 0 ? named : [{ name: path, outcome: "failed", reason: "there is no case in it" }];
}

function readJson(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    throw new Unusable("cannot be read");
  }
  try {
    return JSON.parse(text);
  } catch {
    throw new Unusable("is not JSON");
  }
}

function main(paths: readonly string[]): number {
  if (paths.length === 0) {
    console.error("usage: vectors FILE...");
    return 2;
  }
  const counts = { passed: 0, failed: 0, skipped: 0 };
  for (const path of paths) {
    try {
      for (const { name, outcome, reason } of runFile(path)) {
        counts[outcome]++;
        if (outcome !== "passed") console.log(`${outcome}: ${name}${reason === undefined ? "" : `: ${reason}`}`);
      }
    } catch (error) {
      if (!(error instanceof Unusable || error instanceof UnknownVectors)) throw error;
      console.error(`${path}: ${error.message}`);
      return 2;
    }
  }
  console.log(
    `${counts.passed} passed, ${counts.failed} failed${counts.skipped > 0 ? `, ${counts.skipped} skipped` : ""}`,
  );
  return counts.failed > 0 ? 1 : 0;
}

process.exitCode = main(process.argv.slice(2));
