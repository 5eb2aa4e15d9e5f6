/** What operators see of dead letters, and have put back (docs/operations.md). */
import { formatTimestamp } from "../../../protocol/timestamp.ts";
import type { DeadLetter, LetterPlace } from "../../../streams/dead-letters.ts";
import { listDeadLetters, replayDeadLetter, replayDeadLetters } from "../../operations/dead-letters.ts";
import { deadLettersAnswer, deadLettersQuery, replayBody, replayedAnswer, topicNames } from "../operator-schemas.ts";
import { route } from "../route.ts";

const PAGE_DEFAULT = 100;

export const deadLetters = route({
  method: "GET",
  path: "/ops/dead-letters",
  operationId: "listDeadLetters",
  summary: "See dead letters",
  description: "How many lie in each topic; with a topic also a page of them. Metadata only.",
  signedBy: "operator",
  request: { query: deadLettersQuery },
  answers: { 200: { description: "By partition and offset", schema: deadLettersAnswer } },
  refuses: [],
  handle: async (deps, { query: { topic, after, limit = PAGE_DEFAULT }, signal }) => {
    const names = topic === undefined ? topicNames : [topic];
    const counted = await Promise.all(
      names.map(async (name) => ({ topic: name, count: await deps.countDeadLetters(name) })),
    );
    const topics = counted.filter(({ count }) => count > 0);
    if (topic === undefined) return { status: 200, json: { topics } };
    const { letters, next } = await listDeadLetters(deps, topic, { from: placeOf(after), limit }, signal);
    const json = { topics, letters: letters.map(letterToWire), ...(next === null ? {} : { cursor: cursorOf(next) }) };
    return { status: 200, json };
  },
});

export const replay = route({
  method: "POST",
  path: "/ops/dead-letters/replay",
  operationId: "replayDeadLetters",
  summary: "Put dead letters back into their topic",
  description:
    "As they were: key, value, ce_id and headers. They stay in the dead-letter topic, too; put back again, they do no harm.",
  signedBy: "operator",
  request: { body: replayBody },
  answers: { 200: { description: "Put back, or counted", schema: replayedAnswer } },
  refuses: ["dead-letter-unknown"],
  handle: async (deps, { body: { topic, partition, offset, after, dry_run: isDryRun = false }, signal }) => {
    const asked = { topic, isDryRun, signal };
    const { count, skipped, next } =
      partition === undefined || offset === undefined
        ? await replayDeadLetters(deps, asked, placeOf(after))
        : await replayDeadLetter(deps, asked, { partition, offset });
    const json = { count, skipped, ...(next === null ? {} : { cursor: cursorOf(next) }), dry_run: isDryRun };
    return { status: 200, json };
  },
});

function letterToWire(letter: DeadLetter): Record<string, unknown> {
  const { partition, offset, at, code, group, origin, id, subject, valueBytes } = letter;
  return {
    ...{ partition, offset, at: formatTimestamp(at), code, group },
    origin: { ...origin, at: origin.at === null ? null : formatTimestamp(origin.at) },
    ...{ ce_id: id, ce_subject: subject, value_bytes: valueBytes },
  };
}

function cursorOf({ partition, offset }: LetterPlace): string {
  return `${partition}.${offset}`;
}

/** Of a text that the schema let through. */
function placeOf(text: string | undefined): LetterPlace | null {
  if (text === undefined) return null;
  const [partition, offset] = text.split(".").map(Number);
  return { partition: partition ?? 0, offset: offset ?? 0 };
}
