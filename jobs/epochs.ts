/**
 * Destroys the keys of epochs that nothing in the log was sealed to any more: from then on no copy of the log opens what was said in them.
 *
 * Reads   how far message.send.v1 was trimmed, by the times at which its records were appended, and the ages of its dead letters. A record's time bounds
 *         its epoch (store/ingress.ts): no record is read for it.
 * Keeps   an epoch's key while a record of it may lie above the trim point or in the dead letters, and until the day after has passed.
 */
import { appendedBefore, destroyEpochs, earliestEpochAt } from "../store/ingress.ts";
import type { Keyring } from "../store/keyring/keyring.ts";
import { messageSend } from "../streams/catalogue.ts";
import { earliestDeadLetter } from "../streams/dead-letters.ts";
import type { KafkaDoor } from "../streams/kafka.ts";
import type { Topic } from "../streams/topic.ts";
import { isEmptyBefore } from "../streams/trimming.ts";

/** After each trimming. */
export const epochsCron = "47 * * * *";

/** Dead letters are few; a hundred thousand are read within it. */
const LETTERS_MS_MAX = 5 * 60 * 1000;

export interface EpochsDeps {
  readonly keyring: Keyring;
  readonly kafka: KafkaDoor;
  /** What content goes in by. */
  readonly topic?: Topic<unknown>;
}

/**
 * @param now ms since the epoch
 * @param signal ends it before anything is destroyed
 * @throws Unavailable
 */
export async function destroyPassedEpochs(
  { keyring, kafka, topic = messageSend }: EpochsDeps,
  now: number,
  signal: AbortSignal,
): Promise<void> {
  const oldest = keyring.oldest("epoch");
  if (oldest === null || oldest >= earliestEpochAt(now)) return;
  const patience = AbortSignal.any([signal, AbortSignal.timeout(LETTERS_MS_MAX)]);
  const letterMs = await earliestDeadLetter(kafka, topic, patience);
  const lettersFrom = letterMs === null ? Number.POSITIVE_INFINITY : earliestEpochAt(letterMs);
  const bound = Math.min(earliestEpochAt(now), lettersFrom);
  let needed = oldest;
  while (needed < bound && (await isEmptyBefore(kafka, topic.name, appendedBefore(needed)))) needed++;
  if (!signal.aborted) destroyEpochs(keyring, needed, now);
}
