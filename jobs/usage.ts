/**
 * Announces what agents used, and forgets it when it is old.
 *
 * Reads   hours in `messaging_usage` that have changed since they were announced.
 * Writes  usage.v1: an hour of an agent as far as it is counted, under a revision that rises. At least once: a repeat has the same id and bytes.
 * Keeps   which hours are announced, after Kafka has them.
 */
import type { Usage } from "../schemas/values.ts";
import type { Postgres } from "../store/postgres.ts";
import { type ChangedHour, changedHours, forgetUsage, type HourPlace, markAnnounced } from "../store/usage.ts";
import type { NewEvent } from "../streams/headers.ts";
import { usageEvent } from "../streams/usage-events.ts";

/** Every minute: of an hour that goes on, billing gets 60 records of an agent at most. */
export const usageCron = "* * * * *";
/** Every night. */
export const usageDeletionCron = "51 3 * * *";

/** A year, and a month to look back at it: 9,600 hours of a busy agent, some 1.5 MB. */
const KEPT_MS = 400 * 24 * 60 * 60 * 1000;

/** A page: some milliseconds of reading, and some 150 KB of records. */
const PAGE_MAX = 500;

export interface UsageDeps {
  readonly postgres: Postgres;
  /** Resolves when Kafka has them. Throws `Unavailable`. */
  readonly append: (events: readonly NewEvent<Usage>[]) => Promise<void>;
}

/** One turn of the clock. No row is held while Kafka is waited for. Throws `Unavailable`: the next turn begins again. */
export async function announceUsage({ postgres, append }: UsageDeps, signal: AbortSignal): Promise<void> {
  for (let after: HourPlace | null = null; !signal.aborted; ) {
    const hours: readonly ChangedHour[] = await changedHours(postgres, after, PAGE_MAX);
    if (hours.length > 0) await append(hours.map((hour) => usageEvent("/sealpost/jobs", hour)));
    await markAnnounced(postgres, hours);
    after = hours.at(-1) ?? null;
    if (hours.length < PAGE_MAX) return;
  }
}

/** @throws Unavailable */
export async function forgetOldUsage(postgres: Postgres, now: number, signal?: AbortSignal): Promise<void> {
  await forgetUsage(postgres, now - KEPT_MS, signal);
}
