/** API4 and API6: what costs the service, or others, more than it should. The limits are read from the declarations. */
import { expect } from "vitest";
import { z } from "zod";
import { BODY_BYTES_MAX, UNPROVEN_BODY_BYTES_MAX } from "../../api/http/body.ts";
import type { RateLimits } from "../../api/rate-limits.ts";
import type { Limit } from "../../store/limits.ts";
import type { Attack, Stage } from "./attack.ts";
import { retryOf, uploadOf } from "./examples-agents.ts";
import type { Ask } from "./world.ts";

/** Members of the body that are lists, and how many they may hold. */
function listsOf({ target }: Stage): readonly (readonly [name: string, max: number | undefined])[] {
  return Object.entries(target.route.request.body?.shape ?? {}).flatMap(([name, member]) => {
    const { type, maxItems } = z.toJSONSchema(member as z.ZodType, { io: "input", unrepresentable: "any" });
    return type === "array" ? [[name, maxItems] as const] : [];
  });
}

export const costAttacks = {
  "headers larger than 16 KiB": async (stage) => {
    const { as: _, ...ask } = stage.example();
    const answer = await stage.ask({ ...ask, as: null, headers: { "x-filler": "y".repeat(20_000) } });
    expect(answer.status).toBe(431);
    stage.world.judged += 1;
  },
} satisfies Record<string, Attack>;

export const bodyCostAttacks = {
  "a body larger than the call takes": async (stage) => {
    const isUnproven = stage.target.route.signedBy === "key-in-body";
    const body = `{"a":"${"x".repeat(isUnproven ? UNPROVEN_BODY_BYTES_MAX : BODY_BYTES_MAX)}"}`;
    const answer = await stage.refused(["too-large"], { ...stage.example(), body });
    expect(answer.status).toBe(413);
  },
  "JSON of a hundred thousand levels": async (stage) => {
    const levels = stage.target.route.signedBy === "key-in-body" ? 1_000 : 100_000;
    const body = `${"[".repeat(levels)}${"]".repeat(levels)}`;
    // Of who has no room for so much: not read at all.
    const code = stage.target.route.signedBy === "owner" ? "too-large" : "malformed";
    await stage.refused([code], { ...stage.example(), body });
    expect(stage.world.service.ports.bugs).toEqual([]);
  },
} satisfies Record<string, Attack>;

export const listAttacks = {
  "lists longer than they may be": async (stage) => {
    const lists = listsOf(stage);
    expect(lists.length).toBeGreaterThan(0);
    for (const [name, max] of lists) {
      expect(max, `${name} has no bound`).toBeDefined();
      const example = stage.example().body as Record<string, unknown>;
      const [item] = (example[name] as unknown[] | undefined) ?? [];
      const body = { ...example, [name]: Array((max ?? 0) + 1).fill(item ?? {}) };
      const { json } = await stage.refused(["too-many", "malformed"], { ...stage.example(), body }, {}, name);
      if (item !== undefined) expect(json.code).toBe("too-many");
    }
  },
} satisfies Record<string, Attack>;

export const pageAttacks = {
  "pages of no items, of less, and of far too many": async (stage) => {
    for (const limit of ["0", "-1", "1000000", "9007199254740993", "1e3", "0x10", "", "ten", "1%00"]) {
      const { path, ...ask } = stage.example();
      const [bare, query = ""] = path.split("?");
      const others = query.split("&").filter((part) => part !== "" && !part.startsWith("limit="));
      const asked = `${bare}?${[...others, `limit=${limit}`].join("&")}`;
      await stage.refused(["malformed"], { ...ask, path: asked }, {}, limit);
    }
  },
} satisfies Record<string, Attack>;

/** Spends all that is left of a limit. */
async function spend({ world }: Stage, policy: keyof RateLimits, key: string): Promise<() => void> {
  const { rates, rateLimits } = world.service.ports;
  const { remaining } = rates.standing(rateLimits[policy], key);
  return (await rates.take(rateLimits[policy], key, remaining)).giveBack;
}

const ADDRESS = "127.0.0.1";

async function expectLimited(stage: Stage, policy: keyof RateLimits, ask: Ask): Promise<void> {
  const { json, headers } = await stage.refused(["rate-limited"], ask, {}, policy);
  expect([json.status, json.policy, json.retryable]).toEqual([429, policy, true]);
  expect(Number(headers.get("retry-after"))).toBeGreaterThan(0);
}

export const unprovenRateAttacks = {
  "an address that sends calls without valid signatures": async (stage) => {
    const { as: _, ...ask } = stage.example();
    // Owners' calls are counted apart, so that no agent behind the same address locks its owner out.
    const isOwners = stage.target.route.signedBy === "owner";
    await spend(stage, "unproven", isOwners ? `owners ${ADDRESS}` : ADDRESS);
    await expectLimited(stage, "unproven", { ...ask, as: null });
    const headers = { "x-forwarded-for": "203.0.113.7", forwarded: "for=203.0.113.8", "x-real-ip": "203.0.113.9" };
    await expectLimited(stage, "unproven", { ...ask, as: null, headers });
  },
} satisfies Record<string, Attack>;

export const callRateAttacks = {
  "an agent that calls too often": async (stage) => {
    const example = stage.example();
    if (example.as === null || !("keyid" in example.as)) throw new Error("this attack is for signed calls");
    const before = await stage.ask(example);
    expect(before.headers.get("ratelimit-policy")).toMatch(/^"calls";q=\d+;w=60/);
    expect(before.headers.get("ratelimit")).toMatch(/^"calls";r=\d+;t=\d+/);
    await spend(stage, "calls", example.as.keyid);
    await expectLimited(stage, "calls", stage.example());
  },
} satisfies Record<string, Attack>;

/** Repeats a call with fresh content until it is refused; fails when it never is. */
async function untilLimited(stage: Stage, timesMax: number, fresh: () => object = () => ({})): Promise<number> {
  for (let times = 0; times <= timesMax; times++) {
    const answer = await stage.ask({ ...stage.example(), ...fresh() });
    if (answer.status < 300) continue;
    expect([answer.status, answer.json.code], answer.text).toEqual([429, "rate-limited"]);
    expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
    stage.world.judged += 1;
    return times;
  }
  throw new Error(`not refused in ${timesMax} calls`);
}

/** Of the caller's, so much of the limit. */
async function useUp(stage: Stage, limit: Limit, points: number): Promise<void> {
  await stage.world.service.ports.limits.consume(limit, stage.world.caller.keyid, points);
}

export const flowAttacks = {
  "one agent registers devices without end": async (stage) => {
    const { deviceId } = stage.world.its.devices.caller;
    const path = `/messaging/devices/${deviceId}`;
    expect(await untilLimited(stage, 70, () => ({ path }))).toBe(60);
  },
  "one agent asks another for retries without end": async (stage) => {
    const { its, caller, victim } = stage.world;
    expect(await untilLimited(stage, 70, () => ({ body: retryOf(caller, victim, its.messages.received) }))).toBe(60);
  },
  "one agent uploads prekeys without end": async (stage) => {
    const { prekeys } = stage.world.service.ports;
    await useUp(stage, { name: "prekeys", points: 10_000, seconds: 86_400 }, 9_990);
    const before = prekeys.size;
    expect(await untilLimited(stage, 10, () => ({ body: uploadOf(stage.world.caller) }))).toBeLessThan(10);
    expect(prekeys.size).toBe(before);
  },
  "one agent claims another's bundles without end": async (stage) => {
    expect(await untilLimited(stage, 20)).toBe(10);
  },
  "one agent adds signing keys without end": async (stage) => {
    const { path, body } = stage.example();
    expect(await untilLimited(stage, 70, () => ({ path, body }))).toBe(60);
  },
  "one agent asks for contacts without end": async (stage) => {
    expect(await untilLimited(stage, 70)).toBe(60);
  },
  "one agent answers and ends contacts without end": async (stage) => {
    await useUp(stage, { name: "contacts", points: 2_000, seconds: 3_600 }, 2_000);
    expect(await untilLimited(stage, 1)).toBe(0);
  },
  "one agent changes its policy and lists without end": async (stage) => {
    await useUp(stage, { name: "policies", points: 2_000, seconds: 3_600 }, 1_995);
    expect(await untilLimited(stage, 10)).toBe(5);
  },
  "one agent revokes delegations without end": async (stage) => {
    await useUp(stage, { name: "revocations", points: 600, seconds: 3_600 }, 600);
    expect(await untilLimited(stage, 1)).toBe(0);
  },
  "an address registers agents without end": async (stage) => {
    await spend(stage, "registrations", ADDRESS);
    await expectLimited(stage, "registrations", stage.example());
  },
  "one agent sends without end, or to one other": async (stage) => {
    const { as } = stage.example();
    if (as === null || !("keyid" in as)) throw new Error("this attack is for signed calls");
    const giveBack = await spend(stage, "messages", as.keyid);
    await expectLimited(stage, "messages", stage.example());
    giveBack();
    await spend(stage, "pair", `${as.keyid}:${stage.world.victim.keyid}`);
    await expectLimited(stage, "pair", stage.example());
  },
  "one agent drains another's one-time prekeys": async (stage) => {
    const { service, victim } = stage.world;
    const { prekeyBudget } = service.ports;
    const budget = prekeyBudget.points;
    for (let n = 0; n < budget; n++) await service.ports.limits.consume(prekeyBudget, victim.keyid);
    // Over the target's budget the bundle comes without one-time prekeys, never as a refusal: who writes can write.
    const before = stage.world.state()["prekeys"];
    const answer = await stage.ask(stage.example());
    expect([answer.status, answer.json.last_resort], answer.text).toEqual([200, true]);
    expect(answer.json.bundle).not.toHaveProperty("one_time_prekey");
    expect(stage.world.state()["prekeys"]).toEqual(before);
    stage.world.judged += 1;
  },
} satisfies Record<string, Attack>;
