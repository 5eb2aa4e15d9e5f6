/**
 * PostgreSQL is put back from an older backup, with Kafka ahead: nothing is encrypted twice, and nobody is stuck.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ServiceProcess } from "../bin/service-process.ts";
import { freePort } from "../infra/local/ports.ts";
import { GrowingTree } from "../protocol/audit/merkle.ts";
import { decodeEnvelope, encodeEnvelope } from "../protocol/envelope.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import type { Agent } from "../sdk/agent.ts";
import { auditRecord, messageDiscarded, messageEncrypted } from "../streams/catalogue.ts";
import { expectWholeAudit, leafHashesOf } from "./audit-world.ts";
import { HeldAgent } from "./held-agent.ts";
import { consumerParts, eventually, type House, openHouse, takeTexts } from "./house.ts";
import { keysUsedTwice } from "./keys-used-twice.ts";

const recoveryMsMax = 120_000;
const repository = path.resolve(import.meta.dirname, "..");

let house: House;
let port: number;
let url: string;
let alice: Agent;
let bob: HeldAgent;
let carol: HeldAgent;
/** What every held agent read, by text: how often it was acknowledged. */
const acknowledged = new Map<string, number>();

beforeAll(async () => {
  house = await openHouse();
  port = await freePort(new Set());
  url = `http://127.0.0.1:${port}`;
  await start({ prepare: true });
  alice = await house.agent("alice", url);
  bob = await heldAgent();
  carol = await heldAgent();
});

afterAll(() => house.close());

let api: ServiceProcess;
let consumers: ServiceProcess;

async function start({ prepare = false } = {}): Promise<void> {
  await startApi(prepare);
  await startConsumers();
}

async function startApi(prepare = false): Promise<void> {
  api = await house.start({ roles: ["api"], prepare, env: { SEALPOST_HTTP_PORT: `${port}` } });
}

async function startConsumers(): Promise<void> {
  consumers = await house.start({ roles: consumerParts });
}

async function heldAgent(): Promise<HeldAgent> {
  const agent = new HeldAgent(url);
  expect((await agent.register()).status).toBe(201);
  return agent;
}

function numbered(prefix: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${prefix} ${index + 1}`);
}

/**
 * Each text is in a call of its own, so that there are many steps. All are encrypted before the story goes on: what is encrypted after its sender
 * has read a newer key would need a ratchet step that the backup does not know, and come by Repair.
 */
async function say(from: HeldAgent, to: string, texts: readonly string[]): Promise<void> {
  const ids: string[] = [];
  for (const text of texts) ids.push(...(await from.send(to, [text])));
  await eventually("all are encrypted", async () => {
    const { rowCount } = await query("SELECT 1 FROM messaging_commands WHERE message_id = ANY($1)", [ids]);
    return rowCount === ids.length;
  });
}

async function aliceSays(to: HeldAgent, texts: readonly string[]): Promise<void> {
  const outcomes = await alice.sendMany(texts.map((body) => ({ to: to.id, body })));
  expect(outcomes.filter(({ status }) => status === "rejected")).toEqual([]);
}

/** Reads until all of these are there, acknowledges them and nothing else; answers what waits besides. */
async function read(agent: HeldAgent, texts: readonly string[], others = 0): Promise<readonly string[]> {
  let besides: readonly string[] = [];
  await eventually(`${texts[0]} and others are there`, async () => {
    const { messages, failed } = await agent.open();
    expect(failed).toEqual([]);
    const wanted = messages.filter(({ text }) => texts.includes(text));
    besides = messages.filter(({ text }) => !texts.includes(text)).map(({ text }) => text);
    if (wanted.length < texts.length || besides.length < others) return false;
    expect(wanted.map(({ text }) => text)).toEqual(texts);
    await agent.acknowledge(wanted);
    for (const { text } of wanted) acknowledged.set(text, (acknowledged.get(text) ?? 0) + 1);
    return true;
  });
  return besides;
}

/** Acknowledged and settled: only these wait. */
async function onlyWaiting(agent: HeldAgent, texts: readonly string[]): Promise<void> {
  await eventually("what was acknowledged is gone", async () => {
    const { messages, failed } = await agent.open();
    expect(failed).toEqual([]);
    return messages.length === texts.length && messages.every(({ text }) => texts.includes(text));
  });
}

/** A round of a conversation in all directions; three texts to each held agent are left. */
async function talk(name: string): Promise<{ readonly toBob: string[]; readonly toCarol: string[] }> {
  const [toBob, toCarol] = [numbered(`${name}, left by carol`, 3), numbered(`${name}, left by bob`, 3)];
  await aliceSays(bob, numbered(`${name}, alice to bob`, 4));
  await read(bob, numbered(`${name}, alice to bob`, 4));
  await say(bob, alice.id, numbered(`${name}, bob to alice`, 4));
  expect(await takeTexts(alice, 4)).toEqual(numbered(`${name}, bob to alice`, 4));
  await say(bob, carol.id, numbered(`${name}, bob to carol`, 4));
  await read(carol, numbered(`${name}, bob to carol`, 4));
  await say(carol, bob.id, [...numbered(`${name}, carol to bob`, 4), ...toBob]);
  await say(bob, carol.id, toCarol);
  await read(bob, numbered(`${name}, carol to bob`, 4), 3);
  await read(carol, [], 3);
  return { toBob, toCarol };
}

async function stopAll(): Promise<void> {
  await Promise.all([api.stop(), consumers.stop()]);
}

/** Copies a database while nobody is connected to it. */
async function copyDatabase(from: string, to: string): Promise<void> {
  const admin = new URL(house.stack.urls.postgresUrl);
  admin.pathname = "/postgres";
  const client = new pg.Client({ connectionString: admin.href });
  await client.connect();
  try {
    await client.query(`DROP DATABASE IF EXISTS "${to}" WITH (FORCE)`);
    await eventually("nobody is connected", async () => {
      const { rows } = await client.query("SELECT 1 FROM pg_stat_activity WHERE datname = $1", [from]);
      return rows.length === 0;
    });
    await client.query(`CREATE DATABASE "${to}" TEMPLATE "${from}"`);
  } finally {
    await client.end();
  }
}

const backup = "backup";
const live = () => new URL(house.stack.urls.postgresUrl).pathname.slice(1);

async function afterRestore(...words: readonly string[]): Promise<{ readonly code: number; readonly said: string }> {
  const { urls } = house.stack;
  const child = spawn(process.execPath, [path.join(repository, "bin/after-restore.ts"), ...words], {
    env: {
      PATH: path.dirname(process.execPath),
      SEALPOST_KAFKA_BROKERS: urls.kafkaBrokers.join(","),
      SEALPOST_REGISTRY_URL: urls.registryUrl,
      SEALPOST_POSTGRES_URL: urls.postgresUrl,
      SEALPOST_REDIS_URL: urls.redisUrl,
    },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: recoveryMsMax,
  });
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (bytes: Buffer) => lines.push(`${bytes}`));
  const [code] = await once(child, "close");
  return { code: code as number, said: lines.join("") };
}

async function envelopes() {
  return (await house.read(messageEncrypted))
    .filter(({ decoded }) => decoded.kind === "message")
    .map(({ decoded }) => decodeEnvelope(decoded.body));
}

async function missing({ url: at }: ServiceProcess): Promise<readonly string[]> {
  return ((await (await fetch(`${at}/readyz`)).json()) as { readonly missing: readonly string[] }).missing;
}

/** Records behind the positions of this consumer, as it last looked. */
async function metric({ url: at }: ServiceProcess, name: string, consumer: string): Promise<number | null> {
  const text = await (await fetch(`${at}/metrics`)).text();
  const lines = text.split("\n").filter((line) => line.startsWith(`${name}{`) && line.includes(`"${consumer}"`));
  return lines.length === 0 ? null : lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

async function query(text: string, values: unknown[] = []): Promise<pg.QueryResult> {
  const client = new pg.Client({ connectionString: house.stack.urls.postgresUrl });
  await client.connect();
  try {
    return await client.query(text, values);
  } finally {
    await client.end();
  }
}

test("after a restore encryption, acks and audit stand; after the recovery every message opens once, no key was used twice, and every fact has one record", async () => {
  const before = await talk("before");
  await stopAll();
  await copyDatabase(live(), backup);
  expect(await afterRestore()).toMatchObject({ code: 1, said: expect.stringContaining("Nothing shows") });

  await start();
  const between = await talk("between");
  await stopAll();
  const wereThere = await envelopes();
  const audited = (await house.read(auditRecord)).length;
  await copyDatabase(backup, live());

  await startConsumers();
  await eventually("all stand", async () => {
    const standing = await missing(consumers);
    return ["encryption", "acks", "audit"].every((name) => standing.includes(name));
  });
  await eventually("they are counted", async () => {
    const restored = (name: string) => metric(consumers, "sealpost_consumer_restored_partitions", name);
    return ((await restored("encryption")) ?? 0) > 0 && ((await restored("acks")) ?? 0) > 0;
  });
  expect(consumers.output()).toContain("was it put back from a backup?");
  expect(await envelopes()).toHaveLength(wereThere.length);
  expect(await house.read(auditRecord)).toHaveLength(audited);

  const recovered = await afterRestore();
  expect(recovered.said).toMatch(/generation 1 of the database/);
  expect(recovered.said).toMatch(/[1-9]\d* audit records keep their places/);
  expect(recovered.code).toBe(0);
  await eventually("all go on", async () => (await missing(consumers)).length === 0, 60_000);
  await eventually(
    "acks has caught up",
    async () => (await metric(consumers, "sealpost_consumer_lag_records", "acks")) === 0,
  );
  expect(await afterRestore()).toMatchObject({ code: 1, said: expect.stringContaining("Nothing shows") });

  await startApi();
  // What was acknowledged has ended again; what waited waits, and is opened from the states of the backup.
  await onlyWaiting(bob, [...before.toBob, ...between.toBob]);
  await onlyWaiting(carol, [...before.toCarol, ...between.toCarol]);
  await say(bob, alice.id, ["bob is back"]);
  expect(await takeTexts(alice, 1)).toEqual(["bob is back"]);
  const after = await talk("after");
  await read(bob, [...before.toBob, ...between.toBob, ...after.toBob]);
  await read(carol, [...before.toCarol, ...between.toCarol, ...after.toCarol]);
  await onlyWaiting(bob, []);
  await onlyWaiting(carol, []);
  expect([...acknowledged.values()].filter((times) => times !== 1)).toEqual([]);

  const all = await envelopes();
  expect(all.length).toBeGreaterThan(wereThere.length);
  expect(keysUsedTwice(all)).toEqual([]);
  // A command that was read again published the envelope that had left, and nobody was told otherwise.
  const bodies = new Map<string, Set<string>>();
  for (const envelope of all) {
    const name = `${envelope.senderId}/${envelope.messageId}`;
    bodies.set(name, (bodies.get(name) ?? new Set()).add(Buffer.from(encodeEnvelope(envelope)).toString("hex")));
  }
  expect(new Set(Array.from(bodies.values(), ({ size }) => size))).toEqual(new Set([1]));
  expect(await house.read(messageDiscarded)).toEqual([]);

  // One log, of before and after: what was given out since the backup has kept its place.
  let records: Awaited<ReturnType<typeof expectWholeAudit>> = [];
  let rows: pg.QueryResult["rows"] = [];
  // A record may come between the two looks.
  await eventually("both were read in a quiet moment", async () => {
    records = await expectWholeAudit(house);
    ({ rows } = await query("SELECT size, subtrees FROM audit_log"));
    return Number(rows[0].size) === records.length;
  });
  const tree = new GrowingTree(nodePrimitives);
  for (const hash of leafHashesOf(records)) tree.append(hash);
  expect(Buffer.concat(tree.subtrees()).equals(rows[0].subtrees)).toBe(true);
}, 400_000);

test("without the recovery the same story uses keys twice: the scan would find it", async () => {
  await stopAll();
  await copyDatabase(live(), backup);
  await start();
  await say(bob, carol.id, numbered("lost", 5));
  await read(carol, numbered("lost", 5));
  await stopAll();
  await copyDatabase(backup, live());
  // Somebody says that all is well.
  await query("UPDATE database_generation SET generation = generation + 1");
  await query("UPDATE messaging_sessions SET generation = (SELECT generation FROM database_generation)");
  const count = (await envelopes()).length;
  await startConsumers();
  await eventually("it is encrypted again", async () => (await envelopes()).length >= count + 5, 60_000);
  expect(keysUsedTwice(await envelopes())).not.toEqual([]);
}, 300_000);
