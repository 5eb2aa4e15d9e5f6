/**
 * A replay: what the audit log says about a span of time, as files that can be checked.
 *
 *     Kafka ─ read ─► spool ─ check ─► leaves.bin, proven ─ write ─► files ─► manifest.json
 *
 * Promises: the same range of the same log is the same bytes; memory holds one bucket and one row group, however long the range is; interrupted, it goes
 * on when it is called again. There is a manifest when, and only when, everything else is there.
 */
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import path from "node:path";
import type { AuditRecord } from "../schemas/values.ts";
import type { Codec } from "../streams/codec.ts";
import type { KafkaDoor } from "../streams/kafka.ts";
import type { Topic } from "../streams/topic.ts";
import { type AuditLog, openSigned, type Proving } from "./audit-log.ts";
import { type Checked, checkSpool } from "./checking.ts";
import { planWindow } from "./edges.ts";
import { type Finding, Found, findingText, InTheWay } from "./finding.ts";
import {
  LEAVES_NAME,
  MANIFEST_NAME,
  type Manifest,
  manifest,
  manifestText,
  requestLines,
  type WrittenFile,
} from "./manifest.ts";
import { readIntoSpool } from "./reading.ts";
import { type ReplayRequest, selectorOf } from "./request.ts";
import { isClosed, type Run, runOf } from "./run.ts";
import { openSpool } from "./spool.ts";
import { type ReplayState, readState, STATE_NAME, writeState, writeWhole } from "./state.ts";
import { checkFile, digestOf, writeFiles } from "./writing.ts";

export type Phase = "reading" | "checking" | "writing";
export type Progress = (phase: Phase, done: number, total: number) => void;

export interface ReplayDeps {
  readonly kafka: KafkaDoor;
  readonly codec: Codec;
  readonly topic: Topic<AuditRecord>;
  readonly proving: Proving;
  readonly log: AuditLog | null;
  readonly signal: AbortSignal;
  readonly progress: Progress;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface ReplayOptions {
  /** What lies in the folder of an earlier replay goes. */
  readonly force: boolean;
  /** Writes what is there, whatever is wrong with it; the manifest says so. */
  readonly allowUnverified: boolean;
}

export interface Replayed {
  readonly manifest: Manifest;
  /** Of `manifest.json`. */
  readonly manifestSha256: string;
  /** It was all there before, and is as it was. */
  readonly wasThere: boolean;
}

const SPOOL_NAME = "spool";
const OWN_NAMES =
  /^(audit-\d+-\d+\.(jsonl|csv|parquet)|leaves\.bin|spool|(manifest|replay-state)\.json(\.part)?|records\.part)$/;

/** Rejects with `Found`, `InTheWay`, `Unavailable`, and with the signal's reason. */
export async function replayInto(
  folder: string,
  request: ReplayRequest,
  { force, allowUnverified }: ReplayOptions,
  deps: ReplayDeps,
): Promise<Replayed> {
  await mkdir(folder, { recursive: true });
  await makeRoom(folder, force);
  const there = await finishedReplay(folder, request);
  if (there !== null) return there;
  const begun = await readState(folder);
  if (begun !== null && !isSame(begun.request, request)) {
    throw new InTheWay(
      `${folder} holds another replay that was interrupted: end it, or name another --out, or --force`,
    );
  }
  const save = (state: ReplayState) => writeState(folder, state);
  const planned = begun ?? (await plan(request, deps).catch(planUnproven(request, deps, allowUnverified)));
  const { state, run, checked, spool } = await readAndCheck(folder, planned, save, deps);
  if (checked.finding !== null && !allowUnverified) {
    await removeOwn(folder);
    throw new Found(checked.finding);
  }
  const { signal, codec, topic, progress } = deps;
  const files = await writeFiles(state, {
    ...{ spool, codec, topic, folder, save, signal, isSelected: selectorOf(request) },
    onWritten: (done) => progress("writing", done, checked.records),
  });
  const made = await manifestOf(folder, topic.name, { state, run, checked, files });
  await writeWhole(path.join(folder, MANIFEST_NAME), manifestText(made));
  await spool.remove();
  await rm(path.join(folder, STATE_NAME), { force: true });
  const { sha256: manifestSha256 } = await digestOf(path.join(folder, MANIFEST_NAME));
  return { manifest: made, manifestSha256, wasThere: false };
}

/** Counts what a replay would write, and checks it as one; `folder` is for what is under way, and is removed. */
export async function countReplay(folder: string, request: ReplayRequest, deps: ReplayDeps): Promise<Checked> {
  try {
    const { checked } = await readAndCheck(folder, await plan(request, deps), async () => undefined, deps);
    return checked;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function readAndCheck(
  folder: string,
  planned: ReplayState,
  save: (state: ReplayState) => Promise<void>,
  deps: ReplayDeps,
) {
  const { kafka, codec, topic, proving, signal, progress } = deps;
  // What was begun without a checkpoint has no edges that could be proven, also when it goes on with one.
  const log = planned.size_max === null ? null : deps.log;
  const isSelected = selectorOf(planned.request);
  const spool = await openSpool(path.join(folder, SPOOL_NAME), new Map(planned.spooled));
  await save(planned);
  const onRead = (done: number, total: number) => progress("reading", done, total);
  const state = await readIntoSpool(planned, { kafka, codec, topic, signal, isSelected, spool, save, onRead });
  const onChecked = (done: number, total: number) => progress("checking", done, total);
  const run = runOf(state);
  const checking = { spool, codec, topic, proving, log, folder, isSelected, signal, onChecked };
  const checked = await checkSpool(state, run, checking);
  return { state, run, checked, spool };
}

/** Without a checkpoint, where the newest does not hold and that is allowed. */
function planUnproven(request: ReplayRequest, deps: ReplayDeps, allowUnverified: boolean) {
  return (error: unknown): Promise<ReplayState> => {
    if (error instanceof Found && allowUnverified) return plan(request, { ...deps, log: null });
    throw error;
  };
}

/** The checkpoint is asked for first: whatever it has was given a place before the log is read. */
async function plan(request: ReplayRequest, deps: ReplayDeps): Promise<ReplayState> {
  const { log, proving } = deps;
  const note = log === null ? null : await log.checkpoint();
  const sizeMax = log === null ? null : note === null ? 0 : openSigned(proving, await log.keysFor(), note).size;
  const { spans, trimmed, before, behind } = await planWindow(request, deps);
  return {
    ...{ version: 2, request, size_max: sizeMax, trimmed: [...trimmed], before, behind },
    spans: Array.from(spans, ([partition, { start, end }]) => ({ partition, next: start, end })),
    ...{ spooled: [], lowest: null, first: null, last: null, unsigned: 0, newer: 0, unreadable: [], files: [] },
  };
}

async function manifestOf(
  folder: string,
  topic: string,
  made: {
    readonly state: ReplayState;
    readonly run: Run | null;
    readonly checked: Checked;
    readonly files: readonly WrittenFile[];
  },
): Promise<Manifest> {
  const { state, run, checked, files } = made;
  const leaves = await digestOf(path.join(folder, LEAVES_NAME)).catch((error: { readonly code?: unknown }) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  return {
    ...{ format_version: 1, topic, ...requestLines(state.request), closed: isClosed(state), trimmed: state.trimmed },
    ...{ records: checked.records, by_action: Object.fromEntries(checked.byAction) },
    places: run,
    ...{ offsets: [...checked.offsets], files: [...files] },
    leaves: leaves === null ? null : { name: LEAVES_NAME, ...leaves },
    verified: checked.verified,
    unverified: checked.verified === null ? whyUnverified(checked.finding) : null,
  };
}

function whyUnverified(found: Finding | null): string {
  return found === null ? "no checkpoint vouches for it" : findingText(found);
}

/** Null where the folder does not hold a whole replay. @throws InTheWay: it holds another one, or it is not as it was written */
async function finishedReplay(folder: string, request: ReplayRequest): Promise<Replayed | null> {
  const there = await readManifest(folder);
  if (there === null) return null;
  const asked = requestLines(request);
  const known = manifestPart(there);
  if (!isSame(asked, known)) throw new InTheWay(`${folder} holds another replay: name another --out, or --force`);
  for (const file of [...there.files, ...(there.leaves === null ? [] : [there.leaves])]) await checkFile(folder, file);
  const { sha256: manifestSha256 } = await digestOf(path.join(folder, MANIFEST_NAME));
  return { manifest: there, manifestSha256, wasThere: true };
}

/** Null where there is none. @throws InTheWay: it is none of this version */
export async function readManifest(folder: string): Promise<Manifest | null> {
  const file = path.join(folder, MANIFEST_NAME);
  const text = await readFile(file, "utf8").catch((error: { readonly code?: unknown }) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  if (text === null) return null;
  try {
    return manifest.parse(JSON.parse(text));
  } catch (error) {
    throw new InTheWay(`${file} is no manifest of this version`, { cause: error });
  }
}

function manifestPart({ from, to, late_ms, agents, actions, format, records_per_file }: Manifest) {
  return { from, to, late_ms, agents, actions, format, records_per_file };
}

/** Both made by the same code, in the same order of names. */
function isSame(one: object, other: object): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

async function makeRoom(folder: string, force: boolean): Promise<void> {
  const names = await readdir(folder);
  const foreign = names.find((name) => !OWN_NAMES.test(name));
  if (foreign !== undefined) {
    throw new InTheWay(`${folder} is not empty (${foreign}): name another folder with --out`);
  }
  if (force) await removeOwn(folder);
}

async function removeOwn(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (OWN_NAMES.test(name)) await rm(path.join(folder, name), { recursive: true });
  }
}
