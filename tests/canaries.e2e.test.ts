/**
 * No plaintext and no secret key in any topic, table, Redis key or log line, nor in any file of the servers: planted ones are looked for everywhere, in
 * every spelling.
 */
import { randomBytes } from "node:crypto";
import path from "node:path";
import { Redis } from "ioredis";
import pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { BenchAgent } from "../bench/bench-agent.ts";
import { encodePeer } from "../protocol/peer-record.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import { findSealedIdentities } from "../store/agents.ts";
import { openAtRest } from "../store/at-rest.ts";
import { openCustodyKeys } from "../store/custody/custody-keys.ts";
import { findStates } from "../store/custody/states.ts";
import { openPostgres } from "../store/postgres.ts";
import { readTopic } from "../streams/read-topic.ts";
import { HeldAgent } from "./held-agent.ts";
import { consumerParts, eventually, type House, openHouse } from "./house.ts";
import { filesBelow, Needles } from "./needles.ts";

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
  await house.away(bob.id);
  for (let index = 0; index < 5; index += 1) alice.send(bob.id, Buffer.from(`${plaintext} ${index}`), 0);
  await eventually("the last lie in the mailbox", async () => (await topicHaystack("push.requested.v1")).length > 0);
  const [held, other] = [new HeldAgent(api.url), new HeldAgent(api.url)];
  for (const agent of [held, other]) expect((await agent.register()).status).toBe(201);
  // Before the first of them is used up.
  secrets.push(...(await heldSecrets([held.id, other.id])));
  await held.send(
    other.id,
    [0, 1, 2].map((index) => `${plaintext} held ${index}`),
  );
  await other.texts(3);
  const sealing = await house.agent("sealing", api.url, "server");
  await sealing.beginSession(other.id);
  await sealing.send(other.id, `${plaintext} sealed by its sender`);
  await other.texts(1);
  await held.send(other.id, [`${plaintext} opened and not acknowledged`]);
  await eventually("it is opened", async () => (await other.open()).messages.length > 0);
  // Its identity, its prekeys and its sessions, as the service opens them.
  secrets.push(...(await heldSecrets([held.id, other.id, sealing.id])));
  // Bad input is logged with the least care.
  await fetch(`${api.url}/messaging/send`, { method: "POST", body: `{"envelopes":[{"body":"${plaintext}"}]}` });
  alice.close();
  expect(refused).toEqual([]);
  // Two identities, two signed prekeys, twenty one-time prekeys, an ephemeral key and the ratchets' keys.
  expect(secrets.length).toBeGreaterThan(25 + 400);

  const planted = Buffer.from(`planted-${randomBytes(12).toString("hex")}`);
  // Identities' public halves stand in tables, in the spelling of a table; what was planted stands in files of each server.
  const controls = [Buffer.from(alice.id), planted];
  const needles = new Needles([...controls, Buffer.from(plaintext), ...secrets]);
  const sizes = new Map<string, number>();
  const found = new Map<string, ReadonlySet<number>>();
  for await (const [name, contents] of everything(planted)) {
    sizes.set(name, (sizes.get(name) ?? 0) + contents.length);
    found.set(name, needles.foundIn(contents));
  }
  const placesOf = (needle: number) => [...found].flatMap(([name, indexes]) => (indexes.has(needle) ? [name] : []));
  expect(placesOf(controls.indexOf(planted)).length).toBeGreaterThan(0);
  expect(placesOf(0)).toContain("table messaging_agents");
  for (const place of isLocal() ? ["kafka", "postgres base", "postgres pg_wal", "redis dump.rdb"] : []) {
    const places = placesOf(1).filter((name) => name.startsWith(`file of ${place}`));
    expect(places.length, place).toBeGreaterThan(0);
  }
  house.services.forEach((service) => {
    expect(service.output()).toContain(`ready ${service.url}`);
  });
  for (const name of [
    "topic message.encrypted.v1",
    "topic message.send.v1",
    "table messaging_sessions",
    "table messaging_opened",
    "table messaging_queue",
    "table messaging_prekeys",
    "redis",
  ]) {
    expect(sizes.get(name), name).toBeGreaterThan(0);
  }
  for (let needle = controls.length; needle < controls.length + 1 + secrets.length; needle++) {
    expect(placesOf(needle)).toEqual([]);
  }
});

/** What servers answer, what they have on their disks with `planted` among it, and what the service wrote to its logs. */
async function* everything(planted: Buffer): AsyncGenerator<readonly [name: string, contents: Buffer]> {
  const topics = await house.kafka.ask((admin) => admin.listTopics());
  for (const topic of topics.filter((name) => !name.startsWith("__"))) {
    yield [`topic ${topic}`, await topicHaystack(topic)];
  }
  for (const [name, contents] of await tables()) yield [`table ${name}`, contents];
  yield ["redis", await redisContents()];
  if (isLocal()) yield* serverFiles(planted);
  else {
    const redis = new Redis(house.stack.urls.redisUrl);
    await redis.set("planted", planted);
    redis.disconnect();
    yield ["redis with what was planted", await redisContents()];
  }
  for (const [index, service] of house.services.entries()) {
    yield [`log of process ${index}`, Buffer.from(service.output())];
  }
}

/** Are the servers' files on this machine? In containers they are not; what the servers answer is searched all the same. */
function isLocal(): boolean {
  return house.stack.servers.every(({ way }) => way === "local");
}

/** Everything that the servers have on their disks, after they were made to write it there, and `planted` with it. */
async function* serverFiles(planted: Buffer): AsyncGenerator<readonly [name: string, contents: Buffer]> {
  const client = new pg.Client({ connectionString: house.stack.urls.postgresUrl });
  await client.connect();
  await client.query("CREATE TABLE planted (value bytea)");
  await client.query("INSERT INTO planted VALUES ($1)", [planted]);
  await client.query("CHECKPOINT");
  const { rows } = await client.query<{ data_directory: string }>("SHOW data_directory");
  await client.end();
  const redis = new Redis(house.stack.urls.redisUrl);
  await redis.set("planted", planted);
  await redis.save();
  redis.disconnect();
  await house.kafka.ask((admin) => admin.createTopics({ waitForLeaders: false, topics: [{ topic: "planted" }] }));
  const producer = house.kafka.client.producer();
  await producer.connect();
  await producer.send({ topic: "planted", messages: [{ value: planted }] });
  await producer.disconnect();
  for (const [server, folder] of [
    ["kafka", path.join(house.stack.dataDir, "kafka")],
    ["postgres", rows[0]?.data_directory ?? ""],
    ["redis", path.join(house.stack.dataDir, "redis")],
    ["logs", path.join(house.stack.dataDir, "logs")],
  ] as const) {
    for (const [name, contents] of filesBelow(folder, isIndexOfKafka)) yield [`file of ${server} ${name}`, contents];
  }
}

/** Numbers only, and 20 MB of zeros set aside for each partition. */
function isIndexOfKafka(name: string): boolean {
  return /\.(index|timeindex)$/.test(name);
}

/** What is sealed of these agents, opened with the house's keyring. */
async function heldSecrets(agentIds: readonly string[]): Promise<readonly Uint8Array[]> {
  const keyring = house.openKeyring();
  const atRest = openAtRest(keyring);
  const keys = openCustodyKeys(keyring, atRest);
  const postgres = openPostgres(house.stack.urls.postgresUrl);
  const found: Uint8Array[] = agentIds.map((agentId) => keyring.unwrap({ kind: "master", agentId }));
  for (const kind of ["day", "epoch"] as const) {
    const number = keyring.newest(kind);
    if (number !== null) found.push(keyring.unwrap({ kind, number }));
  }
  for (const [agentId, sealed] of await findSealedIdentities(postgres, agentIds)) {
    const { signing, agreement } = keys.openIdentity(agentId, sealed);
    found.push(signing.privateKey, agreement.privateKey);
  }
  const prekeys = await postgres.query<{ agent_id: string; prekey_id: string; sealed: Uint8Array }>({
    text: `SELECT agent_id, prekey_id, private_key_encrypted AS sealed FROM messaging_prekeys
           WHERE agent_id = ANY($1) AND private_key_encrypted IS NOT NULL`,
    values: [agentIds],
  });
  for (const { agent_id, prekey_id, sealed } of prekeys.rows) {
    found.push(keys.openPrekey(agent_id, prekey_id, sealed));
  }
  const pairs = agentIds.flatMap((ownerId) => agentIds.map((peerId) => ({ ownerId, peerId })));
  for (const state of await findStates(postgres, pairs)) {
    found.push(encodePeer(keys.openState(state)));
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
