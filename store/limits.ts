/**
 * Limits: how often something may happen to a key, within a window that begins with its first time.
 *
 * Promises: all processes count together; of one window never more than `points` are allowed. A window lost with Redis's memory begins anew.
 */
import type { Redis } from "ioredis";
import { RateLimiterRedis, RateLimiterRes } from "rate-limiter-flexible";
import { type RedisDoor, unlessAway } from "./redis.ts";

/** Made once and used for every key: two limits of one name would count together. */
export interface Limit {
  /** Stands in the keys. */
  readonly name: string;
  /** Times allowed in a window. */
  readonly points: number;
  readonly seconds: number;
}

export interface Allowance {
  readonly allowed: boolean;
  /** Until the window ends, ms: whoever was not allowed may try again then. */
  readonly retryAfterMs: number;
}

export interface LimitsDoor {
  /** Counts `points` times (default 1). What is not allowed does not make the window longer. Throws `Unavailable("redis")`. */
  consume(limit: Limit, key: string, points?: number): Promise<Allowance>;
  /** Takes one time back that was counted and then did not happen. While Redis is away it is lost until the window ends; never throws. */
  giveBack(limit: Limit, key: string): Promise<void>;
  /** Counts from the beginning again. While Redis is away it does not; never throws. */
  forget(limit: Limit, key: string): Promise<void>;
}

export function openLimits(redis: RedisDoor): LimitsDoor {
  const limiters = new WeakMap<Limit, RateLimiterRedis>();
  function limiterOf(client: Redis, limit: Limit): RateLimiterRedis {
    let limiter = limiters.get(limit);
    if (limiter === undefined) {
      limiter = new RateLimiterRedis({
        storeClient: client,
        keyPrefix: redis.key(`limit:${limit.name}`),
        points: limit.points,
        duration: limit.seconds,
      });
      limiters.set(limit, limiter);
    }
    return limiter;
  }
  return {
    consume: (limit, key, points = 1) =>
      redis.ask(async (client) => {
        const { consumedPoints, msBeforeNext } = await counted(limiterOf(client, limit).consume(key, points));
        return { allowed: consumedPoints <= limit.points, retryAfterMs: Math.max(0, msBeforeNext) };
      }),
    giveBack: async (limit, key) => {
      await unlessAway(redis.ask((client) => limiterOf(client, limit).reward(key)));
    },
    forget: async (limit, key) => {
      await unlessAway(redis.ask((client) => limiterOf(client, limit).delete(key)));
    },
  };
}

/** The library rejects with the count where the limit is exceeded. */
export async function counted(consuming: Promise<RateLimiterRes>): Promise<RateLimiterRes> {
  try {
    return await consuming;
  } catch (error) {
    if (error instanceof RateLimiterRes) return error;
    throw error;
  }
}
