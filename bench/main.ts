/**
 * `npm run bench -- hop|pipeline|claims`: measures on real servers, started for the run. docs/benchmarks.md explains the figures.
 */
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { showProgress } from "../infra/local/progress.ts";
import { startStack } from "../infra/local/stack.ts";
import { bareKafkajsHop } from "./bare-kafkajs.ts";
import { benchClaims, type ClaimsResult } from "./claims.ts";
import { benchHop, type HopResult } from "./hop.ts";
import { type LatencySummary, summarise } from "./open-loop.ts";
import { findMaximum, openPipeline, type PipelineRun } from "./pipeline.ts";

const usage = `Usage: npm run bench -- hop|pipeline|claims [options]

  hop        one message through our producer and runner, against bare kafkajs
  pipeline   from an agent's send to its peer's decryption, against one bare kafkajs hop
  claims     bundles claimed by 64 at once, of one agent and of 100 (of the options only --json)

  --rate N      messages per second, open loop (500)
  --seconds N   of measurement (15)
  --warmup N    seconds at the same rate before it (45)
  --bytes N     of content (512)
  --pairs N     pairs of agents, pipeline only (10)
  --max         pipeline only: also look for the highest sustained rate
  --json        one line of JSON on stdout
`;

/** What an envelope adds to its content: ids, keys, nonce, tag, padding of this size. */
const envelopeBytes = 300;

process.exitCode = await main();

async function main(): Promise<number> {
  const options = readArguments();
  if (options === null) return 2;
  const display = showProgress(process.stderr);
  // biome-ignore lint/style/noProcessEnv: the bench may run against servers named in the environment, as the stack does.
  const stack = await startStack({ env: process.env, ephemeral: true, progress: display.sink });
  display.close();
  try {
    if (options.what === "hop") {
      const result = await benchHop(stack.urls, options);
      print(options.json, { bench: "hop", machine: machine(), ...result }, () => showHop(result));
      return 0;
    }
    if (options.what === "claims") {
      const result = await benchClaims(stack.urls);
      print(options.json, { bench: "claims", machine: machine(), ...result }, () => showClaims(result));
      return 0;
    }
    const pipeline = await openPipeline(stack, options.pairs);
    try {
      const run = await pipeline.run(options);
      const load = { brokers: stack.urls.kafkaBrokers, bytes: options.bytes + envelopeBytes, partitions: 8 };
      const bare = summarise(await bareKafkajsHop({ ...load, ...options }));
      const maximum = options.max ? await findMaximum(pipeline, { ...options, ratePerSecond: 1_000 }) : null;
      const result = {
        bench: "pipeline",
        machine: machine(),
        pairs: options.pairs,
        ...run,
        bareKafkajs: bare,
        maximum,
      };
      print(options.json, result, () => showPipeline(run, bare, maximum));
      return 0;
    } finally {
      await pipeline.close();
    }
  } finally {
    await stack.stop();
  }
}

function readArguments() {
  const number = (text: string, name: string) => {
    const value = Number(text);
    if (!Number.isFinite(value) || value <= 0) throw new Error(`--${name} takes a number above 0`);
    return value;
  };
  try {
    const { values, positionals } = parseArgs({
      options: {
        rate: { type: "string", default: "500" },
        seconds: { type: "string", default: "15" },
        warmup: { type: "string", default: "45" },
        bytes: { type: "string", default: "512" },
        pairs: { type: "string", default: "10" },
        max: { type: "boolean", default: false },
        json: { type: "boolean", default: false },
      },
      allowPositionals: true,
    });
    const [what] = positionals;
    if (what !== "hop" && what !== "pipeline" && what !== "claims") throw new Error("say hop, pipeline or claims");
    return {
      what,
      json: values.json,
      max: values.max,
      ratePerSecond: number(values.rate, "rate"),
      seconds: number(values.seconds, "seconds"),
      warmUpSeconds: number(values.warmup, "warmup"),
      bytes: Math.max(8, number(values.bytes, "bytes")),
      pairs: number(values.pairs, "pairs"),
    };
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : ""}\n\n${usage}`);
    return null;
  }
}

function machine() {
  return { node: process.version, cores: cpus().length, cpu: cpus()[0]?.model ?? "unknown" };
}

function print(json: boolean, result: object, show: () => void): void {
  if (json) console.log(JSON.stringify(result));
  else show();
}

function showHop({ ratePerSecond, seconds, bytes, ours, bareKafkajs }: HopResult): void {
  console.log(`one hop, ${ratePerSecond} msg/s for ${seconds} s, ${bytes} bytes; latency from the intended send`);
  console.table({ "our producer and runner": ours, "bare kafkajs": bareKafkajs });
}

function showClaims({ claimers, connections, oneTarget, manyTargets }: ClaimsResult): void {
  console.log(
    `${claimers} claimers at once over ${connections} connections to PostgreSQL, no bundle without one-time keys`,
  );
  const row = ({ claims, claimsPerSecond, latency }: ClaimsResult["oneTarget"]) => ({
    claims,
    claimsPerSecond,
    ...latency,
  });
  console.table({ "of one agent": row(oneTarget), [`of ${manyTargets.targets} agents`]: row(manyTargets) });
}

function showPipeline(run: PipelineRun, bare: LatencySummary, maximum: PipelineRun | null): void {
  console.log(`${run.ratePerSecond} msg/s: sent ${run.sent}, accepted ${run.accepted}, received ${run.received}`);
  console.table({
    "send to accepted": run.sendToAccepted,
    "send to receive, decrypted": run.sendToReceive,
    "one hop of bare kafkajs": bare,
  });
  console.log("CPU seconds per 1,000 messages");
  console.table(run.cpuPer1000);
  if (maximum === null) return;
  console.log(
    `highest sustained rate: ${maximum.ratePerSecond} msg/s, p50 ${maximum.sendToReceive.p50Ms} ms, p99 ${maximum.sendToReceive.p99Ms} ms`,
  );
  console.table(maximum.cpuPer1000);
}
