/** Each event has one `ce_id`, and each `ce_id` one sequence of bytes; whatever stands there more often is a repeat of both. Nobody is given what is done with. */
import type { LogRecord } from "./history.ts";
import { grouped, type Indexed, nameOf, placeOf } from "./indexed.ts";

/** Of each message there is one of these. */
const onceEach = [
  "message.queued.v1",
  "message.delivered.v1",
  "message.acknowledged.v1",
  "message.discarded.v1",
  "message.undeliverable.v1",
  "message.set-aside.v1",
];

export function duplicated(index: Indexed): readonly string[] {
  return [...twiceTold(index), ...twoEnvelopes(index), ...changedRepeats(index.history.log), ...givenAgain(index)];
}

function twiceTold(index: Indexed): readonly string[] {
  return onceEach.flatMap((topic) =>
    [...grouped(index.inTopic(topic), ({ item }) => nameOf(item))]
      .filter(([, records]) => new Set(records.map(({ eventId }) => eventId)).size > 1)
      .map(([message, records]) => `${message} has several events in ${topic}: ${records.map(placeOf).join(", ")}`),
  );
}

/** A command that comes twice is answered with the envelope that was made for it, under another id where it stands at another offset. */
function twoEnvelopes(index: Indexed): readonly string[] {
  const byItem = grouped(index.inTopic("message.encrypted.v1"), ({ item }) => nameOf(item));
  return [...byItem]
    .filter(([, records]) => new Set(records.map(({ item }) => item.bodyDigest)).size > 1)
    .map(([message, records]) => `${message} has several envelopes: ${records.map(placeOf).join(", ")}`);
}

function changedRepeats(log: readonly LogRecord[]): readonly string[] {
  const withId = log.filter(({ eventId }) => eventId !== null);
  return [...grouped(withId, ({ topic, eventId }) => `${topic} ${eventId}`)]
    .filter(([, records]) => new Set(records.map(contentOf)).size > 1)
    .map(([event, records]) => `${event} was repeated with other bytes: ${records.map(placeOf).join(", ")}`);
}

/** A command is sealed anew each time that its sender sends it: it is told by what it says. */
function contentOf({ topic, key, digest, item }: LogRecord): string {
  return `${key} ${topic === "message.send.v1" && item !== null ? item.bodyDigest : digest}`;
}

/** The SDK has stored that a message is done with before its answer counts: it hands it out no more. */
function givenAgain({ receipts, acknowledged }: Indexed): readonly string[] {
  return [...receipts].flatMap(([message, seen]) => {
    const done = acknowledged.get(message);
    const again = seen.find(({ by, startMs }) => done !== undefined && by === "sdk" && startMs > done.endMs);
    return again === undefined ? [] : [`${message} was acknowledged, and given to its reader once more`];
  });
}

/** Records beyond the first of their `ce_id`: the price of at least once. */
export function repeats(log: readonly LogRecord[]): number {
  const named = log.filter(({ eventId }) => eventId !== null);
  return named.length - new Set(named.map(({ topic, eventId }) => `${topic} ${eventId}`)).size;
}
