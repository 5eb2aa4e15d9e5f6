/**
 * A power cut takes the end of a log that the broker had confirmed (one broker does not sync before it answers). What is lost is what the log alone had; it is
 * said, and when an operator has accepted the gap everything goes on.
 */
import { execFile } from "node:child_process";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ServiceProcess } from "../bin/service-process.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { messageEncrypted } from "../streams/catalogue.ts";
import { cutTail } from "./cut-tail.ts";
import { eventually, type House, openHouse } from "./house.ts";
import { someEnvelope } from "./in-memory-service.ts";
import { RawSender } from "./raw-sender.ts";

/** Who reads the topic whose tail is cut, and keeps state. */
const stand = ["queuing", "sessions"];
const roles = ["queuing", "sessions", "metering", "audit", "relay"];

/** Longer than until a consumer looks again at a partition that stands (`idleCheckMs`). */
const LOOKS_MS = 35_000;

let house: House;
let postgres: Postgres;
let url: string;
let consumers: ServiceProcess;
let sender: RawSender;
let absent: RawSender;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  consumers = await house.start({ roles });
  postgres = openPostgres(house.stack.urls.postgresUrl, { connectionsMax: 2 });
  [sender, absent] = [new RawSender(url), new RawSender(url)];
  await Promise.all([sender.register(), absent.register()]);
});

afterAll(async () => {
  await postgres?.close();
  await house?.close();
});

/** One message, and so one batch. Answers its id when it is accepted. */
async function say(): Promise<string> {
  const envelope = someEnvelope(sender.me.agentId, absent.me.agentId);
  await eventually("it is accepted", async () => (await sender.post([envelope])).status === 202, 90_000);
  return envelope.messageId;
}

async function mailbox(): Promise<readonly string[]> {
  const text = "SELECT item_id AS id FROM messaging_queue WHERE recipient_id = $1 ORDER BY seq";
  return (await postgres.query<{ id: string }>({ text, values: [absent.me.agentId] })).rows.map(({ id }) => id);
}

/** Groups with state that have read so much of some partition. */
async function readTo(offset: number): Promise<readonly string[]> {
  const text = "SELECT grp FROM consumer_positions WHERE topic = $1 AND next_offset = $2 ORDER BY grp";
  const { rows } = await postgres.query<{ grp: string }>({ text, values: [messageEncrypted.name, offset] });
  return rows.map(({ grp }) => grp);
}

/** Groups that say that a partition of theirs stands. */
async function standing(): Promise<readonly string[]> {
  const metrics = await (await fetch(`${consumers.url}/metrics`)).text();
  return [...metrics.matchAll(/^sealpost_consumer_gaps\{.*consumer="([^"]+)".*\} [1-9]/gm)].map(
    ([, group]) => group ?? "",
  );
}

test("a tail that is cut off loses what no table has yet; it is said, and goes on when the gap is accepted", {
  timeout: 400_000,
  retry: 0,
}, async () => {
  const stored = [await say(), await say(), await say(), await say(), await say()];
  await eventually("they are in the mailbox", async () => (await mailbox()).length === stored.length, 60_000);
  await eventually("both have read them", async () => (await readTo(stored.length)).length === stand.length, 60_000);
  await consumers.stop();
  const confirmed = [await say(), await say()];

  const records = await house.read(messageEncrypted);
  const partition = records.find(({ decoded }) => decoded.itemId === confirmed[0])?.partition ?? -1;
  await house.stack.kill("kafka");
  await cutTail(path.join(house.stack.dataDir, "kafka", "log"), messageEncrypted.name, partition, confirmed.length + 2);
  await house.stack.restart("kafka");
  expect((await house.read(messageEncrypted)).length).toBe(records.length - 4);

  consumers = await house.start({ roles });
  await eventually("they say that they stand", async () => (await standing()).length === stand.length, 90_000);
  expect((await standing()).toSorted()).toEqual(stand);
  // More than were cut off: the position is inside the log again, and what stands before it is not what was read.
  const later = [await say(), await say(), await say(), await say(), await say()];
  await pause(LOOKS_MS);
  expect(await mailbox()).toEqual(stored);

  for (const group of stand) {
    const words = [
      path.resolve(import.meta.dirname, "../bin/accept-gap.ts"),
      group,
      messageEncrypted.name,
      `${partition}`,
    ];
    const { kafkaBrokers, postgresUrl, registryUrl, redisUrl } = house.stack.urls;
    const env = {
      SEALPOST_KAFKA_BROKERS: kafkaBrokers.join(","),
      SEALPOST_POSTGRES_URL: postgresUrl,
      SEALPOST_REGISTRY_URL: registryUrl,
      SEALPOST_REDIS_URL: redisUrl,
    };
    const { stdout } = await promisify(execFile)(process.execPath, words, { env });
    expect(stdout).toContain(`${group} goes on`);
  }
  await eventually("the later ones are in the mailbox", async () => (await mailbox()).length > 9, 90_000);
  expect(await mailbox()).toEqual([...stored, ...later]);
  await eventually("nobody stands", async () => (await standing()).length === 0, 60_000);
});
