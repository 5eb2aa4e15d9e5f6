/** Rates in memory, for tests. */
import type { Limit } from "../store/limits.ts";
import type { RatesDoor } from "../store/rates.ts";
import type { RateLimits } from "./rate-limits.ts";

/** Windows that never end, and everything is shared at once. */
export function inMemoryRates(): RatesDoor {
  const counts = new Map<string, number>();
  const nameOf = ({ name }: Limit, key: string) => `${name} ${key}`;
  const standingOf = (limit: Limit, key: string, allowed: boolean) => ({
    allowed,
    remaining: limit.points - (counts.get(nameOf(limit, key)) ?? 0),
    resetMs: limit.seconds * 1000,
  });
  return {
    take: async (limit, key, points = 1) => {
      const count = (counts.get(nameOf(limit, key)) ?? 0) + points;
      if (count > limit.points) return { ...standingOf(limit, key, false), giveBack: () => undefined };
      counts.set(nameOf(limit, key), count);
      const giveBack = () => void counts.set(nameOf(limit, key), (counts.get(nameOf(limit, key)) ?? 0) - points);
      return { ...standingOf(limit, key, true), giveBack };
    },
    standing: (limit, key, points = 1) =>
      standingOf(limit, key, (counts.get(nameOf(limit, key)) ?? 0) + points <= limit.points),
  };
}

/** Nobody meets them by accident. */
export const generousRates: RateLimits = {
  calls: { name: "calls", points: 100_000, seconds: 60 },
  messages: { name: "messages", points: 100_000, seconds: 60 },
  pair: { name: "pair", points: 100_000, seconds: 60 },
  unproven: { name: "unproven", points: 100_000, seconds: 60 },
  registrations: { name: "registrations", points: 100_000, seconds: 3_600 },
};
