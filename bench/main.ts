/**
 * `npm run bench -- hop|pipeline|claims|encryption|stalled|drain|overload|replay|transactions`: measures on real servers, started for the run. docs/benchmarks.md explains the figures.
 */
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { showProgress } from "../infra/local/progress.ts";
import { startStack } from "../infra/local/stack.ts";
import { FORMATS } from "../replay/request.ts";
import { bareKafkajsHop } from "./bare-kafkajs.ts";
import { benchClaims, type ClaimsResult } from "./claims.ts";
import { benchDrain } from "./drain.ts";
import { benchEncryption, type EncryptionOptions, type EncryptionRun } from "./encryption.ts";
import { benchHop, type HopResult } from "./hop.ts";
import { type LatencySummary, summarise } from "./open-loop.ts";
import { benchOverload, type OverloadRun } from "./overload.ts";
import { findMaximum, openPipeline, type PipelineRun } from "./pipeline.ts";
import { benchReplay } from "./replay.ts";
import { benchStalled } from "./stalled.ts";
import { benchTransactions, type TransactionsRun } from "./transactions.ts";

const usage = `Usage: npm run bench -- hop|pipeline|claims|encryption|stalled|drain|overload|replay|transactions [options]

  hop        one message through our producer and runner, against bare kafkajs
  pipeline   from an agent's send to its peer's decryption, against one bare kafkajs hop
  claims     bundles claimed by 64 at once, of one agent and of 100 (of the options only --json)
  encryption commands through the encryption consumer, with and without caches of states (--messages, --pairs, --bytes, --json)
  replay     a replay of the audit log, to Parquet, JSON lines and CSV, and its verification (--records, --python, --json)
  transactions  rows of steps published plainly and in transactions (of the options only --seconds, of each of 12 runs, and --json)
  overload   twice the rate that can be done: how long the accepted wait, how many are refused, whether any is lost (--seconds, --bytes, --json)
  drain      a full mailbox, filled, and drained over each door (of the options only --bytes and --json)

  --rate N      messages per second, open loop (500)
  --seconds N   of measurement (15)
  --warmup N    seconds at the same rate before it (45)
  --bytes N     of content (512)
  --pairs N     pairs of agents: pipeline (10), encryption (5000)
  --messages N  encryption only (20000)
  --records N   replay only (1000000)
  --formats F,… replay only (jsonl,csv,parquet)
  --python PATH replay only: a Python with pyarrow, which reads the Parquet back (python3)
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
    if (options.what === "encryption") {
      const { messages, bytes, pairs = 5_000 } = options;
      const runs = await benchEncryption(stack, { messages, bytes, pairs });
      const result = { bench: "encryption", machine: machine(), messages, pairs, bytes, runs };
      print(options.json, result, () => showEncryption(result));
      return 0;
    }
    if (options.what === "stalled") {
      const result = await benchStalled(stack.urls);
      print(options.json, { bench: "stalled", machine: machine(), ...result }, () =>
        console.table({ stalled: result }),
      );
      return 0;
    }
    if (options.what === "replay") {
      const result = await benchReplay(stack.urls, options);
      print(options.json, { bench: "replay", machine: machine(), ...result }, () => {
        console.table(result.runs);
        console.log(result.reader);
      });
      return 0;
    }
    if (options.what === "transactions") {
      const runs = await benchTransactions(stack, options.seconds);
      print(options.json, { bench: "transactions", machine: machine(), runs }, () => showTransactions(runs));
      return 0;
    }
    if (options.what === "overload") {
      const { half, twice, ...result } = await benchOverload(stack, options);
      print(options.json, { bench: "overload", machine: machine(), ...result, half, twice }, () => {
        console.log(result);
        console.table({ half: flat(half), twice: flat(twice) });
      });
      return result.lost === 0 ? 0 : 1;
    }
    if (options.what === "drain") {
      const runs = await benchDrain(stack, options.bytes);
      print(options.json, { bench: "drain", machine: machine(), runs }, () => console.table(runs));
      return 0;
    }
    const { pairs = 10 } = options;
    const pipeline = await openPipeline(stack, pairs);
    try {
      const run = await pipeline.run({ ...options, pairs });
      const load = { brokers: stack.urls.kafkaBrokers, bytes: options.bytes + envelopeBytes, partitions: 8 };
      const bare = summarise(await bareKafkajsHop({ ...load, ...options }));
      const maximum = options.max ? await findMaximum(pipeline, { ...options, pairs, ratePerSecond: 1_000 }) : null;
      const result = {
        bench: "pipeline",
        machine: machine(),
        pairs,
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
        pairs: { type: "string" },
        messages: { type: "string", default: "20000" },
        records: { type: "string", default: "1000000" },
        formats: { type: "string", default: FORMATS.join(",") },
        python: { type: "string", default: "python3" },
        max: { type: "boolean", default: false },
        json: { type: "boolean", default: false },
      },
      allowPositionals: true,
    });
    const [what] = positionals;
    if (
      what !== "hop" &&
      what !== "pipeline" &&
      what !== "claims" &&
      what !== "encryption" &&
      what !== "stalled" &&
      what !== "drain" &&
      what !== "overload" &&
      what !== "replay" &&
      what !== "transactions"
    ) {
      throw new Error("say hop, pipeline, claims, encryption, stalled, drain, overload, replay or transactions");
    }
    return {
      what,
      json: values.json,
      max: values.max,
      ratePerSecond: number(values.rate, "rate"),
      seconds: number(values.seconds, "seconds"),
      warmUpSeconds: number(values.warmup, "warmup"),
      bytes: Math.max(8, number(values.bytes, "bytes")),
      ...(values.pairs === undefined ? {} : { pairs: number(values.pairs, "pairs") }),
      messages: number(values.messages, "messages"),
      records: number(values.records, "records"),
      python: values.python,
      formats: FORMATS.filter((format) => values.formats.split(",").includes(format)).toReversed(),
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

function showTransactions(runs: readonly TransactionsRun[]): void {
  console.table(
    runs.map(({ how, rowsPerStep, rowsPerSecond, latency: { p50Ms, p99Ms }, cpuPer1000 }) => {
      return { how, rowsPerStep, rowsPerSecond, p50Ms, p99Ms, ...cpuPer1000 };
    }),
  );
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

function showEncryption({
  messages,
  pairs,
  runs,
}: EncryptionOptions & { readonly runs: readonly EncryptionRun[] }): void {
  console.log(
    `${messages} messages of ${pairs} pairs; where states were looked for before the row; CPU s per 1,000 by process`,
  );
  console.table(
    runs.map(({ encryption: { p50Ms, p99Ms }, cpuPer1000, ...figures }) => ({
      ...figures,
      p50Ms,
      p99Ms,
      ...prefixed(cpuPer1000),
    })),
  );
}

function prefixed(cpu: Readonly<Record<string, number>>) {
  return Object.fromEntries(Object.entries(cpu).map(([name, seconds]) => [`CPU ${name}`, seconds]));
}

function flat({ accepted, shed, ...run }: OverloadRun) {
  const { p50Ms, p99Ms, maxMs } = accepted;
  return { ...run, acceptedP50Ms: p50Ms, acceptedP99Ms: p99Ms, acceptedMaxMs: maxMs, shedP99Ms: shed.p99Ms };
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
