/**
 * No plaintext and no secret key in any topic, table, Redis key or log line: planted ones are looked for everywhere, in every spelling.
 */
import { randomBytes } from "node:crypto";
import { Redis } from "ioredis";
import pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { BenchAgent } from "../bench/bench-agent.ts";
import { epochOf } from "../protocol/ingress.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import { findSealedIdentities } from "../store/agents.ts";
import { openAtRest } from "../store/at-rest.ts";
import { openCustodyKeys } from "../store/custody/custody-keys.ts";
import { findStates } from "../store/custody/states.ts";
import { dayOf } from "../store/message-days.ts";
import { openPostgres } from "../store/postgres.ts";
import { readTopic } from "../streams/read-topic.ts";
import { HeldAgent } from "./held-agent.ts";
import { consumerParts, eventually, type House, openHouse } from "./house.ts";

const secretBytes = 32;
let house: House;

beforeAll(async () => {
  house = await openHouse();
});

afterAll(() => house.close());

test("planted plaintexts and secret keys are found nowhere", async () => {
  const api = await house.start({ roles: ["api"], prepare: true, env: { SEALPOST_LOG_LEVEL: "trace" } });
  await house.start({ roles: consumerParts, env: { SEALPOST_LOG_LEVEL: "trace" } });
  const secrets: Uint8Array[] = [];
  /** Seeds and private keys are the only random values of this length. */
  const remembering = (length: number) => {
    const bytes = nodeRandom(length);
    if (length === secretBytes) secrets.push(bytes.slice());
    return bytes;
  };
  const plaintext = `canary-${randomBytes(12).toString("hex")}`;
  let received = 0;
  const refused: unknown[] = [];
  const handlers = {
    onMessage: () => {
      received += 1;
    },
    onAccepted() {},
    onSent() {},
    onRefused: (problem: unknown) => refused.push(problem),
  };
  const [alice, bob] = [new BenchAgent(api.url, handlers, remembering), new BenchAgent(api.url, handlers, remembering)];
  await alice.start();
  await bob.start();
  await alice.meet(bob.id);
  for (let index = 0; index < 20; index += 1) alice.send(bob.id, Buffer.from(`${plaintext} ${index}`), 0);
  await eventually("all messages arrive", () => received === 20);
  for (let index = 0; index < 20; index += 1) bob.send(alice.id, Buffer.from(`${plaintext} ${index}`), 0);
  await eventually("all answers arrive", () => received === 40);
  bob.close();
  for (let index = 0; index < 5; index += 1) alice.send(bob.id, Buffer.from(`${plaintext} ${index}`), 0);
  await eventually("the last lie in the mailbox", async () => (await topicHaystack("push.requested.v1")).length > 0);
  const [held, other] = [new HeldAgent(api.url), new HeldAgent(api.url)];
  for (const agent of [held, other]) expect((await agent.register()).status).toBe(201);
  await held.send(
    other.id,
    [0, 1, 2].map((index) => `${plaintext} held ${index}`),
  );
  await other.texts(3);
  await held.send(other.id, [`${plaintext} opened and not acknowledged`]);
  await eventually("it is opened", async () => (await other.open()).messages.length > 0);
  // Its identity, its prekeys and its sessions, as the service opens them.
  secrets.push(...(await heldSecrets([held.id, other.id])));
  // Bad input is logged with the least care.
  await fetch(`${api.url}/messaging/send`, { method: "POST", body: `{"envelopes":[{"body":"${plaintext}"}]}` });
  alice.close();
  expect(refused).toEqual([]);
  // Two identities, two signed prekeys, twenty one-time prekeys, an ephemeral key and the ratchets' keys.
  expect(secrets.length).toBeGreaterThan(25 + 400);

  const topics = await house.kafka.ask((admin) => admin.listTopics());
  const haystacks = new Map<string, Buffer>();
  for (const topic of topics.filter((name) => !name.startsWith("__"))) {
    haystacks.set(`topic ${topic}`, await topicHaystack(topic));
  }
  for (const [name, contents] of await tables()) haystacks.set(`table ${name}`, contents);
  haystacks.set("redis", await redisContents());
  house.services.forEach((service, index) => {
    haystacks.set(`log of process ${index}`, Buffer.from(service.output()));
  });

  // The search finds what is there: identities' public halves stand in tables, in the spelling of a table.
  const all = Buffer.concat([...haystacks.values()]);
  expect(contains(all, Buffer.from(alice.id))).toBe(true);
  for (const name of [
    "topic message.encrypted.v1",
    "topic message.send.v1",
    "table messaging_sessions",
    "table messaging_opened",
    "table messaging_queue",
    "table messaging_prekeys",
    "redis",
  ]) {
    expect(haystacks.get(name)?.length, name).toBeGreaterThan(0);
  }
  const needles = [Buffer.from(plaintext), ...secrets.map((secret) => Buffer.from(secret))];
  for (const [name, haystack] of haystacks) {
    const found = needles.filter((needle) => spellings(needle).some((spelling) => contains(haystack, spelling)));
    expect(found.length, name).toBe(0);
  }
});

/** What is sealed of these agents, opened with the house's keyring. */
async function heldSecrets(agentIds: readonly string[]): Promise<readonly Uint8Array[]> {
  const keyring = house.openKeyring();
  const atRest = openAtRest(keyring);
  const keys = openCustodyKeys(keyring, atRest);
  const postgres = openPostgres(house.stack.urls.postgresUrl);
  const found: Uint8Array[] = agentIds.map((agentId) => keyring.unwrap({ kind: "master", agentId }));
  found.push(keyring.unwrap({ kind: "day", number: dayOf(Date.now()) }));
  found.push(keyring.unwrap({ kind: "epoch", number: epochOf(Date.now()) }));
  for (const [agentId, sealed] of await findSealedIdentities(postgres, agentIds)) {
    const { signing, agreement } = keys.openIdentity(agentId, sealed);
    found.push(signing.privateKey, agreement.privateKey);
  }
  const prekeys = await postgres.query<{ agent_id: string; prekey_id: string; sealed: Uint8Array }>({
    text: `SELECT agent_id, prekey_id, private_key_encrypted AS sealed FROM messaging_prekeys
           WHERE agent_id = ANY($1) AND private_key_encrypted IS NOT NULL`,
    values: [agentIds],
  });
  for (const { agent_id, prekey_id, sealed } of prekeys.rows) found.push(keys.openPrekey(agent_id, prekey_id, sealed));
  const pairs = agentIds.flatMap((ownerId) => agentIds.map((peerId) => ({ ownerId, peerId })));
  for (const state of await findStates(postgres, pairs)) {
    for (const { ratchet } of [keys.openState(state).active].filter((session) => session !== null)) {
      found.push(ratchet.rootKey, ratchet.own.privateKey);
      for (const chain of [ratchet.sending, ratchet.receiving]) if (chain !== null) found.push(chain.key);
    }
  }
  await postgres.close();
  for (const door of [keys, atRest, keyring]) door.close();
  return found;
}

async function topicHaystack(topic: string): Promise<Buffer> {
  const records = await readTopic(house.kafka, topic);
  const parts = records.flatMap(({ key, value, headers }) => [
    key ?? "",
    value ?? "",
    ...Object.entries(headers ?? {}).flatMap(([name, header]) => [name, String(header)]),
  ]);
  return Buffer.concat(parts.map((part) => Buffer.from(part)));
}

async function tables(): Promise<Map<string, Buffer>> {
  const client = new pg.Client({ connectionString: house.stack.urls.postgresUrl });
  await client.connect();
  try {
    const { rows } = await client.query<{ name: string }>(
      "SELECT relname AS name FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace",
    );
    const contents = new Map<string, Buffer>();
    for (const { name } of rows) {
      const all = await client.query<{ row: string }>(`SELECT t::text AS row FROM ${name} t`);
      contents.set(name, Buffer.from(all.rows.map(({ row }) => row).join("\n")));
    }
    return contents;
  } finally {
    await client.end();
  }
}

/** `DUMP` gives any type's contents; strings of these sizes are not compressed by default settings below 20 bytes, so values are read as well. */
async function redisContents(): Promise<Buffer> {
  const redis = new Redis(house.stack.urls.redisUrl);
  try {
    const parts: (Buffer | string)[] = [];
    for (const key of await redis.keys("*")) {
      parts.push(key);
      const dump = await redis.dumpBuffer(key);
      if (dump !== null) parts.push(dump);
      if ((await redis.type(key)) === "string") parts.push((await redis.getBuffer(key)) ?? "");
    }
    return Buffer.concat(parts.map((part) => Buffer.from(part)));
  } finally {
    redis.disconnect();
  }
}

/** As it is, and as JSON, SQL and logs write it. Text encodings are looked for without their edges, which depend on what stands beside. */
function spellings(needle: Buffer): Buffer[] {
  const inBase64 = [0, 1, 2].flatMap((shift) => {
    const text = needle.subarray(shift, needle.length - ((needle.length - shift) % 3));
    return [text.toString("base64"), text.toString("base64url")];
  });
  const decimal = [...needle].join(",");
  return [needle, ...[needle.toString("hex"), decimal, ...inBase64].map((text) => Buffer.from(text))];
}

function contains(haystack: Buffer, needle: Buffer): boolean {
  return haystack.indexOf(needle) !== -1;
}
