/**
 * Is the audit log in Kafka the one that was signed? All of it that is still kept, against the newest checkpoint.
 *
 * Where retention has taken the beginning of partitions, it took them at different places of the log: then the check begins behind the last record that was
 * appended before every partition is whole again, and the log's own proof stands for what was before. Of a partition that retention has emptied nobody says
 * what was in it: only that it was older than what the topic keeps at the least.
 */
import path from "node:path";
import type { AuditRecord } from "../schemas/values.ts";
import { readSpans } from "../streams/read-topic.ts";
import { spansBetween } from "../streams/time-spans.ts";
import type { Topic } from "../streams/topic.ts";
import { type AuditLog, openSigned } from "./audit-log.ts";
import { checkSpool } from "./checking.ts";
import { type Finding, Found, finding } from "./finding.ts";
import { readIntoSpool } from "./reading.ts";
import type { ReplayDeps } from "./replay.ts";
import { openSpool } from "./spool.ts";
import type { ReplayState } from "./state.ts";

/** Processes publish what they committed in this time; later, neighbours of the log are apart in Kafka. */
const PUBLISHED_MS = 60_000;

/** What is appended is never newer. */
const END_OF_TIME_MS = Date.UTC(9999, 0, 1);

export interface LiveVerified {
  readonly finding: Finding | null;
  /** The places that were compared; null: there was nothing to compare. */
  readonly places: { readonly first: number; readonly last: number } | null;
  readonly checkpoint: { readonly origin: string; readonly size: number };
  /** Records that are newer than the checkpoint. */
  readonly newer: number;
}

/** `folder` is for what is under way, and is removed by whoever made it. */
export async function verifyLive(
  folder: string,
  deps: Omit<ReplayDeps, "log"> & { readonly log: AuditLog },
): Promise<LiveVerified> {
  const { kafka, topic, codec, proving, log, signal, progress } = deps;
  const note = await log.checkpoint();
  if (note === null) throw new Found(finding("unsigned", null, "the log has no checkpoint yet"));
  const { origin, size } = openSigned(proving, await log.keysFor(), note);
  const { spans, trimmed } = await spansBetween(kafka, topic.name, 0, END_OF_TIME_MS);
  const isEmptied = trimmed.some((partition) => !spans.has(partition));
  const taken = isEmptied ? [deps.now() - keptMsMin(topic)] : [];
  const wholeFrom = latest([...(await appendedAt(deps, trimmed, spans)), ...taken]);
  const checkpoint = { origin, size };
  let before = -1;
  const noteBegin = (record: AuditRecord, appendedMs: number) => {
    if (wholeFrom !== null && appendedMs <= wholeFrom + PUBLISHED_MS) before = Math.max(before, record.logIndex);
    return true;
  };
  const begun: ReplayState = {
    ...{ version: 2, size_max: size, trimmed: [...trimmed], before: null, behind: null },
    request: { from: 0, to: END_OF_TIME_MS, late_ms: 0, agents: [], actions: [], format: "jsonl", records_per_file: 1 },
    spans: Array.from(spans, ([partition, { start, end }]) => ({ partition, next: start, end })),
    ...{ spooled: [], lowest: null, first: null, last: null, unsigned: 0, newer: 0, unreadable: [], files: [] },
  };
  const spool = await openSpool(path.join(folder, "spool"));
  const read = await readIntoSpool(begun, {
    ...{ kafka, codec, topic, signal, spool, isSelected: noteBegin, save: async () => undefined },
    onRead: (done, total) => progress("reading", done, total),
  });
  // Places below the size are all signed, also when Kafka has none of them any more.
  const [first, last] = [before + 1, size - 1];
  if (first > last) return { finding: null, places: null, checkpoint, newer: read.unsigned };
  const checked = await checkSpool(
    { ...read, unsigned: 0 },
    { first, last },
    {
      ...{ spool, codec, topic, proving, log, folder, signal, isSelected: () => true },
      onChecked: (done, total) => progress("checking", done, total),
    },
  );
  return { finding: checked.finding, places: { first, last }, checkpoint, newer: read.unsigned };
}

/** What retention took was older than this when it was taken, whatever the setting was: no configuration goes below the declaration. */
function keptMsMin({ retention, name }: Topic<AuditRecord>): number {
  if ("keptMs" in retention) return retention.keptMs;
  throw new Error(`${name} is declared without a retention`);
}

function latest(times: readonly number[]): number | null {
  return times.length === 0 ? null : Math.max(...times);
}

/** When the first kept records of these partitions were appended, of those that have any. */
async function appendedAt(
  { kafka, topic, signal }: Pick<ReplayDeps, "kafka" | "topic" | "signal">,
  partitions: readonly number[],
  spans: ReadonlyMap<number, { readonly start: number; readonly end: number }>,
): Promise<readonly number[]> {
  const firsts = partitions.flatMap((partition): [number, { start: number; end: number }][] => {
    const start = spans.get(partition)?.start;
    return start === undefined ? [] : [[partition, { start, end: start + 1 }]];
  });
  const times: number[] = [];
  const handle = async (records: readonly { readonly timestamp: string }[]) => {
    times.push(...records.map(({ timestamp }) => Number(timestamp)));
  };
  await readSpans(kafka, topic.name, new Map(firsts), handle, signal);
  return times;
}
