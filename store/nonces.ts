/**
 * The memory that makes a signature good for one request.
 *
 * Promises: within one memory a (key, nonce) is fresh once, until its signature has expired. A memory that began later than a signature
 * was made cannot know whether it was used before, and asks for a new one (`sign-again`): after a restart of Redis, an old snapshot, an
 * emptied server. While Redis is away, each process remembers for itself, and each such memory begins anew; then, and only then, a
 * signature can be used once per process. Never throws `Unavailable`.
 */
import { type RedisDoor, redisReady, unlessAway } from "./redis.ts";

export type NonceVerdict = "fresh" | "replayed" | "sign-again";

export interface NoncesDoor {
  /**
   * Begins the memory, if it is new, before the first question; does nothing while Redis is away. Opening does the same as soon as
   * Redis is there.
   */
  begin(): Promise<void>;
  /** `createdS` and `expiresS` of the signature, seconds since the epoch. */
  remember(keyId: string, nonce: string, createdS: number, expiresS: number): Promise<NonceVerdict>;
}

export interface NonceOptions {
  /**
   * How far ahead of our clock the API lets `created` lie, seconds: a memory refuses signatures for as long after it began, because
   * one from before may carry that time.
   */
  readonly aheadSMax: number;
  /** ms since the epoch. */
  readonly now?: () => number;
}

/** Nonces remembered without Redis. More would cost memory a flood of requests should not get; reaching it begins a new memory. */
const localNoncesMax = 100_000;

/** A Redis that is not there by then is asked with the first signature. */
const beginMsMax = 10_000;

/** Redis forgets a nonce this long after its signature expired: our clocks may differ by as much. */
const slackS = 60;

/**
 * KEYS epoch, nonce. ARGV start id, ours to write if the memory is new (seconds), the least it may be (seconds), created, life (s).
 * The epoch is kept with the id of the server's start: another one means that what was remembered may be gone.
 */
const rememberScript = `
local start, epoch = string.match(redis.call("GET", KEYS[1]) or "", "^(%S+) (%d+)$")
epoch = tonumber(epoch)
if start ~= ARGV[1] then epoch = tonumber(ARGV[2]) end
if epoch < tonumber(ARGV[3]) then epoch = tonumber(ARGV[3]) end
redis.call("SET", KEYS[1], ARGV[1] .. " " .. string.format("%d", epoch))
if tonumber(ARGV[4]) <= epoch then return "sign-again" end
if redis.call("SET", KEYS[2], "", "NX", "EX", ARGV[5]) then return "fresh" end
return "replayed"`;

export function openNonces(redis: RedisDoor, { aheadSMax, now = Date.now }: NonceOptions): NoncesDoor {
  const local = localMemory(aheadSMax);
  /** What Redis does not know ends here: signatures up to then were judged by this process alone. */
  let judgedAloneUntilS = 0;
  const epochOf = (ms: number) => Math.ceil(ms / 1000) + aheadSMax;

  const ask = async (keyId: string, nonce: string, createdS: number, expiresS: number): Promise<NonceVerdict> => {
    const startId = await redis.startId();
    const lifeS = Math.max(1, Math.ceil(expiresS - now() / 1000) + slackS);
    const verdict = await redis.ask((client) =>
      client.eval(
        rememberScript,
        2,
        redis.key("nonce-epoch"),
        redis.key(`nonce:${keyId}:${nonce}`),
        startId,
        epochOf(now()),
        judgedAloneUntilS,
        createdS,
        lifeS,
      ),
    );
    return verdict as NonceVerdict;
  };

  const nonces: NoncesDoor = {
    begin: async () => {
      // A signature of the year 1970 is refused before its nonce is written.
      await unlessAway(ask("", "", 0, 0));
    },
    remember: async (keyId, nonce, createdS, expiresS) => {
      const shared = await unlessAway(ask(keyId, nonce, createdS, expiresS));
      if (shared !== null) {
        local.end();
        return shared;
      }
      const verdict = local.remember(`${keyId}:${nonce}`, createdS, expiresS, now());
      if (verdict === "fresh") judgedAloneUntilS = epochOf(now());
      return verdict;
    },
  };
  // A service that has just started is asked its first questions a few seconds later: the memory's first seconds are over by then.
  void redisReady(redis, beginMsMax).then(() => nonces.begin());
  return nonces;
}

/** A memory in this process; it begins with the first question after an `end`. */
function localMemory(aheadSMax: number) {
  const expiryS = new Map<string, number>();
  let epochS: number | null = null;
  return {
    end: () => {
      if (epochS === null) return;
      epochS = null;
      expiryS.clear();
    },
    remember: (key: string, createdS: number, expiresS: number, nowMs: number): NonceVerdict => {
      const nowS = Math.ceil(nowMs / 1000);
      if (expiryS.size >= localNoncesMax) forgetExpired(expiryS, nowS);
      if (epochS === null || expiryS.size >= localNoncesMax) {
        epochS = nowS + aheadSMax;
        expiryS.clear();
      }
      if (createdS <= epochS) return "sign-again";
      if (expiryS.has(key)) return "replayed";
      expiryS.set(key, expiresS);
      return "fresh";
    },
  };
}

function forgetExpired(expiryS: Map<string, number>, nowS: number): void {
  for (const [key, expires] of expiryS) if (expires + slackS < nowS) expiryS.delete(key);
}
