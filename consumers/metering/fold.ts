/**
 * From facts to what meters and hours become. Pure.
 *
 * Promise: the same facts give the same totals, however they are cut into steps, in whatever order they come, and however often: a place of a mailbox counts
 * once as stored and once as ended, and what counts is added up.
 */
import type { UsageCounts } from "../../schemas/values.ts";
import type { HourCounts, Meter } from "../../store/meters.ts";
import type { Fact } from "./facts.ts";
import { addSeqs, hasSeq } from "./seqs.ts";

const HOUR_MS = 60 * 60 * 1000;

export interface Folded {
  /** Those that moved. */
  readonly meters: readonly Meter[];
  /** What is to be added, one for each hour of an agent. */
  readonly hours: readonly HourCounts[];
}

const nothing: UsageCounts = {
  messagesSent: 0,
  bytesSent: 0,
  messagesReceived: 0,
  bytesReceived: 0,
  messagesAcknowledged: 0,
  bytesAcknowledged: 0,
  messagesDiscarded: 0,
  bytesDiscarded: 0,
};

/** `meters`: of all agents in the facts. Throws (a bug) when a recipient's is missing. */
export function foldFacts(meters: readonly Meter[], facts: readonly Fact[]): Folded {
  const byAgent = new Map(meters.map((meter) => [meter.agentId, meter]));
  const moved: Meter[] = [];
  const hours = new Map<string, HourCounts>();
  const add = (agentId: string, at: number, counts: Partial<UsageCounts>) => {
    const hour = at - (at % HOUR_MS);
    const name = `${agentId} ${hour}`;
    hours.set(name, { agentId, hour, ...sum(hours.get(name) ?? nothing, counts) });
  };

  for (const [recipientId, own] of Map.groupBy(facts, (fact) => fact.recipientId)) {
    const meter = byAgent.get(recipientId);
    if (meter === undefined) throw new Error("a mailbox has no meter");
    const stored = freshOf(meter.storedSeqs, own.filter(isCame));
    const ended = freshOf(meter.endedSeqs, own.filter(isGone));
    if (stored.facts.length + ended.facts.length === 0) continue;
    let { waitingMessages, waitingBytes } = meter;
    for (const { what, seq, senderId, size, at } of stored.facts) {
      if (what === "passing") continue;
      add(senderId, at, { messagesSent: 1, bytesSent: size });
      add(recipientId, at, { messagesReceived: 1, bytesReceived: size });
      // Its end was counted before it, and could take nothing away then.
      if (hasSeq(meter.endedSeqs, seq)) continue;
      waitingMessages += 1;
      waitingBytes += size;
    }
    for (const { what, seq, size, at } of ended.facts) {
      if (what === "passing") continue;
      const isRead = what === "acknowledged";
      const counts = isRead
        ? { messagesAcknowledged: 1, bytesAcknowledged: size }
        : { messagesDiscarded: 1, bytesDiscarded: size };
      add(recipientId, at, counts);
      // What was never seen to come (the log's beginning is gone, or it is still to be read) does not wait.
      if (!hasSeq(stored.ranges, seq)) continue;
      waitingMessages -= 1;
      waitingBytes -= size;
    }
    moved.push({
      ...{ agentId: recipientId, storedSeqs: stored.ranges, endedSeqs: ended.ranges },
      ...{ waitingMessages, waitingBytes },
    });
  }
  return { meters: moved, hours: [...hours.values()] };
}

/** Nothing is told of a retry request's end: its place counts as left when it is taken, and leaves no hole in the ranges. */
function isCame({ what }: Fact): boolean {
  return what === "stored" || what === "passing";
}

function isGone({ what }: Fact): boolean {
  return what !== "stored";
}

/** Of each place that was not counted before the first fact, and what is counted then. */
function freshOf(ranges: Meter["storedSeqs"], facts: readonly Fact[]) {
  const first = new Map<number, Fact>();
  for (const fact of facts) if (!first.has(fact.seq)) first.set(fact.seq, fact);
  const added = addSeqs(ranges, first.keys());
  return { ranges: added.ranges, facts: added.fresh.flatMap((seq) => first.get(seq) ?? []) };
}

function sum(counts: UsageCounts, more: Partial<UsageCounts>): UsageCounts {
  const names = Object.keys(nothing) as (keyof UsageCounts)[];
  return Object.fromEntries(names.map((name) => [name, counts[name] + (more[name] ?? 0)])) as unknown as UsageCounts;
}
