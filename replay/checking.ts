/**
 * Second part of a replay: every place of the log that must stand in what was read (`run.ts`) is hashed, chosen or not, and all together are proven against
 * a signed checkpoint. Leaves `leaves.bin`, and nothing else: no record is written before it is known what it is worth.
 *
 * The checkpoint is the first one that has all of them, so that it is the same on each run.
 */
import path from "node:path";
import { leafBytes } from "../protocol/audit/leaf.ts";
import { HASH_BYTES, hashLeaf } from "../protocol/audit/merkle.ts";
import { encodeBase64 } from "../protocol/audit/note.ts";
import { Refusal } from "../protocol/refusal.ts";
import type { AuditRecord } from "../schemas/values.ts";
import type { Codec } from "../streams/codec.ts";
import type { Topic } from "../streams/topic.ts";
import { type AuditLog, openSigned, type Proving, sidesIn } from "./audit-log.ts";
import { type Finding, Found, finding } from "./finding.ts";
import { createLeafFile, LEAF_KIND, type LeafWriter, readLeaves } from "./leaf-file.ts";
import { LEAVES_NAME, type Manifest, type OffsetsOfPartition } from "./manifest.ts";
import { firstWrong, RunCheck, type Sides } from "./range-check.ts";
import type { Run } from "./run.ts";
import { BUCKET_PLACES, type Spool, type SpooledRecord } from "./spool.ts";
import type { ReplayState } from "./state.ts";

export interface CheckingDeps {
  readonly spool: Spool;
  readonly codec: Codec;
  readonly topic: Topic<AuditRecord>;
  readonly proving: Proving;
  /** Null: nobody vouches for anything. */
  readonly log: AuditLog | null;
  readonly folder: string;
  readonly isSelected: (record: AuditRecord) => boolean;
  readonly signal: AbortSignal;
  readonly onChecked: (done: number, total: number) => void;
}

export interface Checked {
  /** The first; null where all is well. */
  readonly finding: Finding | null;
  readonly verified: Manifest["verified"];
  /** Those that are chosen. */
  readonly records: number;
  readonly byAction: ReadonlyMap<string, number>;
  readonly offsets: readonly OffsetsOfPartition[];
  /** Copies of a record that were left out. */
  readonly repeats: number;
}

/** `run`: the places that are proven; null where no checkpoint has any. */
export async function checkSpool(
  state: Pick<ReplayState, "unreadable" | "unsigned" | "size_max">,
  run: Run | null,
  deps: CheckingDeps,
): Promise<Checked> {
  const [unreadable] = state.unreadable;
  const early =
    unreadable !== undefined
      ? finding("unreadable", null, `partition ${unreadable[0]} has no audit record at offset ${unreadable[1]}`)
      : state.unsigned > 0
        ? finding("unsigned", state.size_max, `${state.unsigned} records are newer than the newest checkpoint`)
        : run === null && deps.log !== null
          ? finding("unsigned", null, "no checkpoint has a record of that time yet")
          : null;
  const tally = new Tally(early);
  if (run === null) return { ...tally.result(), verified: null };
  const { first, last } = run;
  const proof = deps.log === null ? null : await proofOf(deps.log, deps.proving, run).catch(findIn(tally));
  const leaves = proof === null ? null : await createLeafFile(path.join(deps.folder, LEAVES_NAME));
  const check = proof === null ? null : new RunCheck(deps.proving, first, proof.before);
  try {
    for (const bucket of bucketsOf(first, last, deps)) {
      deps.signal.throwIfAborted();
      await checkBucket(bucket, { first, last }, deps, { tally, check, leaves });
      deps.onChecked(Math.min(last, (bucket + 1) * BUCKET_PLACES - 1) + 1 - first, last + 1 - first);
    }
  } finally {
    await leaves?.close();
  }
  if (proof === null || check === null) return { ...tally.result(), verified: null };
  if (tally.finding === null && !check.proves(proof.size, proof.root, proof.behind))
    tally.find(await wrongRecord(first, last, proof, deps));
  const verified = {
    verifier_key: proof.verifierKey,
    checkpoint: proof.note,
    before: proof.before.map(encodeBase64),
    behind: proof.behind.map(encodeBase64),
  };
  return { ...tally.result(), verified: tally.finding === null ? verified : null };
}

interface Proof extends Sides {
  readonly log: AuditLog;
  readonly verifierKey: string;
  readonly note: string;
  readonly size: number;
  readonly root: Uint8Array;
}

/** What keeps a run from being proven is a finding as others are: it may be written all the same. */
function findIn(tally: Tally): (error: unknown) => null {
  return (error) => {
    if (!(error instanceof Found)) throw error;
    tally.find(error.finding);
    return null;
  };
}

async function proofOf(log: AuditLog, proving: Proving, { first, last }: Run): Promise<Proof> {
  const note = await log.checkpoint(last + 1);
  if (note === null) throw new Found(finding("unsigned", last, "there is no checkpoint yet that has it"));
  const { size, root, verifierKey } = openSigned(proving, await log.keysFor(last + 1), note);
  if (size <= last) throw new Found(finding("unsigned", last, "there is no checkpoint yet that has it"));
  const { before } = await sidesIn(log, first, size);
  const { behind } = await sidesIn(log, last, size);
  return { log, verifierKey, note, size, root, before, behind };
}

/** Where nobody says how long the log is, a record may claim any place: only buckets that have records are looked at then. */
function bucketsOf(first: number, last: number, { log, spool }: CheckingDeps): Iterable<number> {
  const [low, high] = [Math.floor(first / BUCKET_PLACES), Math.floor(last / BUCKET_PLACES)];
  if (log !== null) return Array.from({ length: high - low + 1 }, (_, n) => low + n);
  return [...spool.sizes.keys()].filter((bucket) => low <= bucket && bucket <= high).sort((a, b) => a - b);
}

interface Sinks {
  readonly tally: Tally;
  readonly check: RunCheck | null;
  readonly leaves: LeafWriter | null;
}

async function checkBucket(
  bucket: number,
  { first, last }: { readonly first: number; readonly last: number },
  { spool, codec, topic, proving, isSelected }: CheckingDeps,
  { tally, check, leaves }: Sinks,
): Promise<void> {
  const { records, repeats, conflicts } = await spool.read(bucket);
  await codec.learn(records.map(({ value }) => value));
  tally.repeats += repeats;
  const inRange = conflicts.filter(({ logIndex }) => first <= logIndex && logIndex <= last);
  const [conflict] = inRange.sort((a, b) => a.logIndex - b.logIndex);
  const byPlace = new Map(records.map((record) => [record.logIndex, record]));
  const end = Math.min(last + 1, (bucket + 1) * BUCKET_PLACES);
  for (let place = Math.max(first, bucket * BUCKET_PLACES); place < end; place++) {
    const spooled = byPlace.get(place);
    if (conflict?.logIndex === place)
      tally.find(
        finding("conflicting", place, `partition ${conflict.partition} has another one at ${conflict.offset}`),
      );
    if (spooled === undefined) {
      tally.find(finding("missing", place, "Kafka has no record of it in the time that was read (--late reads more)"));
      await leaves?.add(LEAF_KIND.missing, new Uint8Array(HASH_BYTES));
      continue;
    }
    const record = codec.decode(topic, spooled.value);
    const isChosen = isSelected(record);
    if (isChosen) tally.count(record, spooled);
    if (check === null || leaves === null) continue;
    const hash = leafHashOf(proving, record);
    if (hash === null) tally.find(finding("changed", place, "it is no record that the log could hold"));
    const known = hash ?? new Uint8Array(HASH_BYTES);
    check.append(known);
    await leaves.add(isChosen ? LEAF_KIND.written : LEAF_KIND.left, known);
  }
}

/** Null for what the log has no bytes for. */
export function leafHashOf(proving: Proving, record: AuditRecord): Uint8Array | null {
  try {
    return hashLeaf(proving, leafBytes(record));
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}

async function wrongRecord(first: number, last: number, proof: Proof, deps: CheckingDeps): Promise<Finding> {
  const file = path.join(deps.folder, LEAVES_NAME);
  const wrong = await firstWrong({
    hashing: deps.proving,
    start: first,
    end: last + 1,
    before: proof.before,
    size: proof.size,
    root: proof.root,
    behind: async (index) => (await sidesIn(proof.log, index, proof.size)).behind,
    leaves: async function* (start, end) {
      for await (const { hash } of readLeaves(file, first, start, end)) yield hash;
    },
  });
  return finding("changed", wrong, `it is not the one in the checkpoint of ${proof.size} records`);
}

/** What is counted on the way. */
class Tally {
  finding: Finding | null;
  repeats = 0;
  #records = 0;
  readonly #byAction = new Map<string, number>();
  readonly #offsets = new Map<number, OffsetsOfPartition>();

  constructor(found: Finding | null) {
    this.finding = found;
  }

  find(found: Finding): void {
    this.finding ??= found;
  }

  count({ action }: AuditRecord, { partition, offset }: SpooledRecord): void {
    this.#records += 1;
    this.#byAction.set(action, (this.#byAction.get(action) ?? 0) + 1);
    const known = this.#offsets.get(partition) ?? { partition, from: offset, to: offset + 1 };
    const [from, to] = [Math.min(known.from, offset), Math.max(known.to, offset + 1)];
    this.#offsets.set(partition, { partition, from, to });
  }

  result() {
    return {
      finding: this.finding,
      records: this.#records,
      byAction: new Map([...this.#byAction].sort(([a], [b]) => (a < b ? -1 : 1))),
      offsets: [...this.#offsets.values()].sort((a, b) => a.partition - b.partition),
      repeats: this.repeats,
    };
  }
}
