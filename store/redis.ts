/**
 * The door to Redis: what is kept there may be lost at any moment, and waiting for it is never worth more than a quarter of a second.
 *
 * Promises: what is asked is answered, or fails with `Unavailable("redis")`, within `commandMsMax`; while the server is away it fails at
 * once; nothing is queued for a server that is not there; the connection comes back by itself. An answer that is there counts, however late our own
 * turn comes: a busy process does not take itself for a server that is away. Commands of Redis 6.2.
 */
import { Redis } from "ioredis";
import { Unavailable } from "../protocol/refusal.ts";

/** Longer, and a frozen Redis holds up every request by as much; shorter, and a pause of the server's looks like its death. */
const commandMsMax = 250;

/** A connection that is being made answers by then, or is made anew: nobody waits for it. Under load our own turns may take a good part of it. */
const openingMsMax = 2_000;

/** Soon enough that a restarted server is used again within a second or so; rare enough to cost nothing while it is away. */
const reconnectMsMax = 1_000;

export interface RedisDoor {
  /** The name of a key or channel on the server. */
  key(name: string): string;
  /**
   * @throws Unavailable instead of anything that `work` fails with.
   */
  ask<Result>(work: (client: Redis) => Promise<Result>): Promise<Result>;
  /** Names the server's start; changes when it was restarted, whatever it then loaded from its disk. */
  startId(): Promise<string>;
  /** Whether a command would be sent. */
  ready(): boolean;
  /** A connection of its own, for subscribing. The caller disconnects it. */
  connect(): Redis;
  close(): void;
}

/**
 * Connects in the background; does not wait for it.
 *
 * @param options.prefix before every key and channel, so that several installations can share a server
 */
export function openRedis(url: string, options: { readonly prefix?: string } = {}): RedisDoor {
  const prefix = options.prefix ?? "";
  const client = connect(url, openingMsMax);
  let startId: Promise<string> | undefined;
  client.on("close", () => {
    startId = undefined;
  });
  let answeredAt = performance.now();
  const ask = async <Result>(work: (client: Redis) => Promise<Result>): Promise<Result> => {
    const begunAt = performance.now();
    try {
      const result = await inTime(work(client));
      answeredAt = performance.now();
      return result;
    } catch (error) {
      // One that answers nobody (frozen, cut off) must fail at once the second time: give the connection up.
      if (error instanceof TooLate && answeredAt <= begunAt && client.status === "ready") client.stream.destroy();
      throw new Unavailable("redis", error);
    }
  };
  return {
    key: (name) => prefix + name,
    ask,
    startId: () => {
      startId ??= ask(readStartId);
      startId.catch(() => {
        startId = undefined;
      });
      return startId;
    },
    ready: () => client.status === "ready",
    connect: () => connect(url, commandMsMax),
    close: () => client.disconnect(),
  };
}

/** `silentMsMax`: a server that has not answered a command by then is given up as a connection. */
function connect(url: string, silentMsMax: number): Redis {
  const client = new Redis(url, {
    commandTimeout: silentMsMax,
    socketTimeout: silentMsMax,
    connectTimeout: 1_000,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    autoResubscribe: false,
    retryStrategy: (attempt) => Math.min(25 * 2 ** Math.min(attempt, 10), reconnectMsMax) * (0.5 + Math.random() / 2),
    // Its command (CLIENT SETINFO) is of Redis 7.2.
    disableClientInfo: true,
  });
  // Every failure reaches the command that it concerns; without a listener it would be written to the console as well.
  client.on("error", () => undefined);
  return client;
}

class TooLate extends Error {}

/** Fails with `TooLate` after `commandMsMax`. What has arrived while this process did something else is looked at before. */
async function inTime<Result>(work: Promise<Result>): Promise<Result> {
  const late = Promise.withResolvers<never>();
  // A timer is due before what has arrived is read; an immediate comes after it.
  const timer = setTimeout(() => setImmediate(() => late.reject(new TooLate("no answer in time"))), commandMsMax);
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

async function readStartId(client: Redis): Promise<string> {
  const info = await client.info("server");
  const id = /^run_id:(\S+)/m.exec(info)?.[1];
  if (id === undefined) throw new Error("the server does not say which start of it this is");
  return id;
}

/** Waits until commands are sent, at most `msMax`. Answers whether they are. */
export async function redisReady(door: RedisDoor, msMax: number): Promise<boolean> {
  const until = Date.now() + msMax;
  while (!door.ready() && Date.now() < until) await new Promise((resolve) => setTimeout(resolve, 10));
  return door.ready();
}

/** null when what it asks for is away: for hints, which are done without then. */
export async function unlessAway<Result>(work: Promise<Result>): Promise<Result | null> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof Unavailable) return null;
    throw error;
  }
}

/** The values of a pipeline's answers; the first error among them is thrown. */
export function pipelineValues(answers: [error: Error | null, result: unknown][] | null): unknown[] {
  if (answers === null) throw new Error("the pipeline was given up");
  return answers.map(([error, value]) => {
    if (error !== null) throw error;
    return value;
  });
}
