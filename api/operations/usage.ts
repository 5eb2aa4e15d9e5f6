/**
 * What agents used, by the hour or by the day.
 *
 * Promise: an agent sees its own use only. What is read is what was counted; it lags behind what happens by some seconds.
 */
import { DAY_MS } from "../../protocol/limits.ts";
import type { UsagePeriod, UsageRange } from "../../store/usage.ts";
import { ApiRefusal } from "../problem.ts";

export interface UsageDeps {
  /** The periods in which something was counted, the earliest first. Throws `Unavailable`. */
  readonly usageOf: (agentId: string, range: UsageRange, limit: number) => Promise<readonly UsagePeriod[]>;
  /** Of an hour all agents behind `after`, by id. Throws `Unavailable`. */
  readonly usageOfHour: (hour: number, after: string, limit: number) => Promise<readonly UsagePeriod[]>;
  readonly now: () => number;
}

export const GRANULARITIES = ["hour", "day"] as const;
export type Granularity = (typeof GRANULARITIES)[number];

/** Periods of a page: some 150 KB of JSON. */
export const USAGE_PERIODS_MAX = 500;

export const HOUR_MS = 60 * 60 * 1000;
const PERIOD_MS: Readonly<Record<Granularity, number>> = { hour: HOUR_MS, day: DAY_MS };

/** What is asked for where nothing is said: a day of hours, or a month of days, up to now. */
const USUAL_PERIODS: Readonly<Record<Granularity, number>> = { hour: 24, day: 30 };

export interface UsageQuestion {
  readonly granularity: Granularity;
  /** Ms since the epoch, a beginning of an hour; undefined: as usual. */
  readonly from: number | undefined;
  readonly to: number | undefined;
  /** The period at which the page before ended. */
  readonly after: number | undefined;
  readonly limit: number;
}

export interface UsagePage {
  readonly from: number;
  readonly to: number;
  readonly periods: readonly UsagePeriod[];
  /** The period at which the page ended; null on the last one. */
  readonly next: number | null;
}

/** A page of an agent's use. @throws ApiRefusal, Unavailable */
export async function agentUsage(deps: UsageDeps, agentId: string, question: UsageQuestion): Promise<UsagePage> {
  const { granularity, after, limit } = question;
  const periodMs = PERIOD_MS[granularity];
  const to = question.to ?? (Math.floor(deps.now() / periodMs) + 1) * periodMs;
  const from = question.from ?? to - USUAL_PERIODS[granularity] * periodMs;
  for (const [field, time] of [
    // What was left out follows from it.
    ["/to", to],
    ["/from", from],
  ] as const) {
    if (time % periodMs !== 0) {
      throw new ApiRefusal("malformed", {
        ...{ field, detail: `not the beginning of a ${granularity} in UTC` },
        fix: "Days begin at 00:00:00.000Z; for other times ask with granularity=hour.",
      });
    }
  }
  if (from >= to) {
    throw new ApiRefusal("malformed", {
      ...{ field: "/from", detail: "not before to" },
      fix: "Give a from that is before to; the hour at to is not in the answer.",
    });
  }
  const begin = after === undefined ? from : Math.max(from, after + periodMs);
  const found = await deps.usageOf(agentId, { from: begin, to, periodMs }, limit + 1);
  const periods = found.slice(0, limit);
  return { from, to, periods, next: found.length > limit ? (periods.at(-1)?.at ?? null) : null };
}

/** A page of an hour of all agents; `next` is the last one's id, null on the last page. @throws Unavailable */
export async function hourUsage(
  deps: UsageDeps,
  hour: number,
  after: string,
  limit: number,
): Promise<{ readonly periods: readonly UsagePeriod[]; readonly next: string | null }> {
  const found = await deps.usageOfHour(hour, after, limit + 1);
  const periods = found.slice(0, limit);
  return { periods, next: found.length > limit ? (periods.at(-1)?.agentId ?? null) : null };
}
