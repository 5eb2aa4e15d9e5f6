/** The audit log for those who must look at it: replayed into files, and verified (docs/audit-replay.md). */
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import pino from "pino";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import { Unavailable } from "../../protocol/refusal.ts";
import { Found, findingText, InTheWay } from "../../replay/finding.ts";
import { countReplay, type ReplayDeps, type Replayed, replayInto } from "../../replay/replay.ts";
import { verifyFiles } from "../../replay/verify-files.ts";
import { verifyLive } from "../../replay/verify-live.ts";
import { auditRecord } from "../../streams/catalogue.ts";
import { openCodec } from "../../streams/codec.ts";
import { openKafka } from "../../streams/kafka.ts";
import { type LogConfig, type OperatorConfig, readLogConfig, readOperatorConfig } from "../config.ts";
import { type AuditService, openAuditService } from "./audit-service.ts";
import { readReplayWords, readTrusted } from "./audit-words.ts";
import { showReplayProgress } from "./replay-progress.ts";
import { type Command, EXIT, Late, NotSo, parseWords, WrongWords, writeOut } from "./terminal.ts";

type Action = (args: readonly string[], interrupted: AbortSignal) => Promise<number>;

const actions: Readonly<Record<string, Action>> = { replay, verify };

export const audit: Command = {
  summary: "for auditors: replay the audit log into files, and verify it",
  usage: `Usage: sealpost audit replay --from TIME --to TIME --out DIR [--format jsonl|csv|parquet]
                            [--agent ID]... [--action ACTION]... [--dry-run]
       sealpost audit verify --dir DIR | --file FILE | --live   [--key KEY]
                            [--size N --root ROOT] [--manifest SHA256]

replay writes what happened from --from on and before --to, once each and in the log's order, proven against a signed
checkpoint, with a manifest. Again it is the same bytes; interrupted, the same command goes on. It is taken down in the log.
verify says whether a replay, one file of it, or the log itself is as it was signed, and names the first record that is not.

  --from, --to TIME     2026-11-01 (UTC) or 2026-11-01T08:30:00Z, by occurred_at
  --agent ID            who takes part: as agent, actor, sender or recipient; may be given again
  --action ACTION       message.accepted, or message.* for all that begin so; may be given again
  --late TIME           how much later than it happened a record may have come (1h)
  --records-per-file N  (250000)
  --dry-run             only count, and check
  --force               make DIR anew, whatever replay it holds
  --allow-unverified    write also what does not verify, or without a service to ask; the manifest says so; ends with 1
  --unrecorded          without taking it down in the log
  --key KEY             the log's verifier key as its owner gave it, and again for each it had before; else the service's or
                        the manifest's word is taken
  --size N --root ROOT  the checkpoint that DIR must have been verified against, as you kept it (second and third line)
  --manifest SHA256     of DIR's manifest.json, as the log's record of the replay has it
  --url URL             the port for operators (SEALPOST_OPS_URL, http://127.0.0.1:8090)
  --json                one line of JSON

Reads SEALPOST_KAFKA_BROKERS, SEALPOST_REGISTRY_URL and SEALPOST_OPS_TOKEN; verify --dir and --file need none of them.
Ends with 0: done and verified; 1: wrong, or not verified; 2: wrong words; 3: no answer; 130: interrupted.`,
  run: async ([name = "", ...args], interrupted) => {
    const action = Object.hasOwn(actions, name) ? actions[name] : undefined;
    if (action === undefined) throw new WrongWords(`audit takes one of ${Object.keys(actions).join(", ")}`);
    try {
      return await action(args, interrupted);
    } catch (error) {
      if (error instanceof Found) throw new NotSo(findingText(error.finding), { cause: error });
      if (error instanceof InTheWay) throw new NotSo(error.message, { cause: error });
      if (error instanceof Unavailable)
        throw new Late(`${error.door} does not answer: see SEALPOST_KAFKA_BROKERS and SEALPOST_REGISTRY_URL`, {
          cause: error,
        });
      throw error;
    }
  },
};

async function replay(args: readonly string[], interrupted: AbortSignal): Promise<number> {
  const words = readReplayWords(args, Date.now());
  const { request, out, dryRun, json, allowUnverified } = words;
  const log = configOf(() => readLogConfig());
  const service = await serviceFor(words, interrupted);
  return withLog(log, interrupted, service, async (deps) => {
    if (dryRun || out === undefined) {
      const counted = await withTemporary((folder) => countReplay(folder, request, deps));
      const { records, repeats, finding } = counted;
      const facts = { records, by_action: Object.fromEntries(counted.byAction), repeats, finding };
      await writeOut(json ? `${JSON.stringify(facts)}\n` : `${countsText(records, counted.byAction)}`);
      if (finding !== null) throw new Found(finding);
      return counted.verified === null ? EXIT.notDone : EXIT.done;
    }
    if (!words.unrecorded) await service?.record(request, null);
    const replayed = await replayInto(out, request, { force: words.force, allowUnverified }, deps);
    const { manifestSha256, manifest } = replayed;
    // What was there is told of by whoever made it; before it is vouched for again, it is looked at as anybody's.
    if (replayed.wasThere) await verifyAgain(out, await keysOf(replayed, words.keys, service), deps);
    else if (!words.unrecorded) await service?.record(request, { records: manifest.records, manifestSha256 });
    await writeOut(json ? `${JSON.stringify(factsOf(out, replayed))}\n` : replayedText(out, replayed));
    return manifest.verified === null ? EXIT.notDone : EXIT.done;
  });
}

/** Never the key that the folder itself names, where anybody else can be asked. */
async function keysOf({ manifest: { places } }: Replayed, pinned: readonly string[], service: AuditService | null) {
  return pinned.length > 0 || service === null || places === null ? pinned : service.keysFor(places.last + 1);
}

/** @throws Found */
async function verifyAgain(
  out: string,
  verifierKeys: readonly string[],
  { signal, progress }: ReplayDeps,
): Promise<void> {
  const { finding } = await verifyFiles(out, {
    ...{ proving: nodePrimitives, verifierKeys, only: null, signal },
    onVerified: (done, total) => progress("checking", done, total),
  });
  if (finding !== null) throw new Found(finding);
}

/** Null: nobody vouches, and nobody takes it down, as the words allow. */
async function serviceFor(
  words: Pick<ReturnType<typeof readReplayWords>, "url" | "keys" | "allowUnverified" | "unrecorded" | "dryRun">,
  signal: AbortSignal,
): Promise<AuditService | null> {
  const mayBeWithout = words.allowUnverified && (words.unrecorded || words.dryRun);
  try {
    return await openAuditService(
      configOf(() => readOperatorConfig(words.url)),
      words.keys,
      signal,
    );
  } catch (error) {
    if (mayBeWithout && !signal.aborted) return null;
    throw error;
  }
}

async function verify(args: readonly string[], interrupted: AbortSignal): Promise<number> {
  const { values, positionals } = parseWords(args, {
    ...{ dir: { type: "string" }, file: { type: "string" }, live: { type: "boolean", default: false } },
    ...{ key: { type: "string", multiple: true }, url: { type: "string" }, json: { type: "boolean", default: false } },
    ...{ size: { type: "string" }, root: { type: "string" }, manifest: { type: "string" } },
  } as const);
  const named = [values.dir, values.file, values.live ? "" : undefined].filter((one) => one !== undefined);
  if (positionals.length > 0 || named.length !== 1)
    throw new WrongWords("audit verify takes one of --dir DIR, --file FILE and --live");
  const keys = values.key ?? [];
  const trusted = readTrusted(values);
  if (values.live && (trusted.head !== null || trusted.manifestSha256 !== null))
    throw new WrongWords(
      "--size, --root and --manifest are for --dir and --file: --live asks for the newest checkpoint",
    );
  if (values.live) return verifyLog(keys, values, interrupted);
  const [folder, only] =
    values.file === undefined ? [values.dir ?? "", null] : [path.dirname(values.file), path.basename(values.file)];
  const shown = showReplayProgress(process.stderr, Date.now);
  const onVerified = (done: number, total: number) => shown.sink("verifying", done, total);
  const verified = await verifyFiles(folder, {
    ...{ proving: nodePrimitives, verifierKeys: keys, trusted, only, signal: interrupted, onVerified },
  }).finally(shown.close);
  const { finding, records, checkpoint } = verified;
  if (values.json) await writeOut(`${JSON.stringify(verified)}\n`);
  if (finding !== null) throw new Found(finding);
  if (checkpoint === null) throw new NotSo(`${records} records are as they were written, but were never verified`);
  if (values.json) return EXIT.done;
  return writeOut(`${records} records are as signed by ${checkpoint.origin} in its checkpoint of ${checkpoint.size}\n`);
}

async function verifyLog(
  keys: readonly string[],
  { url, json }: { readonly url?: string | undefined; readonly json: boolean },
  interrupted: AbortSignal,
): Promise<number> {
  const config = configOf(() => readLogConfig());
  const service = await openAuditService(
    configOf(() => readOperatorConfig(url)),
    keys,
    interrupted,
  );
  return withLog(config, interrupted, service, async (deps) => {
    const verified = await withTemporary((folder) => verifyLive(folder, { ...deps, log: service }));
    const { finding, places, checkpoint, newer } = verified;
    if (json) await writeOut(`${JSON.stringify(verified)}\n`);
    if (finding !== null) throw new Found(finding);
    if (json) return EXIT.done;
    const range = places === null ? "no record is" : `records ${places.first} to ${places.last} are`;
    const signed = `as signed by ${checkpoint.origin} in its checkpoint of ${checkpoint.size}`;
    return writeOut(`${range} ${signed}; ${newer} are newer\n`);
  });
}

async function withLog(
  config: LogConfig,
  signal: AbortSignal,
  log: AuditService | null,
  work: (deps: ReplayDeps) => Promise<number>,
): Promise<number> {
  const quiet = pino({ level: "silent" });
  const kafka = openKafka({ ...config.kafka, clientId: "sealpost-audit-replay", log: quiet });
  const shown = showReplayProgress(process.stderr, Date.now);
  try {
    const topic = auditRecord;
    const codec = await openCodec({ registryUrl: config.registryUrl, register: false, topics: [topic] });
    const deps = { kafka, codec, topic, log, signal, proving: nodePrimitives, progress: shown.sink, now: Date.now };
    return await work(deps);
  } finally {
    shown.close();
    await kafka.close();
  }
}

async function withTemporary<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(path.join(os.tmpdir(), "sealpost-audit-"));
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** @throws WrongWords */
function configOf<Config extends LogConfig | OperatorConfig>(read: () => Config): Config {
  try {
    return read();
  } catch (error) {
    throw new WrongWords(error instanceof Error ? error.message.replaceAll(/\s+/g, " ") : "", { cause: error });
  }
}

function countsText(records: number, byAction: ReadonlyMap<string, number>): string {
  const lines = Array.from(byAction, ([action, count]) => `${action.padEnd(28)}${count}\n`);
  return `${lines.join("")}${"records".padEnd(28)}${records}\n`;
}

function factsOf(out: string, { manifest, manifestSha256, wasThere }: Replayed) {
  const { records, files, places, verified, unverified, closed } = manifest;
  return {
    ...{ out, records, files: files.length, places, manifest_sha256: manifestSha256, was_there: wasThere },
    ...{ closed, verified: verified !== null, unverified },
  };
}

function replayedText(out: string, { manifest, manifestSha256, wasThere }: Replayed): string {
  const { records, files, verified, unverified, closed, trimmed } = manifest;
  const lines = [
    `${records} records in ${files.length} files in ${out}${wasThere ? ", as they were" : ""}`,
    `manifest sha256:${manifestSha256}`,
    verified === null ? `NOT VERIFIED: ${unverified}` : `as signed in ${verified.checkpoint.split("\n", 2).join(" ")}`,
    ...(closed ? [] : ["the range is not closed: records of it may still come; run it again later for all of them"]),
    ...(trimmed.length === 0 ? [] : [`Kafka no longer has the beginning of partitions ${trimmed.join(", ")}`]),
  ];
  return `${lines.join("\n")}\n`;
}
