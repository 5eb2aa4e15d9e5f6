import { isDeepStrictEqual } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Agent } from "../sdk/agent.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { usageOf } from "../store/usage.ts";
import { messageAcknowledged, messageDiscarded, messageQueued, usage } from "../streams/catalogue.ts";
import { headersAsText } from "../streams/headers.ts";
import { readTopic } from "../streams/read-topic.ts";
import type { Failpoint } from "../streams/runner-options.ts";
import { eventually, type House, openHouse } from "./house.ts";
import { type Population, populate } from "./population.ts";
import { type Counted, type LoggedRecord, type UsageByHour, usageByFold } from "./usage-fold.ts";

const points: readonly Failpoint[] = [
  "before-commit",
  "after-commit",
  "after-publish",
  "before-offset-commit",
  "after-offset-commit",
];
const counted = [messageQueued, messageAcknowledged, messageDiscarded];
const mailboxItemsMax = 20;

let house: House;
let url: string;
let postgres: Postgres;
let population: Population;
/** The third is of server custody. */
let agents: Population["agents"];

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  const env = { SEALPOST_MAILBOX_ITEMS_MAX: String(mailboxItemsMax) };
  await house.start({ roles: ["encryption", "queuing", "routing", "acks", "receipts", "relay"], env });
  postgres = openPostgres(house.stack.urls.postgresUrl, { connectionsMax: 2 });
  population = await populate(house, url, { alice: "agent", bob: "agent", carol: "server" });
  ({ agents } = population);
});

afterAll(async () => {
  await population?.leave();
  await postgres?.close();
  await house?.close();
});

/** Everybody says something to the next, of many lengths. */
async function speak(round: number): Promise<void> {
  await Promise.all(
    agents.map((agent, n) => agent.send(agents[(n + 1) % agents.length]?.id ?? "", "x".repeat((round * 97) % 3_000))),
  );
}

async function logged(): Promise<readonly LoggedRecord[]> {
  const topics = await Promise.all(counted.map((topic) => house.read<Counted>(topic)));
  return topics.flat().map(({ headers, decoded }) => ({ ceId: headersAsText(headers)["ce_id"] ?? "", value: decoded }));
}

async function fold(): Promise<UsageByHour> {
  return usageByFold(await logged());
}

async function agentIds(): Promise<readonly string[]> {
  const { rows } = await postgres.query<{ agent_id: string }>({ text: "SELECT agent_id FROM messaging_meters" });
  return rows.map((row) => row.agent_id);
}

const always = { from: 0, to: Number.MAX_SAFE_INTEGER, periodMs: 3_600_000 };

async function tabled(): Promise<UsageByHour> {
  const pages = await Promise.all((await agentIds()).map((id) => usageOf(postgres, id, always, 1_000)));
  return new Map(pages.flat().map(({ agentId, at, ...counts }) => [`${agentId} ${at}`, counts]));
}

/** As billing would: the highest revision of each hour. */
async function billed(): Promise<UsageByHour> {
  const newest = new Map<string, { readonly revision: number; readonly counts: Record<string, unknown> }>();
  for (const { decoded } of await house.read(usage)) {
    const { eventId: _, agentId, hour, revision, ...counts } = decoded;
    const name = `${agentId} ${hour}`;
    if (revision >= (newest.get(name)?.revision ?? 0)) newest.set(name, { revision, counts });
  }
  return new Map([...newest].map(([name, { counts }]) => [name, counts])) as unknown as UsageByHour;
}

/** Nothing moves any more, and metering has read it all. */
async function settled(): Promise<void> {
  let since = performance.now();
  await eventually(
    "metering has read the log",
    async () => {
      if ((await house.behind("metering", counted)) > 0) since = performance.now();
      return performance.now() - since > 1_500;
    },
    90_000,
  );
}

/** A message may end between two looks; what is counted wrong stays so. */
async function expectCounted(): Promise<void> {
  let [inTables, inLog] = [await tabled(), await fold()];
  await eventually("the tables agree with the log", async () => {
    [inTables, inLog] = [await tabled(), await fold()];
    return isDeepStrictEqual(inTables, inLog);
    // What is wrong is told below.
  }).catch(() => undefined);
  expect(inTables).toEqual(inLog);
}

const startMetering = (env: Readonly<Record<string, string>> = {}) => house.start({ roles: ["metering"], env });

/** Puts every position back to the beginning of the log; nobody may hold them. */
async function rewind(): Promise<void> {
  const { rowCount } = await postgres.query({
    text: "UPDATE consumer_positions SET next_offset = 0 WHERE grp = 'metering'",
  });
  expect(rowCount).toBe(counted.length * 8);
}

/** What a zombie would still publish: every record of the log, byte for byte, at later offsets. */
async function repeatTheLog(): Promise<number> {
  const producer = house.kafka.client.producer();
  await producer.connect();
  let repeated = 0;
  for (const { name } of counted) {
    const records = await readTopic(house.kafka, name);
    const messages = records.map(({ partition, key, value, headers }) => ({
      ...{ partition, key, value },
      headers: headersAsText(headers),
    }));
    repeated += messages.length;
    await producer.send({ topic: name, messages });
  }
  await producer.disconnect();
  return repeated;
}

test.each(points)("metering killed at %s counts every message once", async (point) => {
  const doomed = await startMetering({ SEALPOST_FAILPOINT: `metering:${point}:1` });
  let dead = false;
  void doomed.ended.then(() => (dead = true));
  for (let round = 1; !dead && round <= 1_000; round += 1) {
    await speak(round);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  expect(await doomed.ended).toBe("SIGKILL");
  if (point === "before-commit") await population.sendDamaged(agents[0] as Agent);
  await population.flood(15);
  const heirs = await Promise.all([startMetering(), startMetering()]);
  await settled();
  await expectCounted();
  await Promise.all(heirs.map((heir) => heir.stop()));
});

test("read again from the beginning, and repeated byte for byte behind everything, the log counts once", async () => {
  const records = await logged();
  const ends = records.filter(({ value }) => "discardedAt" in value);
  // What is compared is not nothing: read, evicted, refused, and an item that is no message.
  expect(records.filter(({ value }) => "acknowledgedAt" in value).length).toBeGreaterThan(20);
  const codes = ends.map(({ value }) => ("code" in value ? value.code : ""));
  expect(new Set(codes)).toEqual(new Set(["evicted", "refused"]));
  expect(records.some(({ value }) => "kind" in value && value.kind === "retry")).toBe(true);
  const before = [...(await tabled()).keys()];
  await rewind();
  expect(await repeatTheLog()).toBeGreaterThanOrEqual(records.length);
  const metering = await startMetering();
  await settled();
  await expectCounted();
  expect([...(await tabled()).keys()]).toEqual(expect.arrayContaining(before));
  await metering.stop();
});

test("billing, the agents and the tables agree with the log, expired messages included", async () => {
  const metering = await startMetering();
  await postgres.query({
    text: "UPDATE messaging_queue SET expires_at = 1 WHERE recipient_id = $1",
    values: [population.absent.me.agentId],
  });
  await house.start({ roles: ["jobs"] });
  await eventually(
    "the mailbox of who never reads has expired",
    async () => (await logged()).some(({ value }) => "code" in value && value.code === "expired"),
    100_000,
  );
  await settled();
  await expectCounted();
  const expected = await fold();
  await eventually("all is announced", async () => String(await tellDifference(expected)) === "", 100_000);
  expect(await billed()).toEqual(expected);
  for (const agent of agents) {
    const own = (await agent.usage({ from: 0 })).map(({ start, ...counts }) => [`${agent.id} ${start}`, counts]);
    expect(new Map(own as [string, unknown][])).toEqual(
      new Map([...expected].filter(([name]) => name.startsWith(`${agent.id} `))),
    );
    expect(own.length).toBeGreaterThan(0);
  }
  await metering.stop();
}, 300_000);

async function tellDifference(expected: UsageByHour): Promise<string> {
  const found = await billed();
  const names = [...expected].filter(([name, counts]) => {
    const other = found.get(name) as Record<string, number> | undefined;
    return Object.entries(counts).some(([count, value]) => other?.[count] !== value);
  });
  return names.map(([name]) => name).join();
}

test("meters that forgot what they had counted would be found out", async () => {
  const expected = await fold();
  await postgres.query({ text: "UPDATE messaging_meters SET stored_seqs = '{}'" });
  await rewind();
  const metering = await startMetering();
  await settled();
  const found = await tabled();
  expect(found).not.toEqual(expected);
  const sum = (usages: UsageByHour) => [...usages.values()].reduce((total, { bytesSent }) => total + bytesSent, 0);
  expect(sum(found)).toBe(2 * sum(expected));
  await metering.stop();
});
