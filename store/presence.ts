/**
 * Presence: which gateway holds an agent's connection. A hint: it may be missing, late or wrong, and then the mailbox is read later.
 *
 * Promises: an entry lives `presenceMs` after its last refresh; an entry is removed or prolonged only by the connection it names.
 */
import { pipelineValues, type RedisDoor } from "./redis.ts";

/** Three refreshes, one every 2 s: one may be lost. Longer, and a dead gateway's agents count as online for as long. */
export const presenceMs = 6_000;

export interface Presence {
  /** Must not hold a colon. */
  readonly gatewayId: string;
  readonly connectionId: string;
}

export interface AgentPresence extends Presence {
  readonly agentId: string;
}

export interface Refreshed {
  /** Another holds these now. */
  readonly lost: readonly AgentPresence[];
  /** For a while nobody held these: their agents counted as offline. */
  readonly regained: readonly AgentPresence[];
}

export interface PresenceDoor {
  /** Takes the place of whoever held it. Answers who did, or null. */
  claim(agentId: string, presence: Presence): Promise<Presence | null>;
  /** Takes the place when nobody holds it. Answers who holds it, or null when it was taken. */
  claimFree(agentId: string, presence: Presence): Promise<Presence | null>;
  /** Takes the place of exactly this one; null: when nobody holds it. False when somebody else does. */
  replace(agentId: string, before: Presence | null, presence: Presence): Promise<boolean>;
  /** Prolongs what is still held, and takes again what was lost: it ran out, or was released by who found its gateway gone, or forgotten. */
  refresh(held: readonly AgentPresence[]): Promise<Refreshed>;
  /** Ends what is still held. */
  release(held: readonly AgentPresence[]): Promise<void>;
  lookup(agentIds: readonly string[]): Promise<ReadonlyMap<string, Presence>>;
}

const claimFreeScript = `
local held = redis.call("GET", KEYS[1])
if held then return held end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return false`;

const replaceScript = `
if (redis.call("GET", KEYS[1]) or "") ~= ARGV[3] then return 0 end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return 1`;

const refreshScript = `
local held = redis.call("GET", KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return held and 1 or 2`;

const releaseScript = `
if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end
return 0`;

/** All its functions throw `Unavailable("redis")`. */
export function openPresence(redis: RedisDoor): PresenceDoor {
  const keyOf = (agentId: string) => redis.key(`presence:${agentId}`);
  return {
    claim: async (agentId, presence) => {
      const before = await redis.ask((client) => client.set(keyOf(agentId), textOf(presence), "PX", presenceMs, "GET"));
      return before === null ? null : presenceOf(before);
    },
    claimFree: async (agentId, presence) => {
      const holder = await redis.ask((client) =>
        client.eval(claimFreeScript, 1, keyOf(agentId), textOf(presence), presenceMs),
      );
      return holder === null ? null : presenceOf(String(holder));
    },
    replace: async (agentId, before, presence) => {
      const expected = before === null ? "" : textOf(before);
      const replaced = await redis.ask((client) =>
        client.eval(replaceScript, 1, keyOf(agentId), textOf(presence), presenceMs, expected),
      );
      return replaced === 1;
    },
    refresh: async (held) => {
      if (held.length === 0) return { lost: [], regained: [] };
      const kept = await redis.ask(async (client) => {
        const pipeline = client.pipeline();
        for (const entry of held) pipeline.eval(refreshScript, 1, keyOf(entry.agentId), textOf(entry), presenceMs);
        return pipelineValues(await pipeline.exec());
      });
      return {
        lost: held.filter((_, index) => kept[index] === 0),
        regained: held.filter((_, index) => kept[index] === 2),
      };
    },
    release: async (held) => {
      if (held.length === 0) return;
      await redis.ask(async (client) => {
        const pipeline = client.pipeline();
        for (const entry of held) pipeline.eval(releaseScript, 1, keyOf(entry.agentId), textOf(entry));
        return pipelineValues(await pipeline.exec());
      });
    },
    lookup: async (agentIds) => {
      const found = new Map<string, Presence>();
      if (agentIds.length === 0) return found;
      const values = await redis.ask((client) => client.mget(agentIds.map(keyOf)));
      agentIds.forEach((agentId, index) => {
        const value = values[index];
        if (typeof value === "string") found.set(agentId, presenceOf(value));
      });
      return found;
    },
  };
}

function textOf({ gatewayId, connectionId }: Presence): string {
  return `${gatewayId}:${connectionId}`;
}

function presenceOf(text: string): Presence {
  const colon = text.indexOf(":");
  return { gatewayId: text.slice(0, colon), connectionId: text.slice(colon + 1) };
}
