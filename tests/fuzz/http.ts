/** Every operation of the OpenAPI documents that the service serves, called by Schemathesis through the signing proxy. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import path from "node:path";
import { text } from "node:stream/consumers";
import type { Chance } from "../../sdk/chance.ts";
import { type OpenApiDocument, openSigningProxy, operationsOf } from "./signing-proxy.ts";
import type { Stage } from "./stage.ts";
import { Tally } from "./tally.ts";

const schemathesis = path.resolve(import.meta.dirname, "../../.sealpost/fuzz-venv/bin/schemathesis");
/** It keeps to its time by itself; what it found is told at its end only. */
const LATE_MS_MAX = 60_000;

/** What an answer must be like, by the document. */
const CHECKS = [
  "not_a_server_error",
  "status_code_conformance",
  "content_type_conformance",
  "response_headers_conformance",
  "response_schema_conformance",
];

/** @throws Error that names what to install */
export function requireSchemathesis(): void {
  if (!existsSync(schemathesis)) throw new Error("schemathesis is not installed: sh tests/fuzz/install.sh");
}

/** What agents and owners are served, and then what operators are. */
export async function fuzzHttp(stage: Stage, chance: Chance, seconds: number): Promise<readonly Tally[]> {
  const operators = { authorization: `Bearer ${stage.opsToken}` };
  return [
    await fuzzDocument(stage, chance, { part: "http", targetUrl: stage.url, headers: {}, seconds: seconds * 0.7 }),
    await fuzzDocument(stage, chance, {
      part: "http for operators",
      targetUrl: stage.opsUrl,
      headers: operators,
      seconds: seconds * 0.3,
    }),
  ];
}

interface DocumentOptions {
  readonly part: string;
  readonly targetUrl: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly seconds: number;
}

async function fuzzDocument(stage: Stage, chance: Chance, options: DocumentOptions): Promise<Tally> {
  const { part, targetUrl, headers, seconds } = options;
  const document = (await (await fetch(`${targetUrl}/openapi.json`, { headers })).json()) as OpenApiDocument;
  const tally = new Tally(
    part,
    operationsOf(document).map(({ name }) => name),
  );
  const proxy = await openSigningProxy({ stage, targetUrl, document, tally, chance });
  try {
    const said = await runSchemathesis(proxy.url, chance.below(2 ** 31), Math.max(5, Math.round(seconds)), headers);
    if (said !== null) tally.finding(`schemathesis: ${said}`);
  } finally {
    await proxy.close();
  }
  return tally;
}

/** What it found, or null. One worker: with several, Python 3.11 fails in its own parser now and then. */
async function runSchemathesis(
  url: string,
  seed: number,
  seconds: number,
  headers: Readonly<Record<string, string>>,
): Promise<string | null> {
  const child = spawn(
    schemathesis,
    [
      ...["run", `${url}/openapi.json`, "--seed", String(seed), "--max-time", String(seconds)],
      ...["--phases", "examples,coverage,fuzzing", "--workers", "1", "--mode", "all"],
      ...["--checks", CHECKS.join(","), "--continue-on-failure", "--no-shrink", "--warnings", "off"],
      ...["--generation-database", "none", "--suppress-health-check", "all", "--request-timeout", "40", "--no-color"],
      ...Object.entries(headers).flatMap(([name, value]) => ["-H", `${name}: ${value}`]),
    ],
    { stdio: ["ignore", "pipe", "pipe"], cwd: stageFolder(), timeout: seconds * 1_000 + LATE_MS_MAX },
  );
  const [[code, signal], out, err] = await Promise.all([once(child, "exit"), text(child.stdout), text(child.stderr)]);
  if (code === 0) return null;
  return `ended with ${code ?? signal}: ${(out + err).slice(-3_000)}`;
}

/** It leaves files of its own beside where it runs. */
function stageFolder(): string {
  return path.dirname(path.dirname(schemathesis));
}
