import { execFile } from "node:child_process";
import path from "node:path";
import pino from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type RebuildServers, rebuildDiff, rebuildOver } from "../bin/rebuild-diff.ts";
import type { MessageReceipt, ReceiptItem } from "../schemas/values.ts";
import type { Agent } from "../sdk/agent.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { messageReceipt } from "../streams/catalogue.ts";
import { toOutgoing } from "../streams/headers.ts";
import { openProducer, type Producer } from "../streams/producer.ts";
import { eventually, type House, openHouse, operatorsUrlOf } from "./house.ts";
import { type Population, populate } from "./population.ts";

const mailboxItemsMax = 20;
const token = "a-token-of-the-operators-0123456789";

let house: House;
let postgres: Postgres;
let producer: Producer;
let opsUrl: string;
/** The second of its agents is of server custody. */
let population: Population;

beforeAll(async () => {
  house = await openHouse();
  const env = { SEALPOST_OPS_TOKEN: token, SEALPOST_OPS_HTTP_PORT: "0" };
  const api = await house.start({ roles: ["api"], prepare: true, env });
  opsUrl = operatorsUrlOf(api);
  const roles = ["encryption", "queuing", "routing", "acks", "receipts", "sessions", "metering", "relay"];
  await house.start({ roles, env: { SEALPOST_MAILBOX_ITEMS_MAX: String(mailboxItemsMax) } });
  postgres = openPostgres(house.stack.urls.postgresUrl, { connectionsMax: 2 });
  producer = openProducer({ kafka: house.kafka, log: pino({ level: "silent" }) });
  population = await populate(house, api.url, { alice: "agent", carol: "server" });
});

afterAll(async () => {
  await population?.leave();
  await producer?.close();
  await postgres?.close();
  await house?.close();
});

function servers(): RebuildServers {
  const { kafkaBrokers, ...urls } = house.stack.urls;
  return { ...urls, kafka: { brokers: kafkaBrokers } };
}

async function select<Row extends object>(text: string, ...values: readonly unknown[]): Promise<readonly Row[]> {
  return (await postgres.query<Row & Record<string, unknown>>({ text, values: [...values] })).rows;
}

interface Waiting {
  readonly sender_id: string;
  readonly item_id: string;
  readonly seq: number;
}

function waitingFor(recipientId: string): Promise<readonly Waiting[]> {
  return select<Waiting>(
    "SELECT sender_id, item_id, seq FROM messaging_queue WHERE recipient_id = $1 ORDER BY seq",
    recipientId,
  );
}

function report(recipientId: string, fields: Partial<MessageReceipt>): Promise<unknown> {
  const id = crypto.randomUUID();
  const head = { topic: messageReceipt, key: recipientId, id, source: "/test", subject: recipientId, time: 1 };
  return producer.append([toOutgoing(house.codec, { ...head, value: { recipientId, items: [], ...fields } })]);
}

function itemOf({ sender_id: senderId, item_id: itemId }: Waiting, outcome: ReceiptItem["outcome"]): ReceiptItem {
  return { outcome, senderId, itemId, at: Date.now(), door: "none", code: outcome === "deleted" ? "of-a-test" : null };
}

async function retry(recipientId: string, waiting: Waiting): Promise<void> {
  const retried = [{ senderId: waiting.sender_id, itemId: waiting.item_id, at: Date.now() }];
  await report(recipientId, { retried });
}

/** Ends and marks of every kind, on items of both kinds. */
async function live(): Promise<void> {
  const { agents, absent, stranger, flood, sendDamaged } = population;
  const [alice, carol] = agents as readonly [Agent, Agent];
  for (let round = 0; round < 3; round++) {
    const sent = await Promise.all([alice.send(carol.id, `to carol ${round}`), carol.send(alice.id, `back ${round}`)]);
    await Promise.all(sent.map((one) => one.acknowledged({ signal: AbortSignal.timeout(60_000) })));
  }
  const strangerId = stranger.me.agentId;
  for (let n = 0; n < 2; n++) {
    const toNobody = await carol.send(strangerId, "to one without prekeys");
    await expect(toNobody.acknowledged({ signal: AbortSignal.timeout(60_000) })).rejects.toMatchObject({
      code: "prekeys-unavailable",
    });
  }
  for (let n = 0; n < 2; n++) await sendDamaged(alice);
  await eventually("both are asked for anew", async () => (await waitingFor(strangerId)).length === 2, 60_000);
  await flood(mailboxItemsMax + 7);
  const absentId = absent.me.agentId;
  await eventually("the oldest are evicted", async () => (await waitingFor(absentId))[0]?.seq === 8, 60_000);

  const waiting = (await waitingFor(absentId)) as readonly [Waiting, Waiting, Waiting, Waiting, Waiting, Waiting];
  const [asked, answered] = (await waitingFor(strangerId)) as readonly [Waiting, Waiting];
  await report(absentId, { items: [itemOf(waiting[0], "expired"), itemOf(waiting[1], "deleted")] });
  await report(absentId, { items: [itemOf(waiting[2], "aside"), itemOf(waiting[3], "aside")] });
  const range = { afterSeq: waiting[3].seq, untilSeq: waiting[5].seq, at: Date.now() };
  await report(absentId, { undeliverable: range });
  await report(strangerId, { items: [itemOf(asked, "aside"), itemOf(answered, "acknowledged")] });
  for (const one of [waiting[2], waiting[4]]) await retry(absentId, one);
  await retry(strangerId, asked);
  await report(strangerId, { items: [itemOf(asked, "aside")] });
  const response = await fetch(`${opsUrl}/ops/agents/${strangerId}/suspend`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ reason: "of a test" }),
  });
  expect(response.status, await response.text()).toBe(200);
}

test("after a life with ends and marks of every kind the tables hold what the log says", async () => {
  await live();
  expect(await rebuildDiff(servers())).toEqual([]);

  const rebuilt = await rebuildOver(servers(), { patienceMs: 30_000 });
  if (rebuilt.outcome === "busy") throw new Error(rebuilt.why);
  const counts = new Map(rebuilt.tables.map(({ table, rows }) => [table, rows]));
  for (const [table, rows] of counts) expect([table, rows > 0 || table === "messaging_prekeys"]).toEqual([table, true]);
  expect(rebuilt.tables.every(({ outside }) => outside === 0)).toBe(true);
  // What was compared is not nothing.
  const outcomes = await select<{ outcome: string | null }>("SELECT DISTINCT outcome FROM messaging_messages");
  expect(new Set(outcomes.map(({ outcome }) => outcome))).toEqual(
    new Set(["acknowledged", "refused", "evicted", "expired", "deleted", null]),
  );
  const asides = await select<{ kind: string }>("SELECT kind FROM messaging_queue WHERE aside_at IS NOT NULL");
  expect(asides.map(({ kind }) => kind).toSorted()).toEqual(["message", "retry"]);
  const undeliverable = "SELECT FROM messaging_messages WHERE undeliverable_at IS NOT NULL";
  expect(await select(undeliverable)).toHaveLength(1);
}, 300_000);

test("what is committed and not published is waited for, and nothing is compared before", async () => {
  const id = crypto.randomUUID();
  await select(
    `INSERT INTO outbox (grp, input_topic, input_partition, input_offset, n, topic, key, value, headers)
     VALUES ('acks', 'no.topic', 0, 0, 0, $1, '', '', '')`,
    id,
  );
  await expect(rebuildDiff(servers(), 0)).rejects.toThrow("1 events are committed and not published yet");
  await select("DELETE FROM outbox WHERE topic = $1", id);
  expect(await rebuildDiff(servers())).toEqual([]);
});

/** By the table, what is done to a row of it, and the difference that it is. Each answers the row's key. */
const vandalism: readonly (readonly [what: string, table: string, sql: string])[] = [
  [
    "different",
    "messaging_queue",
    `UPDATE messaging_queue SET body = body || '\\x00' WHERE seq = 20 RETURNING recipient_id || '/' || sender_id || '/' || item_id AS key`,
  ],
  [
    "missing",
    "messaging_queue",
    "DELETE FROM messaging_queue WHERE seq = 21 RETURNING recipient_id || '/' || sender_id || '/' || item_id AS key",
  ],
  [
    "unexpected",
    "messaging_queue",
    `INSERT INTO messaging_queue SELECT recipient_id, sender_id, gen_random_uuid(), 1000, kind, body, created_at, expires_at, aside_at
     FROM messaging_queue WHERE seq = 22 RETURNING recipient_id || '/' || sender_id || '/' || item_id AS key`,
  ],
  [
    "different",
    "messaging_messages",
    `UPDATE messaging_messages SET delivered_at = delivered_at + 1 WHERE (sender_id, message_id) =
     (SELECT sender_id, message_id FROM messaging_messages WHERE outcome = 'acknowledged' ORDER BY message_id LIMIT 1)
     RETURNING sender_id || '/' || message_id AS key`,
  ],
  [
    "missing",
    "messaging_messages",
    `DELETE FROM messaging_messages WHERE outcome = 'deleted' RETURNING sender_id || '/' || message_id AS key`,
  ],
  [
    "unexpected",
    "messaging_messages",
    `INSERT INTO messaging_messages (sender_id, message_id, recipient_id, digest, session_id, send_counter, seq, size, custody, accepted_at, queued_at)
     SELECT sender_id, (left(message_id::text, 24) || 'ffffffffffff')::uuid, recipient_id, digest, session_id, send_counter, seq, size, custody,
       accepted_at, queued_at FROM messaging_messages WHERE outcome = 'expired' RETURNING sender_id || '/' || message_id AS key`,
  ],
  [
    "different",
    "messaging_discarded",
    `UPDATE messaging_discarded SET code = 'malformed' WHERE message_id = (SELECT message_id FROM messaging_discarded ORDER BY message_id LIMIT 1)
     RETURNING sender_id || '/' || message_id AS key`,
  ],
  [
    "missing",
    "messaging_discarded",
    "DELETE FROM messaging_discarded WHERE code = 'prekeys-unavailable' RETURNING sender_id || '/' || message_id AS key",
  ],
  [
    "unexpected",
    "messaging_discarded",
    `INSERT INTO messaging_discarded SELECT 'nobody', message_id, recipient_id, code, discarded_at FROM messaging_discarded WHERE code = 'malformed'
     RETURNING sender_id || '/' || message_id AS key`,
  ],
  [
    "different",
    "messaging_mailboxes",
    "UPDATE messaging_mailboxes SET evicted_seq = evicted_seq - 1 WHERE evicted_seq > 0 RETURNING recipient_id AS key",
  ],
  [
    "missing",
    "messaging_mailboxes",
    "DELETE FROM messaging_mailboxes WHERE recipient_id = $1 RETURNING recipient_id AS key",
  ],
  [
    "unexpected",
    "messaging_mailboxes",
    "INSERT INTO messaging_mailboxes VALUES ('nobody', 1, 1, 1) RETURNING recipient_id AS key",
  ],
  [
    "different",
    "messaging_mailbox_ends",
    "UPDATE messaging_mailbox_ends SET ended_bytes = ended_bytes + 1 WHERE recipient_id = $1 RETURNING recipient_id AS key",
  ],
  [
    "missing",
    "messaging_mailbox_ends",
    "DELETE FROM messaging_mailbox_ends WHERE ended_items > 7 RETURNING recipient_id AS key",
  ],
  [
    "unexpected",
    "messaging_mailbox_ends",
    "INSERT INTO messaging_mailbox_ends VALUES ('nobody', 1, 1) RETURNING recipient_id AS key",
  ],
  [
    "different",
    "messaging_session_facts",
    `UPDATE messaging_session_facts SET send_counter = send_counter + 1 WHERE owner_id = $1
     RETURNING owner_id || '/' || peer_id || '/' || encode(session_id, 'hex') AS key`,
  ],
  [
    "missing",
    "messaging_session_facts",
    `DELETE FROM messaging_session_facts WHERE owner_id = $2
     RETURNING owner_id || '/' || peer_id || '/' || encode(session_id, 'hex') AS key`,
  ],
  [
    "unexpected",
    "messaging_session_facts",
    `INSERT INTO messaging_session_facts SELECT owner_id, 'nobody', session_id, message_id, dh_public_key, send_counter, previous_counter, messages,
       first_at, last_at FROM messaging_session_facts WHERE owner_id = $1 LIMIT 1
     RETURNING owner_id || '/' || peer_id || '/' || encode(session_id, 'hex') AS key`,
  ],
  [
    "different",
    "messaging_agents",
    "UPDATE messaging_agents SET status = 'active' WHERE status = 'suspended' RETURNING agent_id AS key",
  ],
  ["missing", "messaging_agents", "DELETE FROM messaging_agents WHERE agent_id = $1 RETURNING agent_id AS key"],
  [
    "unexpected",
    "messaging_agents",
    `INSERT INTO messaging_agents (agent_id, identity_key, custody, created_at)
     SELECT 'nobody', identity_key, custody, created_at FROM messaging_agents LIMIT 1 RETURNING agent_id AS key`,
  ],
  [
    "different",
    "messaging_usage",
    "UPDATE messaging_usage SET bytes_sent = bytes_sent + 1 WHERE agent_id = $1 RETURNING agent_id || '/' || hour AS key",
  ],
  [
    "missing",
    "messaging_usage",
    "DELETE FROM messaging_usage WHERE agent_id = $2 RETURNING agent_id || '/' || hour AS key",
  ],
  [
    "unexpected",
    "messaging_usage",
    "INSERT INTO messaging_usage VALUES ('nobody', 3600000, 1, 1, 1, 1, 1, 1, 1, 1, 1, true) RETURNING agent_id || '/' || hour AS key",
  ],
  [
    "different",
    "messaging_prekeys",
    `UPDATE messaging_prekeys SET status = 'ACTIVE' WHERE status = 'USED' AND key_type = 'one-time' AND agent_id = $1
     RETURNING agent_id || '/' || prekey_id AS key`,
  ],
];

function operator(...args: readonly string[]): Promise<{ readonly code: number | null; readonly out: string }> {
  const { kafkaBrokers, registryUrl, postgresUrl } = house.stack.urls;
  const env = {
    SEALPOST_KAFKA_BROKERS: kafkaBrokers.join(),
    SEALPOST_REGISTRY_URL: registryUrl,
    SEALPOST_POSTGRES_URL: postgresUrl,
  };
  const entry = path.join(import.meta.dirname, "..", "bin", "sealpost.ts");
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [entry, "rebuild", ...args], { env }, (_, out) => {
      resolve({ code: child.exitCode, out });
    });
  });
}

test("a row of any table that was changed, removed or added by hand is found, and nothing else", async () => {
  const ids = population.agents.map(({ id }) => id);
  const expected: string[] = [];
  for (const [what, table, sql] of vandalism) {
    const names = [...sql.matchAll(/\$(\d)/g)].map(([, n]) => Number(n));
    const values = ids.slice(0, Math.max(0, ...names)).map((id, n) => (names.includes(n + 1) ? id : ""));
    // Of an argument that a statement does not use PostgreSQL would not know the type.
    const text = names.includes(2) && !names.includes(1) ? sql.replaceAll("$2", "$1") : sql;
    const rows = await select<{ key: string }>(text, ...values.filter((value) => value !== ""));
    expect([table, what, rows.length > 0]).toEqual([table, what, true]);
    expected.push(...rows.map(({ key }) => `${table} ${what} ${key}`));
  }
  const found = await rebuildDiff(servers());
  expect(found.map(({ table, what, key }) => `${table} ${what} ${key}`).toSorted()).toEqual(expected.toSorted());

  const { code, out } = await operator("--json", "--limit", "1");
  expect(code).toBe(1);
  const told = JSON.parse(out) as { count: number; tables: { table: string; count: number; differences: unknown[] }[] };
  expect(told.count).toBe(expected.length);
  expect(told.tables.every(({ differences }) => differences.length <= 1)).toBe(true);
  expect((await operator("--limit", "-1")).code).toBe(2);
}, 180_000);
