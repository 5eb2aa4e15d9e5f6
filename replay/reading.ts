/**
 * First part of a replay: from Kafka into the spool, whatever was appended in the window. Nothing is judged yet, and what cannot be read is remembered.
 *
 * Interrupted, it goes on where the state says; what was read behind that is cut off and read again.
 */
import type { AuditRecord } from "../schemas/values.ts";
import type { Codec } from "../streams/codec.ts";
import type { KafkaDoor } from "../streams/kafka.ts";
import { type ReadRecord, readSpans } from "../streams/read-topic.ts";
import type { Topic } from "../streams/topic.ts";
import type { Spool, SpooledRecord } from "./spool.ts";
import type { ReplayState } from "./state.ts";

/** The beginning of the consumer group's name. The group is deleted afterwards. */
const GROUP = "sealpost-audit-replay";

/** What is lost of the work when the process is killed; less would be writing the state all the time. */
const SAVE_MS = 2_000;

/** Of what is no record, so many places are kept; the first is what people are told. */
const UNREADABLE_MAX = 100;

export interface ReadingDeps {
  readonly kafka: KafkaDoor;
  readonly codec: Codec;
  readonly topic: Topic<AuditRecord>;
  readonly signal: AbortSignal;
  /** `appendedMs`: by the broker's clock. */
  readonly isSelected: (record: AuditRecord, appendedMs: number) => boolean;
  readonly spool: Spool;
  readonly save: (state: ReplayState) => Promise<void>;
  readonly onRead: (done: number, total: number) => void;
}

/** The state when everything is read. Rejects with `Unavailable`, also when the signal ends it: what was read until then is in the state that was saved. */
export async function readIntoSpool(begun: ReplayState, deps: ReadingDeps): Promise<ReplayState> {
  let state = begun;
  let savedAt = Date.now();
  const total = begun.spans.reduce((sum, { next, end }) => sum + end - next, 0);
  let done = 0;
  let working: Promise<void> = Promise.resolve();

  async function take(records: readonly ReadRecord[]): Promise<void> {
    await deps.codec.learn(records.map(({ value }) => value));
    const { spooled, next } = taken(state, records, deps);
    await deps.spool.add(spooled);
    state = { ...next, spooled: [...deps.spool.sizes] };
    done += records.length;
    deps.onRead(done, total);
    if (Date.now() - savedAt < SAVE_MS) return;
    await deps.save(state);
    savedAt = Date.now();
  }

  const left = begun.spans.filter(({ next, end }) => next < end);
  const spans = new Map(left.map(({ partition, next, end }) => [partition, { start: next, end }]));
  const handle = (records: readonly ReadRecord[]) => {
    working = take(records);
    return working;
  };
  try {
    await readSpans(deps.kafka, deps.topic.name, spans, handle, deps.signal, GROUP);
  } finally {
    // A batch that was under way when it ended is in the spool, or is what it ended with.
    await working.catch(() => undefined);
    await deps.save(state);
  }
  // The log has records of its own, which nobody is handed: the last of a span may be one.
  state = { ...state, spans: state.spans.map((span) => ({ ...span, next: span.end })) };
  await deps.save(state);
  return state;
}

/** What a batch adds to the spool and to the state. Pure, but for the codec. */
function taken(state: ReplayState, records: readonly ReadRecord[], { codec, topic, isSelected }: ReadingDeps) {
  const spooled: SpooledRecord[] = [];
  const unreadable = [...state.unreadable];
  let { first, last, lowest, unsigned, newer } = state;
  const reached = new Map<number, number>();
  for (const { partition, offset: text, value, timestamp } of records) {
    const offset = Number(text);
    reached.set(partition, offset + 1);
    const record = recordOrNull(codec, topic, value);
    if (record === null || value === null) {
      if (unreadable.length < UNREADABLE_MAX) unreadable.push([partition, offset]);
      continue;
    }
    const { logIndex } = record;
    const isChosen = isSelected(record, Number(timestamp));
    if (state.size_max !== null && logIndex >= state.size_max) {
      newer += 1;
      if (isChosen) unsigned += 1;
      continue;
    }
    lowest = Math.min(lowest ?? logIndex, logIndex);
    if (isChosen) {
      first = Math.min(first ?? logIndex, logIndex);
      last = Math.max(last ?? logIndex, logIndex);
    }
    spooled.push({ logIndex, partition, offset, value });
  }
  const spans = state.spans.map((span) => ({ ...span, next: reached.get(span.partition) ?? span.next }));
  return { spooled, next: { ...state, spans, unreadable, first, last, lowest, unsigned, newer } };
}

export function recordOrNull(codec: Codec, topic: Topic<AuditRecord>, value: Buffer | null): AuditRecord | null {
  try {
    const record = codec.decode(topic, value);
    return Number.isSafeInteger(record.logIndex) && record.logIndex >= 0 ? record : null;
  } catch {
    return null;
  }
}
