/**
 * Outstanding wakes and budgets: which devices of an agent were told to fetch and have not come yet, and how often each may be told.
 *
 * Promises: of one device one wake is outstanding until its agent comes or `wakeMs` have passed since it was sent, by whichever process; one that
 * was not sent is another's to take over after `claimMs`; a wake that is begun again (the same record applied twice) is told apart from another one; no device is told more often than its kind's budget allows, nor while its
 * provider wants it left alone, whoever wakes it. All of it may be lost with the server's memory: then a device is woken once more than needed.
 */
import { createHash } from "node:crypto";
import type { Device, DeviceKind } from "./devices.ts";
import { pipelineValues, type RedisDoor } from "./redis.ts";

/** Longer, and an agent that missed its wake misses the messages of half a day; shorter, and a phone that is off fills its provider's queue. */
export const wakeMs = 60 * 60 * 1000;

/**
 * How long a wake may wait for its next attempt before another one takes its place: its process may have ended in the call. Shorter, and a newer
 * message begins the retries anew (two of them are 112 s apart, and a busy step comes later); longer, and an agent that was not woken waits for it.
 */
export const claimMs = 3 * 60 * 1000;

/** An attempt after a rest comes up to a quarter of it later (consumers/push/retries.ts). */
const lateMax = 1.25;

/** A bucket: `burst` at once, then one each `refillMs`. */
interface Budget {
  readonly burst: number;
  readonly refillMs: number;
}

/**
 * Apple: "don't try to send more than two or three per hour". FCM: 20 collapsible ones at once, then one in three minutes, for each app on each
 * device. A webhook is called no more often than a busy agent comes and goes.
 */
export const budgets: Readonly<Record<DeviceKind, Budget>> = {
  apns: { burst: 3, refillMs: 20 * 60 * 1000 },
  fcm: { burst: 20, refillMs: 3 * 60 * 1000 },
  webhook: { burst: 60, refillMs: 10 * 1000 },
};

/**
 * `begun`: it is the caller's to wake. `again`: it was already, and is still. `done`: this wake was sent. `outstanding`: another wake is.
 * `spent`: its budget is. `restsMs`: its provider wants it left alone for so long.
 */
export type Claim = "begun" | "again" | "done" | "outstanding" | "spent" | { readonly restsMs: number };

export interface Wake {
  readonly wakeId: string;
  readonly device: Device;
}

/** All its functions throw `Unavailable("redis")`. */
export interface WakesDoor {
  /** One for each wake, in order. */
  claim(wakes: readonly Wake[]): Promise<readonly Claim[]>;
  /** They were sent. */
  sent(wakes: readonly Wake[]): Promise<void>;
  /** They will not be sent: nobody shall wait for them. */
  release(wakes: readonly Wake[]): Promise<void>;
  /** Nobody wakes these devices, whosever they are, before so many ms have passed; the wakes that were told so stay claimed until then. */
  rest(rests: readonly (Wake & { readonly ms: number })[]): Promise<void>;
  /** The agents are here: none of their wakes is outstanding any more. */
  end(agentIds: readonly string[]): Promise<void>;
}

/**
 * A field of the agent's hash: until when, by which wake, and how far that is: `claimed`, `resting` (claimed, but its provider wants the device left
 * alone: nothing of the budget is taken yet) or `sent`. A wake whose device rests is claimed until its attempt after that, with its jitter.
 */
const claimScript = `
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local device, wake, life, sentLife = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local isPaid = false
local held = redis.call("HGET", KEYS[1], device)
if held then
  local over, holder, state = string.match(held, "^(%d+) (%S+) (%a+)$")
  if holder == wake then
    if state == "sent" then return "done" end
    isPaid = state == "claimed"
  elseif tonumber(over) > now then
    return "outstanding"
  end
end
local function take(state, ms)
  redis.call("HSET", KEYS[1], device, string.format("%.0f %s %s", now + ms, wake, state))
  if redis.call("PTTL", KEYS[1]) < math.max(ms, sentLife) then
    redis.call("PEXPIRE", KEYS[1], math.ceil(math.max(ms, sentLife)))
  end
end
local rests = redis.call("PTTL", KEYS[3])
if rests > 0 then
  take(isPaid and "claimed" or "resting", rests * tonumber(ARGV[7]) + life)
  return "rests " .. rests
end
if not isPaid then
  local burst, refill = tonumber(ARGV[5]), tonumber(ARGV[6])
  local left = redis.call("HMGET", KEYS[2], "left", "at")
  local tokens = math.min(burst, (tonumber(left[1]) or burst) + (now - (tonumber(left[2]) or now)) / refill)
  if tokens < 1 then
    if held then redis.call("HDEL", KEYS[1], device) end
    return "spent"
  end
  redis.call("HSET", KEYS[2], "left", string.format("%.6f", tokens - 1), "at", string.format("%.0f", now))
  redis.call("PEXPIRE", KEYS[2], burst * refill)
end
take("claimed", life)
return isPaid and "again" or "begun"`;

/** Only what is still this wake's: the agent may have come, and another wake begun. */
const sentScript = `
local held = redis.call("HGET", KEYS[1], ARGV[1])
if not held or string.match(held, "^%d+ (%S+)") ~= ARGV[2] then return 0 end
local time = redis.call("TIME")
local over = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
redis.call("HSET", KEYS[1], ARGV[1], string.format("%.0f %s sent", over, ARGV[2]))
if redis.call("PTTL", KEYS[1]) < tonumber(ARGV[3]) then redis.call("PEXPIRE", KEYS[1], ARGV[3]) end
return 1`;

/** The wake that learned of it keeps its claim until its attempt after that. */
const restScript = `
redis.call("SET", KEYS[2], "1", "PX", ARGV[3])
local held = redis.call("HGET", KEYS[1], ARGV[1])
if not held then return 0 end
local holder, state = string.match(held, "^%d+ (%S+) (%a+)$")
if holder ~= ARGV[2] then return 0 end
local time = redis.call("TIME")
local life = tonumber(ARGV[3]) * tonumber(ARGV[5]) + tonumber(ARGV[4])
local over = time[1] * 1000 + math.floor(time[2] / 1000) + life
redis.call("HSET", KEYS[1], ARGV[1], string.format("%.0f %s %s", over, holder, state))
if redis.call("PTTL", KEYS[1]) < life then redis.call("PEXPIRE", KEYS[1], math.ceil(life)) end
return 1`;

const releaseScript = `
local held = redis.call("HGET", KEYS[1], ARGV[1])
if held and string.match(held, "^%d+ (%S+)") == ARGV[2] then return redis.call("HDEL", KEYS[1], ARGV[1]) end
return 0`;

export function openWakes(redis: RedisDoor): WakesDoor {
  const keyOf = (agentId: string) => redis.key(`wake:${agentId}`);
  // By what is called, and not by who registered it: agents that share a phone share its budget. A token does not stand in a key's name.
  const budgetKey = ({ kind, address }: Device) => redis.key(`push-budget:${hashOf(kind, address)}`);

  const restKey = ({ kind, address }: Device) => redis.key(`push-rest:${hashOf(kind, address)}`);

  async function evalEach(script: string, wakes: readonly Wake[], ...more: readonly number[]): Promise<void> {
    if (wakes.length === 0) return;
    await redis.ask(async (client) => {
      const pipeline = client.pipeline();
      for (const { wakeId, device } of wakes)
        pipeline.eval(script, 1, keyOf(device.agentId), device.deviceId, wakeId, ...more);
      return pipelineValues(await pipeline.exec());
    });
  }

  return {
    claim: async (wakes) => {
      if (wakes.length === 0) return [];
      const answers = await redis.ask(async (client) => {
        const pipeline = client.pipeline();
        for (const { wakeId, device } of wakes) {
          const { burst, refillMs } = budgets[device.kind];
          const keys = [keyOf(device.agentId), budgetKey(device), restKey(device)] as const;
          pipeline.eval(claimScript, 3, ...keys, device.deviceId, wakeId, claimMs, wakeMs, burst, refillMs, lateMax);
        }
        return pipelineValues(await pipeline.exec());
      });
      return answers.map((answer) => claimOf(String(answer)));
    },
    sent: (wakes) => evalEach(sentScript, wakes, wakeMs),
    release: (wakes) => evalEach(releaseScript, wakes),
    rest: async (rests) => {
      if (rests.length === 0) return;
      await redis.ask(async (client) => {
        const pipeline = client.pipeline();
        for (const { wakeId, device, ms } of rests) {
          const keys = [keyOf(device.agentId), restKey(device)] as const;
          pipeline.eval(restScript, 2, ...keys, device.deviceId, wakeId, Math.ceil(ms), claimMs, lateMax);
        }
        return pipelineValues(await pipeline.exec());
      });
    },
    end: async (agentIds) => {
      if (agentIds.length > 0) await redis.ask((client) => client.del(agentIds.map(keyOf)));
    },
  };
}

function claimOf(answer: string): Claim {
  const [word = "", ms] = answer.split(" ");
  return ms === undefined ? (word as Exclude<Claim, object>) : { restsMs: Number(ms) };
}

function hashOf(kind: DeviceKind, address: string): string {
  return createHash("sha256").update(`${kind} ${address}`).digest("base64url");
}
