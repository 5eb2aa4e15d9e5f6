import { randomUUID } from "node:crypto";
import pino from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { encodeBase64Url } from "../protocol/base64url.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { createSignedPrekey, signedPrekeyToJson } from "../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { prekeyLow, prekeyRotationFailed } from "../streams/catalogue.ts";
import { toOutgoing } from "../streams/headers.ts";
import { openProducer } from "../streams/producer.ts";
import { consumerParts, eventually, type House, openHouse, operatorsUrlOf } from "./house.ts";
import { call, newIdentity } from "./signing.ts";
import { type Client, openClient } from "./stream-client.ts";

const token = "a-token-of-the-operators-0123456789";
const agent = newIdentity();

let house: House;
let url: string;
let opsUrl: string;
let postgres: Postgres;
let client: Client;

beforeAll(async () => {
  house = await openHouse();
  const env = { SEALPOST_OPS_TOKEN: token, SEALPOST_OPS_HTTP_PORT: "0" };
  const api = await house.start({ roles: ["api"], prepare: true, env });
  url = api.url;
  opsUrl = operatorsUrlOf(api);
  postgres = openPostgres(house.stack.urls.postgresUrl);
  const birth = { id: randomUUID(), now: Date.now() - 8 * DAY_MS, random: nodeRandom };
  const { prekey } = createSignedPrekey(nodePrimitives, agent, birth);
  for (const [path, body] of [
    ["/messaging/agents", { identity_key: encodeBase64Url(agent.signing.publicKey) }],
    ["/messaging/upload-prekeys", { signed_prekey: signedPrekeyToJson(prekey) }],
  ] as const) {
    expect((await call(agent, { method: "POST", url: url + path, body })).ok).toBe(true);
  }
  client = await openClient(`${url}/messaging/stream`, agent);
  await client.has("queue-empty");
});

afterAll(async () => {
  client?.socket.terminate();
  await postgres?.close();
  await house?.close();
});

function notices(): string[] {
  return client.frames.flatMap((frame) => (frame.type === "notice" ? [frame.kind] : []));
}

async function rotate(agentId: string) {
  const response = await fetch(`${opsUrl}/ops/agents/${agentId}/rotate`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}` },
  });
  return { status: response.status, json: (await response.json()) as Record<string, unknown> };
}

test("an agent with an old signed prekey is told on its stream by the clock's job, and again when an operator asks", async () => {
  await house.start({ roles: consumerParts });
  await eventually("the job has told it", () => notices().includes("rotation-due"));
  const before = notices().length;
  expect(await rotate(agent.agentId)).toEqual({ status: 202, json: { agent_id: agent.agentId, connected: true } });
  await eventually("the operator's notice has come", () => notices().length > before);
});

test("an agent whose prekeys run low is told on its stream", async () => {
  const producer = openProducer({ kafka: house.kafka, log: pino({ level: "silent" }) });
  const id = randomUUID();
  const value = {
    eventId: id,
    agentId: agent.agentId,
    custody: "agent",
    oneTimePrekeysRemaining: 9,
    kemPrekeysRemaining: 9,
    timeToEmptyMs: null,
    lowAt: Date.now(),
  } as const;
  const head = { id, source: "/test", time: Date.now(), subject: agent.agentId };
  await producer.append([toOutgoing(house.codec, { ...head, topic: prekeyLow, key: agent.agentId, value })]);
  await eventually("the notice has come", () => notices().includes("prekeys-low"));
  await producer.close();
});

test("a failed rotation of server custody is answered, and published once, in the words that alerts look for", async () => {
  const { agentId, signing } = newIdentity();
  await postgres.query({
    text: "INSERT INTO messaging_agents (agent_id, identity_key, custody, created_at) VALUES ($1, $2, 'server', 1)",
    values: [agentId, signing.publicKey],
  });
  for (let n = 0; n < 2; n++) {
    expect(await rotate(agentId)).toMatchObject({ status: 409, json: { code: "keys-unavailable" } });
  }
  const told = async () => (await house.read(prekeyRotationFailed)).map(({ decoded }) => decoded);
  await eventually("it is published", async () => (await told()).length > 0);
  expect(await told()).toEqual([
    {
      eventId: expect.any(String),
      agentId,
      custody: "server",
      code: "keys-unavailable",
      alert: `Prekey rotation failed for ${agentId}`,
      signedPrekeyId: null,
      signedPrekeyCreatedAt: null,
      failedAt: expect.any(Number),
    },
  ]);
});

test("the house's jobs are ready, and their metrics say how agents are doing", async () => {
  const jobs = await house.start({ roles: ["jobs"] });
  await eventually("jobs are ready", async () => (await fetch(`${jobs.url}/readyz`)).ok);
  await eventually("agents were counted", async () => {
    const text = await (await fetch(`${jobs.url}/metrics`)).text();
    return /messaging_agents_signed_prekey_old\{days="7"\} 1\n/.test(text);
  });
  const begun = performance.now();
  await jobs.stop();
  expect(await jobs.ended).toBe("0");
  // Much less where there is a core for it; a schedule that waits for its work would take its 20 s.
  expect(performance.now() - begun).toBeLessThan(10_000);
  expect(house.services.map((service) => service.output()).join("\n")).not.toMatch(/"level":(50|60)/);
});
