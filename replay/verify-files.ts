/**
 * Is a replay's folder as it was made? Without Kafka and without the service: its manifest, its leaves and the log's key are enough.
 *
 * First the leaves are proven against the checkpoint, then each record against its leaf; so what is wrong is named by the first record that is wrong, and
 * not by a file of 250,000.
 */
import { readdir } from "node:fs/promises";
import path from "node:path";
import { decodeBase64 } from "../protocol/audit/note.ts";
import { equalBytes } from "../protocol/bytes.ts";
import type { AuditRecord } from "../schemas/values.ts";
import { openSigned, type Proving } from "./audit-log.ts";
import { leafHashOf } from "./checking.ts";
import { type Finding, Found, finding, InTheWay } from "./finding.ts";
import { rowFormats } from "./formats/format.ts";
import { LEAF_KIND, type Leaf, readLeaves } from "./leaf-file.ts";
import { MANIFEST_NAME, type Manifest, type WrittenFile } from "./manifest.ts";
import { RunCheck } from "./range-check.ts";
import { readManifest } from "./replay.ts";
import { recordOf } from "./rows.ts";
import { digestOf } from "./writing.ts";

export interface FilesVerified {
  /** The first; null where all is well. */
  readonly finding: Finding | null;
  /** Records that were compared. */
  readonly records: number;
  /** The log's name and how many records the checkpoint has; null: the replay itself was not verified, only its hashes were. */
  readonly checkpoint: { readonly origin: string; readonly size: number } | null;
}

export interface VerifyFilesOptions {
  readonly proving: Proving;
  /** The log's keys as its owner gave them, any of which will do; none: the one in the manifest is believed. */
  readonly verifierKeys: readonly string[];
  readonly trusted?: Trusted;
  /** One file of the folder; null: all. */
  readonly only: string | null;
  readonly signal: AbortSignal;
  readonly onVerified: (done: number, total: number) => void;
}

/** What was kept elsewhere: of a folder that was rewritten as a whole nothing inside can tell. */
export interface Trusted {
  /** The checkpoint that the replay must have been verified against; null: any that is signed. */
  readonly head: { readonly size: number; readonly root: Uint8Array } | null;
  /** Of `manifest.json`, as the log's record of the replay has it, lower-case hex; null: any. */
  readonly manifestSha256: string | null;
}

/** Rejects with `InTheWay` where there is no replay in the folder. */
export async function verifyFiles(folder: string, options: VerifyFilesOptions): Promise<FilesVerified> {
  const manifest = await readManifest(folder);
  if (manifest === null) throw new InTheWay(`${folder} has no manifest.json: name the folder of a replay that is done`);
  const files = manifest.files.filter(({ name }) => options.only === null || name === options.only);
  if (options.only !== null && files.length === 0) {
    throw new InTheWay(`${options.only} is no file of the replay in ${folder}: its manifest.json names them`);
  }
  const progress = { done: 0, total: files.reduce((sum, { records }) => sum + records, 0), byAction: new Map() };
  const none = { records: 0, checkpoint: null };
  try {
    await verifyTrusted(folder, manifest, options);
    const checkpoint = await verifyLeaves(folder, manifest, options);
    const known = { ...none, checkpoint };
    if (options.only === null) {
      const found = (await extraFile(folder, manifest)) ?? (await outsideFiles(folder, manifest, options.signal));
      if (found !== null) return { ...known, finding: found };
    }
    for (const file of files) {
      const found = await verifyFile(folder, manifest, file, options, progress);
      if (found !== null) return { finding: found, records: progress.done, checkpoint };
    }
    const miscounted = options.only === null ? countsDiffer(manifest, progress) : null;
    return { finding: miscounted, records: progress.done, checkpoint };
  } catch (error) {
    if (error instanceof Found) return { ...none, finding: error.finding };
    throw error;
  }
}

/** @throws Found */
async function verifyTrusted(folder: string, { verified }: Manifest, { trusted, proving }: VerifyFilesOptions) {
  const { head = null, manifestSha256 = null } = trusted ?? {};
  if (manifestSha256 !== null && (await digestOrNull(folder, MANIFEST_NAME)) !== manifestSha256) {
    throw new Found(finding("changed", null, "manifest.json is not the one with the hash that was given (--manifest)"));
  }
  if (head === null) return;
  if (verified === null) throw new Found(finding("unproven", null, "it was never verified against a checkpoint"));
  const { size, root } = openSigned(proving, [verified.verifier_key], verified.checkpoint);
  if (size !== head.size) {
    const what = `it was verified against the checkpoint of ${size} records: give the root of that one (--size ${size})`;
    throw new Found(finding("unproven", null, what));
  }
  if (equalBytes(root, head.root)) return;
  throw new Found(
    finding("unproven", null, `its checkpoint of ${size} records has another root than was given (--root)`),
  );
}

/** The checkpoint that vouches for the leaves; null where none does. @throws Found */
async function verifyLeaves(folder: string, manifest: Manifest, { proving, verifierKeys, signal }: VerifyFilesOptions) {
  const { leaves, verified, places } = manifest;
  if (leaves !== null && (await digestOrNull(folder, leaves.name)) === null) {
    throw new Found(finding("missing", null, "leaves.bin is gone: without it no record can be checked"));
  }
  if (verified === null || leaves === null || places === null) return null;
  if (verifierKeys.length > 0 && !verifierKeys.includes(verified.verifier_key)) {
    throw new Found(finding("unproven", null, "it was verified with another key than the one given with --key"));
  }
  const checkpoint = openSigned(proving, [verified.verifier_key], verified.checkpoint);
  const [before, behind] = [hashesOf(verified.before), hashesOf(verified.behind)];
  const wrong = new Found(finding("unproven", null, "leaves.bin does not make the root of the checkpoint"));
  const check = runOrNull(proving, places.first, before);
  if (check === null) throw wrong;
  for await (const { hash } of readLeaves(
    path.join(folder, leaves.name),
    places.first,
    places.first,
    places.last + 1,
  )) {
    signal.throwIfAborted();
    check.append(hash);
  }
  if (check.size !== places.last + 1 || !check.proves(checkpoint.size, checkpoint.root, behind)) throw wrong;
  // Which records are in files stands in the leaves' kinds, and the tree says nothing about these.
  if ((await digestOrNull(folder, leaves.name)) !== leaves.sha256) {
    throw new Found(finding("changed", null, "leaves.bin is not as it was written"));
  }
  return { origin: checkpoint.origin, size: checkpoint.size };
}

async function extraFile(folder: string, { files }: Manifest): Promise<Finding | null> {
  const known = new Set(files.map(({ name }) => name));
  const extra = (await readdir(folder)).find((name) => name.startsWith("audit-") && !known.has(name));
  return extra === undefined ? null : finding("extra", null, `${extra} is no file of this replay`);
}

/** Every record that the leaves say was written has its file, and one alone: a file that is gone from the manifest, too, is found so. */
async function outsideFiles(folder: string, { files, leaves, places }: Manifest, signal: AbortSignal) {
  let before = -1;
  for (const { name, first_log_index: first, last_log_index: last } of files) {
    if (first <= before || last < first) return finding("out-of-order", first, `${name} has places of another file`);
    before = last;
  }
  if (leaves === null || places === null) return null;
  let [place, at] = [places.first, 0];
  const file = path.join(folder, leaves.name);
  for await (const { kind } of readLeaves(file, places.first, places.first, places.last + 1)) {
    if (place % 10_000 === 0) signal.throwIfAborted();
    while (place > (files[at]?.last_log_index ?? Number.POSITIVE_INFINITY)) at += 1;
    const isIn = place >= (files[at]?.first_log_index ?? Number.POSITIVE_INFINITY);
    if (kind === LEAF_KIND.written && !isIn) return finding("missing", place, "no file of manifest.json has it");
    place += 1;
  }
  return null;
}

/** What people read first must be what is there. */
function countsDiffer({ records, by_action: told }: Manifest, { done, byAction }: Progress): Finding | null {
  if (done !== records) return finding("changed", null, `manifest.json tells of ${records} records, there are ${done}`);
  const actions = new Set([...Object.keys(told), ...byAction.keys()]);
  const wrong = Array.from(actions).find((action) => (told[action] ?? 0) !== (byAction.get(action) ?? 0));
  if (wrong === undefined) return null;
  return finding("changed", null, `manifest.json does not tell how many records are ${wrong}`);
}

interface Progress {
  done: number;
  readonly total: number;
  readonly byAction: Map<string, number>;
}

async function verifyFile(
  folder: string,
  manifest: Manifest,
  file: WrittenFile,
  options: VerifyFilesOptions,
  progress: Progress,
): Promise<Finding | null> {
  const { name, first_log_index: first, last_log_index: last } = file;
  const sha256 = await digestOrNull(folder, name);
  if (sha256 === null) return finding("missing", first, `${name} is gone`);
  try {
    const found = await verifyRecords(folder, manifest, file, options, progress);
    if (found !== null) return found;
  } catch (error) {
    if (sha256 === file.sha256 || options.signal.aborted) throw error;
    return finding("unreadable", null, `${name} cannot be read as ${manifest.format} any more`);
  }
  if (sha256 === file.sha256) return null;
  return finding("changed", null, `${name} is not as it was written, though its records ${first} to ${last} are`);
}

async function verifyRecords(
  folder: string,
  { format, leaves, places }: Manifest,
  { name, first_log_index: first, last_log_index: last }: WrittenFile,
  { proving, signal, onVerified }: VerifyFilesOptions,
  progress: Progress,
): Promise<Finding | null> {
  const expected =
    leaves === null ? null : expectedLeaves(path.join(folder, leaves.name), places?.first ?? 0, first, last);
  try {
    let place = first - 1;
    for await (const value of rowFormats[format].read(path.join(folder, name))) {
      if (progress.done % 1_000 === 0) signal.throwIfAborted();
      const record = recordOf(value);
      if (record === null) return finding("unreadable", null, `${name} has no audit record behind that of ${place}`);
      const due = expected === null ? null : await expected.next();
      const found =
        due === null ? inOrder(record, place) : compared(proving, record, due.done ? null : due.value, place);
      if (found !== null) return found;
      place = record.logIndex;
      progress.done += 1;
      progress.byAction.set(record.action, (progress.byAction.get(record.action) ?? 0) + 1);
      if (progress.done % 1_000 === 0) onVerified(progress.done, progress.total);
    }
    const left = expected === null ? null : await expected.next();
    if (left !== null && !left.done) return finding("missing", left.value.place, `${name} ends before it`);
    onVerified(progress.done, progress.total);
    return null;
  } finally {
    await expected?.return(undefined);
  }
}

interface Due {
  readonly place: number;
  readonly hash: Uint8Array;
}

/** The places of a file's records, with their hashes. */
async function* expectedLeaves(file: string, first: number, start: number, last: number): AsyncGenerator<Due> {
  let place = start;
  for await (const { kind, hash } of readLeaves(file, first, start, last + 1) as AsyncIterable<Leaf>) {
    if (kind === LEAF_KIND.written) yield { place, hash };
    place += 1;
  }
}

/** Against what the leaves say comes next; null there: nothing. */
function compared(proving: Proving, record: AuditRecord, due: Due | null, before: number): Finding | null {
  const { logIndex } = record;
  const wrongOrder = inOrder(record, before);
  if (wrongOrder !== null) return wrongOrder;
  if (due === null || logIndex < due.place) return finding("extra", logIndex, "it is not in this replay");
  if (logIndex > due.place) return finding("missing", due.place, `record ${logIndex} stands in its place`);
  const hash = leafHashOf(proving, record);
  if (hash !== null && equalBytes(hash, due.hash)) return null;
  return finding("changed", logIndex, "it is not the one whose hash is in leaves.bin");
}

function inOrder({ logIndex }: AuditRecord, before: number): Finding | null {
  return logIndex > before ? null : finding("out-of-order", logIndex, `it stands behind record ${before}`);
}

function runOrNull(proving: Proving, first: number, before: readonly Uint8Array[]): RunCheck | null {
  try {
    return new RunCheck(proving, first, before);
  } catch {
    // As many subtrees as no such place has.
    return null;
  }
}

function hashesOf(texts: readonly string[]): readonly Uint8Array[] {
  return texts.map((text) => decodeBase64(text) ?? new Uint8Array(0));
}

async function digestOrNull(folder: string, name: string): Promise<string | null> {
  return digestOf(path.join(folder, name)).then(
    ({ sha256 }) => sha256,
    (error: { readonly code?: unknown }) => {
      if (error.code === "ENOENT") return null;
      throw error;
    },
  );
}
