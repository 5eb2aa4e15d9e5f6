/**
 * Folds the log and compares what comes out with the tables (docs/rebuild.md).
 *
 * Reads   the topics of all folds, from their first record to where they end in the moment of the comparison; the tables, in that moment.
 * Writes  nothing.
 * Keeps   in memory, until it is done: some 1.6 KB of each item in `message.queued.v1`.
 */

import type { Postgres } from "../store/postgres.ts";
import { atOneMoment, type ProjectedRow } from "../store/projection.ts";
import { pause } from "../streams/backoff.ts";
import { catalogue } from "../streams/catalogue.ts";
import type { Codec } from "../streams/codec.ts";
import type { Inbound } from "../streams/consumer.ts";
import type { KafkaDoor } from "../streams/kafka.ts";
import { readSpans } from "../streams/read-topic.ts";
import { receive } from "../streams/receive.ts";
import type { Topic } from "../streams/topic.ts";
import { foldAgents, foldPrekeyClaims } from "./agents.ts";
import { type Compared, compare, knownSince } from "./compare.ts";
import { haveSameEnds, lagOf, type Range, rangesOf, WRITERS } from "./cut.ts";
import { foldDiscarded } from "./discarded.ts";
import type { Fold } from "./folding.ts";
import { foldMailboxes } from "./mailboxes.ts";
import { foldSessions } from "./sessions.ts";
import { foldUsage } from "./usage.ts";

export interface RebuildDeps {
  readonly kafka: KafkaDoor;
  readonly postgres: Postgres;
  readonly codec: Codec;
  /** Of waiting for a moment in which everything is read; ms. */
  readonly patienceMs: number;
  /** A line for whoever watches. */
  readonly say: (line: string) => void;
}

/** `busy`: there was no such moment; why, at the last look. */
export type Rebuilt =
  | { readonly outcome: "compared"; readonly cutAt: number; readonly tables: readonly Compared[] }
  | { readonly outcome: "busy"; readonly why: string };

const LOOK_EVERY_MS = 200;

function newFolds(): readonly Fold[] {
  return [foldMailboxes(), foldSessions(), foldAgents(), foldPrekeyClaims(), foldUsage(), foldDiscarded()];
}

/** Throws `Unavailable`. */
export async function rebuild(deps: RebuildDeps): Promise<Rebuilt> {
  const folds = newFolds();
  const names = new Set(folds.flatMap(({ handlers }) => handlers.map(({ topic }) => topic.name)));
  const topics = catalogue.filter(({ name }) => names.has(name));
  const tables = folds.flatMap((fold) => fold.tables().map(({ table }) => table));
  const cut = await findCut(deps, topics, tables);
  if (typeof cut === "string") return { outcome: "busy", why: cut };

  for (const topic of topics) {
    const spans = cut.ranges.filter((range) => range.topic === topic.name && range.low < range.high);
    deps.say(`${topic.name}: ${spans.reduce((sum, { low, high }) => sum + high - low, 0)} records`);
    await foldTopic(deps, topic, spans, folds);
  }
  // What was deleted while it was read counts as deleted.
  const now = await rangesOf(deps.kafka, [...names]);
  const trimmed = new Set(now.flatMap(({ topic, low }) => (low > 0 ? [topic] : [])));
  const compared = folds
    .flatMap((fold) => fold.tables())
    .map((folded) => compare(folded, cut.rows.get(folded.table) ?? [], knownSince(folded, trimmed, cut.at)));
  return { outcome: "compared", cutAt: cut.at, tables: compared };
}

interface Cut {
  readonly at: number;
  readonly ranges: readonly Range[];
  readonly rows: ReadonlyMap<string, readonly ProjectedRow[]>;
}

/** Answers why there was none, where there was none. */
async function findCut(
  { kafka, postgres, patienceMs }: RebuildDeps,
  topics: readonly Topic<unknown>[],
  tables: readonly string[],
): Promise<Cut | string> {
  const names = topics.map(({ name }) => name);
  const until = performance.now() + patienceMs;
  for (;;) {
    const ranges = await rangesOf(kafka, names);
    const at = Date.now();
    const found = await atOneMoment(postgres, async (moment): Promise<Cut | string> => {
      const lags = lagOf(await moment.positions(), ranges);
      if (lags.size > 0) return Array.from(lags, ([group, lag]) => `${group} has ${lag} records to read`).join(", ");
      const untold = await moment.untold(WRITERS);
      if (untold > 0) return `${untold} events are committed and not published yet`;
      if (!haveSameEnds(ranges, await rangesOf(kafka, names))) return "records keep coming";
      const rows = new Map<string, readonly ProjectedRow[]>();
      for (const table of tables) {
        const all: ProjectedRow[] = [];
        for await (const page of moment.rows(table)) all.push(...page);
        rows.set(table, all);
      }
      return { at, ranges, rows };
    });
    if (typeof found !== "string" || performance.now() > until) return found;
    await pause(LOOK_EVERY_MS);
  }
}

async function foldTopic(
  { kafka, codec }: RebuildDeps,
  topic: Topic<unknown>,
  ranges: readonly Range[],
  folds: readonly Fold[],
): Promise<void> {
  const handlers = folds.flatMap((fold) => fold.handlers).filter((handler) => handler.topic.name === topic.name);
  const spans = new Map(ranges.map(({ partition, low, high }) => [partition, { start: low, end: high }]));
  await readSpans(kafka, topic.name, spans, async (records) => {
    await codec.learn(records.map(({ value }) => value));
    for (const record of records) {
      const inbound = inboundOf(codec, topic, record);
      if (inbound !== null) for (const { take } of handlers) take(inbound);
    }
  });
}

/** null for what nobody can read: its readers left it alone, too. */
function inboundOf(
  codec: Codec,
  topic: Topic<unknown>,
  record: Parameters<typeof receive>[4] & { readonly partition: number },
): Inbound<unknown> | null {
  const { outcome } = receive({}, codec, topic, record.partition, record);
  return "inbound" in outcome ? outcome.inbound : null;
}
