/**
 * Rates: how often something may happen to a key within a window, asked for on every call.
 *
 * Promises: all processes count together, almost: of a window each process lets the first fiftieth pass on trust, and takes further fiftieths from the
 * shared count before it uses them. So whoever stays far below a limit costs Redis nothing, whoever uses it up costs it fifty questions, and whoever is
 * over it is refused here without another one. A limit below a hundred is counted exactly. While Redis is away each process counts for itself: nobody is refused for that,
 * and nobody waits for longer than a command to Redis may take. Never throws.
 */
import type { Redis } from "ioredis";
import { RateLimiterMemory, RateLimiterRedis } from "rate-limiter-flexible";
import { counted, type Limit } from "./limits.ts";
import { type RedisDoor, unlessAway } from "./redis.ts";

/** How a key stands with a limit. */
export interface Standing {
  readonly allowed: boolean;
  /** Points left in this window, as far as this process knows. */
  readonly remaining: number;
  /** Until the window ends. */
  readonly resetMs: number;
}

export interface Taken extends Standing {
  /** Puts back what was taken for something that did not happen: into the window it was taken from, so nothing when that has ended. To be called once. */
  giveBack(): void;
}

export interface RatesDoor {
  /** Takes all of the points, or none. */
  take(limit: Limit, key: string, points?: number): Promise<Taken>;
  /** Takes nothing, and asks nobody. `allowed`: so many points more (1), as far as this process knows. */
  standing(limit: Limit, key: string, points?: number): Standing;
}

/** Of each window as many parts are taken from the shared count: more cost Redis more, fewer let processes keep more from each other. */
const PARTS = 50;

/** Some 200 bytes each. A key that is forgotten begins on trust again. */
const SHARES_MAX = 100_000;

/** What this process may still let through of a window. */
interface Share {
  /** Points it may still let through without asking. */
  left: number;
  /** Points let through on trust that the shared count does not know of. */
  owed: number;
  /** Points left for everybody, when it was last asked. */
  shared: number;
  /** By `now`. */
  endsAt: number;
  /** The shared count has no more. */
  isSpent: boolean;
  asking: Promise<void> | null;
}

export function openRates(redis: RedisDoor, now: () => number = () => performance.now()): RatesDoor {
  const shares = new Map<string, Share>();
  const limiters = new WeakMap<Limit, { readonly shared: RateLimiterRedis; readonly alone: RateLimiterMemory }>();

  function limitersOf(client: Redis, limit: Limit) {
    let made = limiters.get(limit);
    if (made === undefined) {
      const { points, seconds: duration } = limit;
      const keyPrefix = redis.key(`rate:${limit.name}`);
      made = {
        shared: new RateLimiterRedis({ storeClient: client, keyPrefix, points, duration }),
        alone: new RateLimiterMemory({ keyPrefix, points, duration }),
      };
      limiters.set(limit, made);
    }
    return made;
  }

  function shareOf(limit: Limit, key: string): Share {
    const name = nameOf(limit, key);
    const known = shares.get(name);
    if (known !== undefined && known.endsAt > now()) return known;
    const share = freshShare(limit, now());
    // Deleted first, so that a Map's insertion order is the order of age.
    shares.delete(name);
    shares.set(name, share);
    for (const oldest of shares.keys()) {
      if (shares.size <= SHARES_MAX) break;
      shares.delete(oldest);
    }
    return share;
  }

  async function askFor(limit: Limit, key: string, share: Share, missing: number): Promise<void> {
    const wanted = Math.max(missing, partOf(limit));
    const points = wanted + share.owed;
    let alone: RateLimiterMemory | undefined;
    const ask = redis.ask((client) => {
      const both = limitersOf(client, limit);
      alone = both.alone;
      return counted(both.shared.consume(key, points));
    });
    const answer = (await unlessAway(ask)) ?? (alone === undefined ? null : await counted(alone.consume(key, points)));
    if (answer === null) throw new Error("a limiter was not made");
    const before = answer.consumedPoints - wanted;
    const granted = Math.min(wanted, Math.max(0, limit.points - before));
    share.owed = 0;
    share.left += granted;
    share.shared = Math.max(0, limit.points - answer.consumedPoints);
    share.isSpent = granted < wanted;
    share.endsAt = now() + Math.max(1, answer.msBeforeNext);
  }

  const standingOf = (share: Share, allowed: boolean): Standing => ({
    allowed,
    remaining: share.left + share.shared,
    resetMs: Math.max(0, share.endsAt - now()),
  });

  return {
    take: async (limit, key, points = 1) => {
      for (;;) {
        const share = shareOf(limit, key);
        if (share.left >= points) {
          share.left -= points;
          const giveBack = () => {
            // A window that has ended has left its share behind: nobody takes from that any more.
            share.left += points;
          };
          return { ...standingOf(share, true), giveBack };
        }
        if (share.isSpent) return { ...standingOf(share, false), giveBack: () => undefined };
        share.asking ??= askFor(limit, key, share, points - share.left).finally(() => {
          share.asking = null;
        });
        await share.asking;
      }
    },
    standing: (limit, key, points = 1) => {
      const known = shares.get(nameOf(limit, key));
      const share = known !== undefined && known.endsAt > now() ? known : freshShare(limit, now());
      return standingOf(share, share.left >= points || !share.isSpent);
    },
  };
}

/** The first part is on trust: owed from the beginning, as it is used up before anybody is asked. */
function freshShare(limit: Limit, nowMs: number): Share {
  const trusted = partOf(limit) === 1 ? 0 : partOf(limit);
  const endsAt = nowMs + limit.seconds * 1000;
  return { left: trusted, owed: trusted, shared: limit.points - trusted, endsAt, isSpent: false, asking: null };
}

function partOf({ points }: Limit): number {
  return Math.max(1, Math.floor(points / PARTS));
}

function nameOf({ name }: Limit, key: string): string {
  return `${name} ${key}`;
}
