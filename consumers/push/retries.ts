/**
 * When devices that could not be woken are tried again, and what is said when that was in vain. Pure.
 *
 * Three retries, 10, 30 and 90 s after the attempt before, each a quarter longer at random, so that those who failed together do not come back
 * together. Where a provider asks for longer (Retry-After), longer: what a topic does not wait is waited in further rounds, which are no attempts.
 */
import type { MessageReceipt, PushRetry } from "../../schemas/values.ts";
import { wakeMs } from "../../store/wakes.ts";
import { messageReceipt, pushRetry10s, pushRetry30s, pushRetry90s } from "../../streams/catalogue.ts";
import type { Emit, Inbound } from "../../streams/consumer.ts";
import type { Wanted } from "./wanted.ts";

/** The first one and three retries. */
export const attemptsMax = 4;

/** A provider that wants to be left alone for longer is not asked again by this wake: it would be of the past by then. */
export const retryAfterMsMax = wakeMs;

const jitterMax = 0.25;

const rounds = [
  { topic: pushRetry10s, ms: 10_000 },
  { topic: pushRetry30s, ms: 30_000 },
  { topic: pushRetry90s, ms: 90_000 },
] as const;
const [, , longest] = rounds;

/** The longest that a record stands in front of others in its partition. */
const delayMsMax = longest.ms * (1 + jitterMax);

/** All that a wake may wait between two attempts. */
const waitMsMax = retryAfterMsMax * (1 + jitterMax);

/** What no wake of ours waits would go round and round for as long as it says. */
export function isWait({ delayMs, restMs }: Pick<PushRetry, "delayMs" | "restMs">): boolean {
  return delayMs >= 0 && delayMs <= delayMsMax && restMs >= 0 && restMs <= waitMsMax;
}

/** An attempt after which devices are still to be woken. */
export interface Failed {
  readonly wanted: Wanted;
  /** Those that are tried again: none after the last attempt, nor of providers that want to be left alone for too long. */
  readonly deviceIds: readonly string[];
  readonly woken: boolean;
  /** What the slowest of their providers asks for; null when none does. */
  readonly afterMs: number | null;
}

export function isGivenUp({ deviceIds, woken }: Failed): boolean {
  return deviceIds.length === 0 && !woken;
}

/** The next attempt; where there is none, the word that what waits could not be announced, unless another device was woken. */
export function afterFailure(failed: Failed, now: number, random: () => number): readonly Emit[] {
  const { wanted, deviceIds, woken, afterMs } = failed;
  if (isGivenUp(failed)) return [undeliverable(wanted, now)];
  const round = rounds[wanted.attempt - 1];
  if (round === undefined || deviceIds.length === 0) return [];
  const waitMs = Math.round(Math.max(round.ms, afterMs ?? 0) * (1 + jitterMax * random()));
  const { wakeId, recipientId, seq, requestedAt, attempt, cause } = wanted;
  const next = { wakeId, recipientId, seq, requestedAt, attempt: attempt + 1, deviceIds, woken };
  return [retry(cause, next, waitMs)];
}

/** What is left of a wait: no attempt. */
export function nextRound(record: Inbound<PushRetry>): Emit<PushRetry> {
  return retry(record, record.value, record.value.restMs);
}

function retry(
  cause: Emit["cause"] & { readonly timestamp: number },
  value: Omit<PushRetry, "delayMs" | "restMs">,
  waitMs: number,
): Emit<PushRetry> {
  const delayMs = Math.min(waitMs, delayMsMax);
  // A wait and its jitter stay in one topic.
  const { topic } = rounds.find(({ ms }) => delayMs <= ms * (1 + jitterMax)) ?? longest;
  const { recipientId } = value;
  const head = { topic, key: recipientId, cause, time: cause.timestamp, subject: recipientId };
  return { ...head, value: () => ({ ...value, delayMs, restMs: waitMs - delayMs }) };
}

function undeliverable({ cause, recipientId, seq }: Wanted, now: number): Emit<MessageReceipt> {
  const value = { recipientId, items: [], undeliverable: { afterSeq: 0, untilSeq: seq, at: now } };
  return { topic: messageReceipt, key: recipientId, cause, time: now, subject: recipientId, value: () => value };
}
