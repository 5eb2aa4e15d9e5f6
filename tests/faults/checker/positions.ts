/** Each group stands where it has read to: not behind what Kafka was told, not beyond the log, and, when all is quiet, at its end. */
import type { History, PartitionOffset } from "./history.ts";

/** Also compares what was read of the log with what the broker says is there: a reader that left something out would find nothing wrong. */
export function misplaced({ snapshot, groups, log }: History): readonly string[] {
  const positions = new Map(snapshot.positions.map((one) => [placeOf(one.group, one), one.offset]));
  const committed = new Map(snapshot.committed.map((one) => [placeOf(one.group, one), one.offset]));
  const found: string[] = [];
  const ends = endsIn(log);
  for (const end of snapshot.ends) {
    const read = ends.get(placeOf("", end)) ?? 0;
    // What nobody here reads (usage.v1) is written by the clock, also between the question for the end and the reading.
    const isQuiet = groups.some(({ topics }) => topics.includes(end.topic));
    if (read < end.offset || (read > end.offset && isQuiet)) {
      found.push(`${placeOf("", end)} was read up to ${read}, and ends at ${end.offset}`);
    }
    for (const { group, topics, hasState } of groups) {
      if (!topics.includes(end.topic)) continue;
      const place = placeOf(group, end);
      const told = committed.get(place) ?? 0;
      const position = hasState ? (positions.get(place) ?? 0) : told;
      if (told > position) found.push(`${place}: Kafka was told ${told}, and the position is ${position}`);
      if (position > end.offset) found.push(`${place}: the position ${position} lies behind the end ${end.offset}`);
      if (position < end.offset) found.push(`${place}: the position ${position} lies before the end ${end.offset}`);
    }
  }
  return found;
}

function endsIn(log: History["log"]): ReadonlyMap<string, number> {
  const ends = new Map<string, number>();
  for (const record of log) {
    const place = placeOf("", record);
    ends.set(place, Math.max(ends.get(place) ?? 0, record.offset + 1));
  }
  return ends;
}

function placeOf(group: string, { topic, partition }: Pick<PartitionOffset, "topic" | "partition">): string {
  return `${group} ${topic}/${partition}`.trim();
}
