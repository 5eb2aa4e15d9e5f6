/**
 * Between which places of the log a window of Kafka lies: the last record before it, and the first behind it.
 *
 * Places rise within a partition. So what has a place above the highest before the window, and below the lowest behind it, can stand nowhere but in it: it
 * must be there, or it was taken away. Both edges are read with the window and proven with it, so that no forged record draws them closer.
 */

import type { AuditRecord } from "../schemas/values.ts";
import type { Codec } from "../streams/codec.ts";
import type { KafkaDoor } from "../streams/kafka.ts";
import { type ReadRecord, readSpans, type Span } from "../streams/read-topic.ts";
import { spansBetween, type Window } from "../streams/time-spans.ts";
import type { Topic } from "../streams/topic.ts";
import { recordOrNull } from "./reading.ts";
import { type ReplayRequest, windowOf } from "./request.ts";

/**
 * So many offsets are looked at on either side of each partition: processes that publish at once mix neighbours, and some offsets are Kafka's own. More
 * would be read and thrown away; with fewer, neighbours that were mixed would be called missing.
 */
const OFFSETS_MAX = 100;

export interface EdgesDeps {
  readonly kafka: KafkaDoor;
  readonly codec: Codec;
  readonly topic: Topic<AuditRecord>;
  readonly signal: AbortSignal;
  readonly now: () => number;
}

interface Edge {
  readonly place: number;
  readonly partition: number;
  readonly offset: number;
  readonly occurredAt: number;
}

export interface PlannedWindow {
  /** What to read of each partition, the edges with it. */
  readonly spans: ReadonlyMap<number, Span>;
  readonly trimmed: readonly number[];
  /** Places of the edges; null where nothing is kept before, or nothing was appended behind. */
  readonly before: number | null;
  readonly behind: number | null;
}

/**
 * `late_ms` is the least: as long as a record behind the window happened before the range ended, the audit was away for longer, and the window is made longer,
 * up to now.
 */
export async function planWindow(request: ReplayRequest, deps: EdgesDeps): Promise<PlannedWindow> {
  const { kafka, topic, now } = deps;
  const { from, to } = windowOf(request);
  for (let lateMs = Math.max(request.late_ms, 1_000), end = to; ; lateMs *= 2, end += lateMs) {
    const { windows, trimmed } = await spansBetween(kafka, topic.name, from, end);
    const behind = await edgesIn(windows, (window) => behindOf(window), deps);
    if (end <= now() && behind.some(({ occurredAt }) => occurredAt < request.to)) continue;
    const before = await edgesIn(windows, (window) => beforeOf(window), deps);
    const [last] = before.toSorted((a, b) => b.place - a.place);
    const [next] = behind.toSorted((a, b) => a.place - b.place);
    return {
      spans: widened(windows, [last, next]),
      ...{ trimmed, before: last?.place ?? null, behind: next?.place ?? null },
    };
  }
}

function beforeOf({ low, start }: Window): Span {
  return { start: Math.max(low, start - OFFSETS_MAX), end: start };
}

function behindOf({ end, high }: Window): Span {
  return { start: end, end: Math.min(high, end + OFFSETS_MAX) };
}

async function edgesIn(
  windows: readonly Window[],
  spanOf: (window: Window) => Span,
  { kafka, codec, topic, signal }: EdgesDeps,
): Promise<readonly Edge[]> {
  const edges: Edge[] = [];
  const handle = async (records: readonly ReadRecord[]) => {
    await codec.learn(records.map(({ value }) => value));
    for (const { partition, offset, value } of records) {
      const record = recordOrNull(codec, topic, value);
      if (record === null) continue;
      edges.push({ place: record.logIndex, partition, offset: Number(offset), occurredAt: record.occurredAt });
    }
  };
  const spans = windows.map((window): [number, Span] => [window.partition, spanOf(window)]);
  const some = new Map(spans.filter(([, { start, end }]) => start < end));
  await readSpans(kafka, topic.name, some, handle, signal);
  return edges;
}

/** The windows with the edges in them, those alone that have something. */
function widened(windows: readonly Window[], edges: readonly (Edge | undefined)[]): ReadonlyMap<number, Span> {
  const spans = windows.map(({ partition, start, end }): [number, Span] => {
    const own = edges.flatMap((edge) => (edge?.partition === partition ? [edge.offset] : []));
    return [partition, { start: Math.min(start, ...own), end: Math.max(end, ...own.map((offset) => offset + 1)) }];
  });
  return new Map(spans.filter(([, { start, end }]) => start < end));
}
