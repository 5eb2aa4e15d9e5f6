import { afterAll, beforeAll, expect, test } from "vitest";
import type { Identity } from "../protocol/identity.ts";
import { consumerParts, type House, openHouse, takeTexts } from "./house.ts";
import { type Answer, jsonOf, read, someEnvelope } from "./in-memory-service.ts";
import { call, newIdentity } from "./signing.ts";

let house: House;
let url: string;

beforeAll(async () => {
  house = await openHouse();
  const env = { SEALPOST_REGISTRATIONS_PER_HOUR: "30", SEALPOST_MESSAGES_PER_MINUTE: "100" };
  ({ url } = await house.start({ roles: ["api"], prepare: true, env }));
  await house.start({ roles: consumerParts });
});
afterAll(() => house?.close());

async function post(as: Identity, path: string, body: unknown): Promise<Answer> {
  return read(await call(as, { method: "POST", url: url + path, body }));
}

function register(who: Identity, custody: "agent" | "server"): Promise<Answer> {
  const key = Buffer.from(who.signing.publicKey).toString("base64url");
  return post(who, "/messaging/agents", custody === "agent" ? { identity_key: key } : { custody, access_key: key });
}

/** What a `RateLimit` header says of one policy. */
function leftOf({ headers }: Answer, policy: string): number {
  return Number(new RegExp(`"${policy}";r=(\\d+);t=\\d+`).exec(headers.get("ratelimit") ?? "")?.[1] ?? "NaN");
}

test("an agent over its limit of messages hears when to go on, and its SDK brings the rest in order then", async () => {
  const [alice, bob] = [await house.agent("alice", url), await house.agent("bob", url)];
  const text = (n: number) => `message ${n}`;
  const sendAll = (from: number, to: number) =>
    alice.sendMany(Array.from({ length: to - from }, (_, n) => ({ to: bob.id, body: text(from + n) })));
  const begun = performance.now();
  await sendAll(0, 60);
  const late = sendAll(60, 120);
  expect(await takeTexts(bob, 120, 120_000)).toEqual(Array.from({ length: 120 }, (_, n) => text(n)));
  await late;
  // They could not all have been sent in the first window, which is a minute.
  expect(performance.now() - begun).toBeGreaterThan(55_000);

  const carol = newIdentity();
  expect((await register(carol, "agent")).status).toBe(201);
  const sixty = () => ({
    envelopes: Array.from({ length: 60 }, () => jsonOf(someEnvelope(carol.agentId, carol.agentId))),
  });
  const first = await post(carol, "/messaging/send", sixty());
  expect([first.status, leftOf(first, "messages"), leftOf(first, "calls")]).toEqual([202, 40, 5_999]);
  expect(first.headers.get("ratelimit-policy")).toBe('"calls";q=6000;w=60, "messages";q=100;w=60');
  const over = await post(carol, "/messaging/send", sixty());
  expect(over.problem).toMatchObject({ status: 429, code: "rate-limited", policy: "messages", retryable: true });
  expect([leftOf(over, "messages"), leftOf(over, "calls")]).toEqual([40, 5_998]);
  const seconds = Number(over.headers.get("retry-after"));
  expect([seconds > 0 && seconds <= 60, over.problem.retry_after]).toEqual([true, seconds]);
}, 240_000);

test("an address registers so many agents in an hour, one whose keys the service holds for ten", async () => {
  // Alice, Bob and Carol were three.
  const held = await register(newIdentity(), "server");
  expect([held.status, leftOf(held, "registrations")]).toEqual([201, 17]);
  const statuses: number[] = [];
  for (let n = 0; n < 18; n++) statuses.push((await register(newIdentity(), "agent")).status);
  expect(statuses).toEqual([...Array.from({ length: 17 }, () => 201), 429]);
  const { problem, headers } = await register(newIdentity(), "server");
  expect(problem).toMatchObject({ status: 429, code: "rate-limited", policy: "registrations" });
  expect(Number(headers.get("retry-after"))).toBeGreaterThan(3_000);
});
