/** Redis as a process sees it that may lose it, for each test anew: through a proxy, with keys of its own. */
import { afterEach, beforeEach, expect } from "vitest";
import { openRedis, type RedisDoor, redisReady } from "../store/redis.ts";
import { type ServerProxy, startProxy } from "./redis-proxy.ts";
import { uniqueName, useStack } from "./stack.ts";

export interface RedisStage {
  readonly proxy: ServerProxy;
  /** Through the proxy. */
  readonly redis: RedisDoor;
  /** Before its keys. */
  readonly prefix: string;
}

/** To be called once in a file of tests. */
export function useRedisStage(name: string): () => RedisStage {
  let stage: RedisStage | null = null;
  beforeEach(async () => {
    const prefix = `${uniqueName(name)}:`;
    const proxy = await startProxy(useStack().redisUrl);
    stage = { proxy, prefix, redis: openRedis(proxy.url, { prefix }) };
    expect(await redisReady(stage.redis, 20_000)).toBe(true);
  });
  afterEach(() => {
    stage?.redis.close();
    stage?.proxy.close();
  });
  return () => {
    if (stage === null) throw new Error("the stage is open in tests and hooks only");
    return stage;
  };
}
