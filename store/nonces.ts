/**
 * The memory that makes a signature good for one request.
 *
 * Promises: within one memory a (key, nonce) is fresh once, until its signature has expired. A memory that began later than a signature
 * was made cannot know whether it was used before, and asks for a new one (`sign-again`): after a restart of Redis, an old snapshot, an
 * emptied server. While a process is cut off from Redis it remembers for itself, and that memory begins anew; then, and only then, a signature can
 * be used once per process. What it took alone it writes into Redis before it asks there again, so that nobody else is asked to sign again for it.
 * Whose answer got lost or came too late is asked for a new signature, and nothing else moves: a slow process hurts its own requests only.
 * Never throws `Unavailable`.
 */
import { LocalNonces, type NonceVerdict, slackS } from "./local-nonces.ts";
import { pipelineValues, type RedisDoor, redisReady, unlessAway } from "./redis.ts";

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

/** A Redis that is not there by then is asked with the first signature. */
const beginMsMax = 10_000;

/** Nonces written in one round trip when a process comes back: 1,000 take Redis a millisecond or two. */
const uploadedAtOnceMax = 1_000;

/** Between attempts to come back. Soon, as meanwhile a signature can be used here and elsewhere; rare enough for a server that is too slow to answer. */
const rejoinMs = 250;

/**
 * KEYS epoch, nonce. ARGV start id, ours to write if the memory is new (seconds), the least it may be (seconds), created, life (s), how far the
 * epoch may lie ahead of the server's clock (s).
 * The epoch is kept with the id of the server's start: another one means that what was remembered may be gone. One process whose clock is an hour ahead would
 * otherwise have everybody refused for an hour.
 */
const rememberScript = `
local start, epoch = string.match(redis.call("GET", KEYS[1]) or "", "^(%S+) (%d+)$")
epoch = tonumber(epoch)
if start ~= ARGV[1] then epoch = tonumber(ARGV[2]) end
if epoch < tonumber(ARGV[3]) then epoch = tonumber(ARGV[3]) end
local most = tonumber(redis.call("TIME")[1]) + tonumber(ARGV[6])
if epoch > most then epoch = most end
redis.call("SET", KEYS[1], ARGV[1] .. " " .. string.format("%d", epoch))
if tonumber(ARGV[4]) <= epoch then return "sign-again" end
if redis.call("SET", KEYS[2], "", "NX", "EX", ARGV[5]) then return "fresh" end
return "replayed"`;

export function openNonces(redis: RedisDoor, { aheadSMax, now = Date.now }: NonceOptions): NoncesDoor {
  const epochAt = (ms: number) => Math.ceil(ms / 1000) + aheadSMax;
  const lifeS = (expiresS: number) => Math.max(1, Math.ceil(expiresS - now() / 1000) + slackS);
  /** What Redis does not know ends here: the nonces up to then were judged by this process alone, and are forgotten. */
  let forgottenUntilS = 0;
  /** Null while Redis judges. */
  let alone: LocalNonces | null = null;
  let joining: Promise<void> | null = null;
  let joinNotBefore = 0;

  const ask = async (keyId: string, nonce: string, createdS: number, expiresS: number): Promise<NonceVerdict> => {
    const startId = await redis.startId();
    const verdict = await redis.ask((client) =>
      client.eval(
        rememberScript,
        2,
        redis.key("nonce-epoch"),
        nonceKey(redis, keyId, nonce),
        startId,
        epochAt(now()),
        forgottenUntilS,
        createdS,
        lifeS(expiresS),
        aheadSMax + slackS,
      ),
    );
    return verdict as NonceVerdict;
  };
  // A signature of the year 1970 is refused before its nonce is written.
  const begin = async () => (await unlessAway(ask("", "", 0, 0))) !== null;

  const upload = async (taken: Iterable<readonly [name: string, expiresS: number]>): Promise<void> => {
    const left = taken[Symbol.iterator]();
    for (let slice = [...take(left, uploadedAtOnceMax)]; slice.length > 0; slice = [...take(left, uploadedAtOnceMax)]) {
      await redis.ask(async (client) => {
        const writes = client.pipeline();
        for (const [name, expiresS] of slice) writes.set(redis.key(`nonce:${name}`), "", "EX", lifeS(expiresS));
        pipelineValues(await writes.exec());
      });
    }
  };

  /** Nobody is judged meanwhile. Stays alone when Redis does not answer. */
  const join = async (local: LocalNonces): Promise<void> => {
    forgottenUntilS = Math.max(forgottenUntilS, local.forgottenUntilS);
    const isUploaded = (await unlessAway(upload(local.taken()).then(() => true))) ?? false;
    if (isUploaded && (await begin())) alone = null;
    else joinNotBefore = performance.now() + rejoinMs;
  };
  const joinIfReady = (): void => {
    if (alone === null || joining !== null || !redis.ready() || performance.now() < joinNotBefore) return;
    joining = join(alone).finally(() => {
      joining = null;
    });
  };

  /** Comes back also when nobody asks here: what was taken alone should be known elsewhere soon. */
  const beginAlone = (): LocalNonces => {
    const local = new LocalNonces(epochAt);
    const clock = setInterval(() => {
      if (alone === local) joinIfReady();
      else clearInterval(clock);
    }, rejoinMs);
    clock.unref();
    return local;
  };

  // A service that has just started is asked its first questions a few seconds later: the memory's first seconds are over by then.
  void redisReady(redis, beginMsMax).then(begin);
  return {
    begin: async () => void (await begin()),
    remember: async (keyId, nonce, createdS, expiresS) => {
      joinIfReady();
      // From here on in one turn: nothing is taken alone between the last look at it and the end of being alone.
      while (joining !== null) await joining;
      if (alone === null && redis.ready()) {
        // Whether it was written is not known. It was not taken, so it may be taken later, once; this request needs another signature.
        return (await unlessAway(ask(keyId, nonce, createdS, expiresS))) ?? "sign-again";
      }
      alone ??= beginAlone();
      return alone.remember(`${keyId}:${nonce}`, createdS, expiresS, now());
    },
  };
}

function nonceKey(redis: RedisDoor, keyId: string, nonce: string): string {
  return redis.key(`nonce:${keyId}:${nonce}`);
}

function* take<Item>(items: Iterator<Item>, countMax: number): Generator<Item> {
  for (let n = 0; n < countMax; n++) {
    const { done, value } = items.next();
    if (done) return;
    yield value;
  }
}
