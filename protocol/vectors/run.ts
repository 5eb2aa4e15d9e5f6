/**
 * Runs a vector file of any kind over sets of primitives. A case passes when it passes over all of them.
 */
import type { Primitives } from "../primitives/primitives.ts";
import { type Case, Checks, Fields, Mismatch } from "./case.ts";
import { identityCases } from "./identity-cases.ts";
import { paddingCases } from "./padding-cases.ts";
import { pqxdhCases } from "./pqxdh-cases.ts";
import { prekeyCases } from "./prekey-cases.ts";
import { ratchetCases } from "./ratchet-cases.ts";
import { repairCases } from "./repair-cases.ts";
import { x3dhCases } from "./x3dh-cases.ts";

const FORMAT = "sealpost-vectors/1";
const PROTOCOL = 1;

const KINDS: Readonly<Record<string, (file: Fields) => Case[]>> = {
  identity: identityCases,
  padding: paddingCases,
  prekeys: prekeyCases,
  x3dh: x3dhCases,
  pqxdh: pqxdhCases,
  ratchet: ratchetCases,
  repair: repairCases,
};

export interface Result {
  readonly name: string;
  readonly outcome: "passed" | "failed" | "skipped";
  /** Why it failed. */
  readonly reason?: string;
}

/** The file is none that this runner knows, or not of the form its kind has. */
export class UnknownVectors extends Error {}

/** The cases of a parsed file. Throws `UnknownVectors`. */
export function casesOf(json: unknown): Case[] {
  try {
    const file = new Fields(json);
    if (file.value("format") !== FORMAT || file.value("protocol") !== PROTOCOL) throw new Mismatch("another format");
    const kind = KINDS[file.string("kind")];
    if (kind === undefined) throw new Mismatch("an unknown kind");
    file.optional("notes");
    const cases = kind(file);
    file.end();
    return cases;
  } catch (error) {
    if (error instanceof Mismatch) throw new UnknownVectors(error.message, { cause: error });
    throw error;
  }
}

export function runCase({ name, run }: Case, implementations: Readonly<Record<string, Primitives>>): Result {
  if (run === undefined) return { name, outcome: "skipped" };
  for (const [implementation, primitives] of Object.entries(implementations)) {
    const checks = new Checks();
    try {
      run(primitives, checks);
      if (checks.count === 0) throw new Mismatch("nothing was checked");
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return { name, outcome: "failed", reason: `${implementation}: ${reason}` };
    }
  }
  return { name, outcome: "passed" };
}
