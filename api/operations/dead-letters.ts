/**
 * What operators do about dead letters: they see them, and put them back.
 *
 * Promise: a letter goes back to its topic as the record that it was: key, value, `ce_id` and headers. It stays where it lies, and may be put back again:
 * whoever reads the topic knows a repetition by its ids (docs/operations.md says how, for each topic). Only metadata is shown.
 */
import { DAY_MS } from "../../protocol/limits.ts";
import { messageIdTime } from "../../protocol/message-id.ts";
import { isUuid } from "../../protocol/uuid.ts";
import { messageEncrypted, messageSend } from "../../streams/catalogue.ts";
import type { Outgoing } from "../../streams/consumer.ts";
import type { DeadLetter, LetterPlace } from "../../streams/dead-letters.ts";
import { ApiRefusal } from "../problem.ts";
import type { StuckDeps } from "./stuck.ts";

export interface DeadLettersDeps extends Pick<StuckDeps, "onAct"> {
  /** `streams/dead-letters.ts`, by the topic's name. Both throw `Unavailable`. */
  readonly countDeadLetters: (topic: string) => Promise<number>;
  readonly readDeadLetters: (
    topic: string,
    page: { readonly from: LetterPlace | null; readonly limit: number },
    handle: (letters: readonly DeadLetter[]) => Promise<void>,
    signal: AbortSignal,
  ) => Promise<LetterPlace | null>;
  /** Resolves when Kafka has them. Throws `Unavailable`. */
  readonly appendAsIs: (records: readonly Outgoing[]) => Promise<void>;
  /** ms since the epoch. */
  readonly now: () => number;
}

/** Their readers refuse ids that are older than 8 days at the append, and tell the sender that the message was discarded, also when it was delivered before. */
const REFUSE_OLD_IDS: ReadonlySet<string> = new Set([messageSend.name, messageEncrypted.name]);

/** A day below: a replay takes a while. */
const ID_AGE_MS_MAX = 7 * DAY_MS;

/** Of a page. */
export const LETTERS_PAGE_MAX = 500;

/** Of a replay: some seconds of work. */
const LETTERS_BULK_MAX = 10_000;

/** Reading a page takes a second or two; a log that was cut in the meantime is not waited for. */
const READ_MS_MAX = 30_000;

/** @throws Unavailable */
export async function listDeadLetters(
  deps: DeadLettersDeps,
  topic: string,
  page: { readonly from: LetterPlace | null; readonly limit: number },
  signal: AbortSignal,
): Promise<{ readonly letters: readonly DeadLetter[]; readonly next: LetterPlace | null }> {
  const letters: DeadLetter[] = [];
  const keep = async (some: readonly DeadLetter[]) => {
    // Without the records: a page of them may be half a gigabyte.
    letters.push(...some.map((letter) => ({ ...letter, record: null })));
  };
  const next = await deps.readDeadLetters(topic, page, keep, inTime(signal));
  letters.sort((a, b) => a.partition - b.partition || a.offset - b.offset);
  return { letters, next };
}

export interface Replayed {
  readonly count: number;
  /** Letters that are not of this topic's making, that were cut, and those whose message is too old by now: they are not put back. */
  readonly skipped: number;
  readonly next: LetterPlace | null;
}

/** What a replay is about. */
interface Replay {
  readonly topic: string;
  readonly isDryRun: boolean;
  /** The client's. */
  readonly signal: AbortSignal;
}

/** One letter. @throws ApiRefusal `dead-letter-unknown`; `Unavailable` */
export async function replayDeadLetter(deps: DeadLettersDeps, asked: Replay, place: LetterPlace): Promise<Replayed> {
  // A page goes on behind a place without a letter.
  const isAsked = ({ partition, offset }: LetterPlace) => partition === place.partition && offset === place.offset;
  const { count, skipped } = await replay(deps, asked, { from: place, limit: 1 }, isAsked);
  if (count + skipped === 0) throw new ApiRefusal("dead-letter-unknown", { field: "/offset" });
  return { count, skipped, next: null };
}

/** All from a place on, at most `LETTERS_BULK_MAX`. @throws Unavailable: some may be back; the same again does no harm */
export function replayDeadLetters(deps: DeadLettersDeps, asked: Replay, from: LetterPlace | null): Promise<Replayed> {
  return replay(deps, asked, { from, limit: LETTERS_BULK_MAX }, () => true);
}

async function replay(
  deps: DeadLettersDeps,
  { topic, isDryRun, signal }: Replay,
  page: { readonly from: LetterPlace | null; readonly limit: number },
  isAsked: (place: LetterPlace) => boolean,
): Promise<Replayed> {
  let count = 0;
  let skipped = 0;
  const putBack = async (letters: readonly DeadLetter[]) => {
    const asked = letters.filter(isAsked);
    const able = asked.filter((letter) => letter.record !== null && !isTooOld(topic, letter, deps.now()));
    skipped += asked.length - able.length;
    count += able.length;
    if (isDryRun) return;
    for (let start = 0; start < able.length; start += LETTERS_PAGE_MAX) {
      const some = able.slice(start, start + LETTERS_PAGE_MAX);
      await deps.appendAsIs(some.flatMap(({ record }) => record ?? []));
      const named = some.map(({ partition, offset, id }) => ({ partition, offset, id }));
      deps.onAct({ act: "replayed", topic, letters: named });
    }
  };
  const next = await deps.readDeadLetters(topic, page, putBack, inTime(signal));
  return { count, skipped, next };
}

/** By the id in its subject: who appends has put it there. */
function isTooOld(topic: string, { subject }: DeadLetter, now: number): boolean {
  if (!REFUSE_OLD_IDS.has(topic) || subject === null) return false;
  const id = subject.slice(subject.lastIndexOf("/") + 1);
  const time = isUuid(id) ? messageIdTime(id) : null;
  return time !== null && time < now - ID_AGE_MS_MAX;
}

function inTime(signal: AbortSignal): AbortSignal {
  return AbortSignal.any([signal, AbortSignal.timeout(READ_MS_MAX)]);
}
