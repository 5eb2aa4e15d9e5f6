/** When nothing is broken any more, everything comes to its end soon; and only what was poisoned on purpose is a dead letter. */
import type { History, Injected, Operation } from "./history.ts";

/** Longer than a session of a consumer group that nobody left in order (30 s) and the pauses of an SDK that comes back (30 s at most). */
const QUIET_MS_MAX = 60_000;

export function stuck({ healedMs, quietMs, unquiet, snapshot, readers }: History): readonly string[] {
  const found = [...unquiet];
  if (quietMs === null) found.push("it never became quiet");
  else if (quietMs - healedMs > QUIET_MS_MAX) {
    found.push(`it was quiet only ${Math.round((quietMs - healedMs) / 1000)} s after the last fault was healed`);
  }
  const waiting = snapshot.waiting.filter((recipientId) => readers.includes(recipientId));
  for (const recipientId of new Set(waiting)) found.push(`items wait in the mailbox of ${recipientId}, which reads`);
  if (snapshot.outboxRows > 0) found.push(`${snapshot.outboxRows} rows of the outbox were not published`);
  if (snapshot.unpublishedFacts > 0) found.push(`${snapshot.unpublishedFacts} facts were not published`);
  return found;
}

export function strayDeadLetters({ log, injected }: History): readonly string[] {
  const poison = new Set(injected.flatMap((one) => one.poison));
  const letters = log.filter(({ topic }) => topic.endsWith(".dlq"));
  const stray = letters
    .filter(({ eventId }) => eventId === null || !poison.has(eventId))
    .map(({ topic, partition, offset }) => `a dead letter that nobody poisoned: ${topic}/${partition}@${offset}`);
  const found = new Set(letters.map(({ eventId }) => eventId));
  const missing = [...poison]
    .filter((eventId) => !found.has(eventId))
    .map((eventId) => `the poison ${eventId} is no dead letter`);
  return [...stray, ...missing];
}

/**
 * From the healing of each fault until a message that was sent after it is read: the longest. Null when none was. A fault that began before anything got through
 * again is healed with the next one.
 */
export function worstRecoveryMs({ injected, operations }: History): number | null {
  const read = new Map<string, Operation>();
  for (const one of operations) {
    if (one.kind === "receive" && one.messageId !== null) read.set(`${one.senderId} ${one.messageId}`, one);
  }
  const trips = operations.flatMap(({ kind, outcome, senderId, messageId, startMs }) => {
    const end = kind === "send" && outcome === "ok" ? read.get(`${senderId} ${messageId}`) : undefined;
    return end === undefined ? [] : [{ startMs, endMs: end.endMs }];
  });
  const times = injected.map(({ endMs }: Injected) =>
    trips
      .filter(({ startMs }) => startMs >= endMs)
      .reduce((soonest, trip) => Math.min(soonest, trip.endMs - endMs), Infinity),
  );
  const finite = times.filter((ms) => ms !== Infinity);
  return finite.length === 0 ? null : Math.round(Math.max(...finite));
}
