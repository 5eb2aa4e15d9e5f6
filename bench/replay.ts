/**
 * A replay of many audit records: they are put into a real Kafka with their Merkle log, `sealpost audit replay` runs over them as a process of its own, and
 * a reader of another make opens what it wrote. What the service says about its log is said here by a small server with the same calls.
 */
import { execFile, spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import pino from "pino";
import type { StackUrls } from "../infra/local/stack.ts";
import { encodeBase64 } from "../protocol/audit/note.ts";
import type { Format } from "../replay/request.ts";
import { auditRecord } from "../streams/catalogue.ts";
import { openCodec } from "../streams/codec.ts";
import { toOutgoing } from "../streams/headers.ts";
import { openKafka } from "../streams/kafka.ts";
import { openProducer } from "../streams/producer.ts";
import { applyTopics } from "../streams/topics.ts";
import { auditRecordAt, RECORDS_BEGIN } from "../tests/audit-records.ts";
import { SignedLog } from "../tests/signed-log.ts";

const run = promisify(execFile);
const BATCH = 2_000;
const TOKEN = "a-token-of-the-bench-0123456789abcdef";
const SAMPLE_MS = 250;

export interface ReplayRun {
  readonly command: string;
  readonly seconds: number;
  readonly recordsPerSecond: number;
  /** Of the process, by samples: on a machine that others use as well, the rate follows from it and not from the clock. */
  readonly cpuSeconds: number;
  /** Resident memory of the process at its highest, by samples. */
  readonly peakRssMb: number;
  readonly outputMb: number;
}

export interface ReplayResult {
  readonly records: number;
  readonly runs: readonly ReplayRun[];
  /** What another reader found in the Parquet; or why it was not asked. */
  readonly reader: string;
}

export interface ReplayOptions {
  readonly records: number;
  readonly formats: readonly Format[];
  /** A Python with pyarrow. */
  readonly python: string;
}

export async function benchReplay(urls: StackUrls, { records, formats, python }: ReplayOptions): Promise<ReplayResult> {
  const signed = await fill(urls, records);
  const service = await serve(signed);
  const folder = await mkdtemp(path.join(os.tmpdir(), "sealpost-bench-replay-"));
  const env = {
    SEALPOST_KAFKA_BROKERS: urls.kafkaBrokers.join(","),
    SEALPOST_REGISTRY_URL: urls.registryUrl,
    SEALPOST_OPS_URL: `http://127.0.0.1:${(service.address() as AddressInfo).port}`,
    SEALPOST_OPS_TOKEN: TOKEN,
  };
  try {
    const runs: ReplayRun[] = [];
    for (const format of formats) {
      const out = path.join(folder, format);
      const made = await measure(replayArgs(format, out), env, records);
      runs.push({ ...made, command: `replay ${format}`, outputMb: await sizeMb(out) });
    }
    const [first = "parquet"] = formats;
    const out = path.join(folder, first);
    const reader =
      first === "parquet" ? await readByAnother(python, out, records) : "skipped: no Parquet was asked for";
    process.stderr.write(`${JSON.stringify({ records, runs, reader })}\n`);
    runs.push({ ...(await measure(["verify", "--dir", out], env, records)), command: "verify --dir", outputMb: 0 });
    runs.push({ ...(await measure(["verify", "--live"], env, records)), command: "verify --live", outputMb: 0 });
    return { records, runs, reader };
  } finally {
    service.close();
    await rm(folder, { recursive: true, force: true });
  }
}

async function fill(urls: StackUrls, records: number): Promise<SignedLog> {
  const log = pino({ level: "silent" });
  const kafka = openKafka({ brokers: urls.kafkaBrokers, clientId: "bench-replay", log });
  await applyTopics(kafka, { topics: [auditRecord] });
  const codec = await openCodec({ registryUrl: urls.registryUrl, register: true, topics: [auditRecord] });
  const producer = openProducer({ kafka, log });
  const signed = new SignedLog();
  for (let start = 0; start < records; start += BATCH) {
    const some = Array.from({ length: Math.min(BATCH, records - start) }, (_, n) => auditRecordAt(start + n));
    signed.append(some);
    const events = some.map((value) => {
      const { eventId: id, agentId: key, occurredAt: time } = value;
      return toOutgoing(codec, { topic: auditRecord, key, id, source: "/sealpost/audit", subject: key, time, value });
    });
    await producer.append(events);
  }
  signed.sign();
  await producer.close();
  await kafka.close();
  return signed;
}

/** The four calls that a replay makes. */
async function serve(signed: SignedLog): Promise<Server> {
  const server = createServer(async (request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://service");
    if (pathname === "/ops/audit/replays") return void response.writeHead(202).end('{"event_ids":[]}');
    if (pathname === "/ops/audit/key") return void response.end(`${signed.verifierKey}\n`);
    if (pathname === "/ops/audit/checkpoint") return void response.end(await signed.checkpoint());
    const [index, size] = [Number(searchParams.get("index")), Number(searchParams.get("size"))];
    const proof = (await signed.inclusion(index, size)).map(encodeBase64);
    response.end(JSON.stringify({ index, size, proof }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

function replayArgs(format: Format, out: string): readonly string[] {
  // The records' times are of another day than their appends: the log is read up to today.
  const late = `${Math.ceil((Date.now() - RECORDS_BEGIN) / 86_400_000) + 1}d`;
  const range = [
    "--from",
    new Date(RECORDS_BEGIN).toISOString(),
    "--to",
    new Date(RECORDS_BEGIN + 86_400_000).toISOString(),
  ];
  return ["replay", ...range, "--late", late, "--format", format, "--out", out];
}

async function measure(args: readonly string[], env: Record<string, string>, records: number) {
  const entry = path.join(import.meta.dirname, "..", "bin", "sealpost.ts");
  const begunAt = performance.now();
  const child = spawn(process.execPath, [entry, "audit", ...args, "--json"], {
    env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  let [peakKb, cpuSeconds] = [0, 0];
  const sampling = setInterval(async () => {
    const { stdout } = await run("ps", ["-o", "rss=,cputimes=", "-p", String(child.pid)]).catch(() => {
      return { stdout: "0 0" };
    });
    const [rss = 0, cpu = 0] = stdout.trim().split(/\s+/).map(Number);
    [peakKb, cpuSeconds] = [Math.max(peakKb, rss), Math.max(cpuSeconds, cpu)];
  }, SAMPLE_MS);
  child.stdout.resume();
  const code = await new Promise<number | null>((resolve) => child.once("exit", resolve));
  clearInterval(sampling);
  if (code !== 0) throw new Error(`audit ${args[0]} ended with ${code}`);
  const seconds = (performance.now() - begunAt) / 1_000;
  return {
    seconds: Math.round(seconds * 10) / 10,
    recordsPerSecond: Math.round(records / seconds),
    cpuSeconds,
    peakRssMb: Math.round(peakKb / 1_024),
  };
}

async function sizeMb(folder: string): Promise<number> {
  const sizes = await Promise.all((await readdir(folder)).map((name) => stat(path.join(folder, name))));
  return Math.round(sizes.reduce((sum, { size }) => sum + size, 0) / 1_048_576);
}

/** Counts and sums by pyarrow, compared with what was put in. */
async function readByAnother(python: string, folder: string, records: number): Promise<string> {
  const script = `
import glob, json, sys
import pyarrow, pyarrow.compute as c, pyarrow.parquet as q
t = pyarrow.concat_tables([q.read_table(f) for f in sorted(glob.glob(sys.argv[1] + "/audit-*.parquet"))])
s = lambda name: c.sum(t[name]).as_py()
print(json.dumps([pyarrow.__version__, t.num_rows, s("log_index"), s("size"), c.count_distinct(t["event_id"]).as_py(), t["message_id"].null_count]))`;
  const read = await run(python, ["-c", script, folder]).catch((error: { readonly stderr?: string }) => {
    return { stdout: "", reason: error.stderr?.trim().split("\n").at(-1) ?? "it does not start" };
  });
  if ("reason" in read) return `skipped: ${python} has no pyarrow (${read.reason}); name another with --python`;
  const [version, ...found] = JSON.parse(read.stdout) as [string, ...number[]];
  let [indexes, sizes, without] = [0, 0, 0];
  for (let n = 0; n < records; n++) {
    const { size } = auditRecordAt(n);
    indexes += n;
    sizes += size ?? 0;
    if (size === null) without += 1;
  }
  const expected = [records, indexes, sizes, records, without];
  if (JSON.stringify(found) !== JSON.stringify(expected)) throw new Error(`pyarrow read ${found}, not ${expected}`);
  const { files } = JSON.parse(await readFile(path.join(folder, "manifest.json"), "utf8")) as { files: unknown[] };
  return `pyarrow ${version} read ${records} records of ${files.length} files: the sums are those that were put in`;
}
