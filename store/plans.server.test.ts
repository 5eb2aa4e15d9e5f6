import { randomBytes, randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { DAY_MS } from "../protocol/limits.ts";
import { retryRequestToJson } from "../protocol/retry-request.ts";
import { openSampleDatabase, placeAll, sampleAgentId, sampleArrival, sampleItemId } from "../tests/messaging.ts";
import { insertAgents, insertPrekeys } from "../tests/stocked-agents.ts";
import { firstOf, settle, takeMarks } from "./acks.ts";
import { findInactive } from "./agents.ts";
import { dayBytes } from "./at-rest.ts";
import { readContacts } from "./contacts.ts";
import {
  changeKept,
  findCommands,
  findSuccessors,
  forgetOldContents,
  lockKept,
  recallCommands,
  writeCommands,
} from "./custody/commands.ts";
import { findDiscarded, writeDiscarded } from "./custody/discarded.ts";
import { findFailed, writeAsked, writeFailed } from "./custody/failed.ts";
import { findOpened, writeOpened } from "./custody/opened.ts";
import { findPassed } from "./custody/passed.ts";
import { findAskedOwners, findRequests, takeRequests } from "./custody/requests.ts";
import { readSealedPage, replaceSealed, sealedColumns } from "./custody/sealed-columns.ts";
import { findStates, forgetEmptyStates, lockStates, writeStates } from "./custody/states.ts";
import { evictOldest } from "./evictions.ts";
import { findExpired } from "./expiry.ts";
import { newestWaiting, readMailbox, waitsUpTo } from "./mailbox.ts";
import { dayOf, ensureMessageDays, openMessageDays } from "./message-days.ts";
import { findMessages, type MessageKey } from "./messages.ts";
import { addToHours, lockMeters, writeMeters } from "./meters.ts";
import { findDecisions } from "./permissions.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";
import { place } from "./queuing.ts";
import { countStocks, findDueAgents, findServerAgents } from "./rotation.ts";
import { factsOfOwner, factsOfPair, findFacts, forgetFacts, type SessionFacts, writeFacts } from "./session-facts.ts";
import { countStuck, findStuck, whichStuck } from "./stuck.ts";
import { changedHours, forgetUsage, markAnnounced, usageOf, usageOfHour } from "./usage.ts";
import { countWaiting } from "./waiting.ts";

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase(2);
});
afterAll(() => postgres.close());

interface Plan {
  readonly "Node Type": string;
  readonly "Relation Name"?: string;
  readonly "Index Name"?: string;
  readonly "Actual Loops"?: number;
  readonly "Actual Rows"?: number;
  readonly "Rows Removed by Filter"?: number;
  readonly Plans?: readonly Plan[];
}

/** Explains every statement that `work` sends, while running it, and answers the plans by the statements' names. */
async function plansOf(work: (client: Queryable) => Promise<unknown>): Promise<ReadonlyMap<string, readonly Plan[]>> {
  const plans = new Map<string, readonly Plan[]>();
  await inTransaction(postgres, async (client) => {
    await work({
      query: async (query) => {
        const explain = { text: `EXPLAIN (ANALYZE, FORMAT JSON) ${query.text}`, values: query.values ?? [] };
        await client.query({ text: "SAVEPOINT explained" });
        const { rows } = await client.query<{ "QUERY PLAN": [{ Plan: Plan }] }>(explain);
        await client.query({ text: "ROLLBACK TO explained" });
        const top = rows[0]?.["QUERY PLAN"][0].Plan;
        if (top !== undefined) plans.set(query.name ?? query.text, nodesOf(top));
        return client.query(query);
      },
    });
  });
  return plans;
}

function nodesOf(plan: Plan): Plan[] {
  return [plan, ...(plan.Plans ?? []).flatMap(nodesOf)];
}

function tableScans(nodes: readonly Plan[]): readonly Plan[] {
  return nodes.filter((node) => node["Node Type"].endsWith("Scan") && node["Relation Name"] !== undefined);
}

test("no statement of the hot path reads a table through, and those that know the mailbox look into one partition", async () => {
  const arrivals = Array.from({ length: 20 }, () => sampleArrival());
  const [first] = arrivals;
  if (first === undefined) throw new Error("no arrival");
  // Tables and statistics in which the planner, left to itself, would rather read the mailboxes through than look things up.
  await ensureMessageDays(
    postgres,
    Array.from({ length: 40 }, (_, n) => dayOf(Date.now()) - n),
  );
  for (let n = 0; n < 8; n++)
    await placeAll(
      postgres,
      Array.from({ length: 500 }, () => sampleArrival()),
    );
  await placeAll(postgres, [first]);
  await postgres.query({ text: "ANALYZE messaging_queue, messaging_messages, messaging_mailboxes" });
  const end = { outcome: "acknowledged", at: 1, code: null } as const;
  const plans = await plansOf(async (client) => {
    await place(client, openMessageDays(postgres), [...arrivals, sampleArrival({ kind: "retry" })], 1);
    await evictOldest(client, [{ recipientId: first.recipientId, arrived: 1 }], 1);
    const messageIds = arrivals.slice(0, 5).map(({ itemId }) => itemId);
    await countWaiting(client, first.senderId, [{ recipientId: first.recipientId, messageIds }], 2_000);
    await readMailbox(client, first.recipientId, { afterSeq: 0, limit: 256, maxBytes: 1 << 22 });
    await findMessages(client, [{ senderId: first.senderId, messageId: first.itemId }]);
    const nothing = { deliveredAt: 1, undeliverableAt: null, asideAt: null };
    const changes = arrivals.map(({ recipientId, senderId, itemId }) => ({
      recipientId,
      senderId,
      itemId,
      ...nothing,
      end,
    }));
    await settle(client, changes);
    await waitsUpTo(client, [{ recipientId: first.recipientId, seq: 9 }]);
    await newestWaiting(client, [first.recipientId]);
    await firstOf(client, [{ recipientId: first.recipientId, afterSeq: 0, untilSeq: 9 }], 500);
  });
  expect([...plans.keys()]).toEqual([
    "find-queued-retries",
    "place-items",
    "find-digests",
    "evict-oldest",
    "count-waiting",
    "read-mailbox",
    "find-messages",
    "settle-items",
    "waits-up-to",
    "newest-waiting",
    "first-of-ranges",
  ]);
  for (const [name, nodes] of plans) {
    const scans = tableScans(nodes);
    expect(scans.length, name).toBeGreaterThan(0);
    expect(
      scans.filter((node) => node["Node Type"] === "Seq Scan").map((node) => node["Relation Name"]),
      name,
    ).toEqual([]);
    // Each of the rows that are looked for is looked for in one partition of each table.
    const looks = new Map<string, number>();
    for (const { "Relation Name": relation = "", "Actual Loops": loops = 0 } of scans) {
      const table = /^messaging_(queue|messages)(?=_\d+$)/.exec(relation)?.[0];
      if (table !== undefined) looks.set(table, (looks.get(table) ?? 0) + loops);
    }
    for (const [table, count] of looks) expect(count, `${name} in ${table}`).toBeLessThanOrEqual(arrivals.length);
  }
});

test("what has expired is found at the end of an index, without a look at what waits", async () => {
  const recipientId = sampleAgentId();
  const old = Array.from({ length: 30 }, () => sampleArrival({ itemId: sampleItemId(Date.now() - 29 * DAY_MS) }));
  for (let n = 0; n < 4; n++)
    await placeAll(
      postgres,
      Array.from({ length: 500 }, () => sampleArrival({ recipientId })),
    );
  await placeAll(postgres, old);
  await postgres.query({ text: "ANALYZE messaging_queue" });
  let found = 0;
  const plans = await plansOf(async (client) => {
    const { next } = await findExpired(client, Date.now() + 2 * DAY_MS, null, 20);
    found = 20 + (await findExpired(client, Date.now() + 2 * DAY_MS, next, 20)).items.length;
  });
  expect(found).toBe(old.length);
  const nodes = plans.get("find-expired") ?? [];
  const scans = tableScans(nodes);
  expect(scans.length).toBeGreaterThan(0);
  expect(scans.map((node) => node["Node Type"])).not.toContain("Seq Scan");
  const rows = scans.reduce((sum, { "Actual Rows": count = 0 }) => sum + count, 0);
  expect(rows).toBeLessThanOrEqual(old.length + scans.length);
});

test("what is stuck is found by the indexes of the marks, however much waits beside it", async () => {
  const recipientId = sampleAgentId();
  for (let n = 0; n < 4; n++)
    await placeAll(
      postgres,
      Array.from({ length: 500 }, () => sampleArrival({ recipientId })),
    );
  const stuck = Array.from({ length: 12 }, () => sampleArrival({ recipientId }));
  await placeAll(postgres, stuck);
  const names = stuck.map(({ senderId, itemId }) => ({ recipientId, senderId, itemId }));
  for (const { senderId, itemId } of stuck) {
    const values = [recipientId, senderId, itemId];
    await postgres.query({
      text: "UPDATE messaging_queue SET aside_at = 1 WHERE recipient_id = $1 AND sender_id = $2 AND item_id = $3",
      values,
    });
    const text = "UPDATE messaging_messages SET undeliverable_at = 1 WHERE sender_id = $1 AND message_id = $2";
    await postgres.query({ text, values: [senderId, itemId] });
  }
  await postgres.query({ text: "ANALYZE messaging_queue, messaging_messages" });
  const found: number[] = [];
  const plans = await plansOf(async (client) => {
    for (const state of ["set-aside", "undeliverable"] as const) {
      const { items, next } = await findStuck(client, { state, recipientId }, null, 5);
      found.push(items.length, (await findStuck(client, { state }, next, 100)).items.length);
      found.push((await countStuck(client, { state }, 100)).count);
    }
    found.push((await whichStuck(client, names)).length);
    found.push((await takeMarks(client, names)).length);
  });
  expect(found).toEqual([5, 7, 12, 5, 7, 12, 12, 12]);
  for (const [name, nodes] of plans) {
    const scans = tableScans(nodes);
    expect(scans.length, name).toBeGreaterThan(0);
    expect(
      scans.map((node) => node["Node Type"]),
      name,
    ).not.toContain("Seq Scan");
    const rows = scans.reduce(
      (sum, node) =>
        sum + (node["Actual Rows"] ?? 0) * (node["Actual Loops"] ?? 0) + (node["Rows Removed by Filter"] ?? 0),
      0,
    );
    expect(rows, name).toBeLessThanOrEqual(5 * stuck.length);
  }
});

test("what is asked of sessions is looked up, and an agent's pages are read in the order of their index", async () => {
  const [owner, peer] = [sampleAgentId(), sampleAgentId()];
  const facts = Array.from(
    { length: 3_000 },
    (_, n): SessionFacts => ({
      ownerId: n % 3 === 0 ? owner : sampleAgentId(),
      peerId: n % 30 === 0 ? peer : sampleAgentId(),
      sessionId: randomBytes(16),
      messageId: randomUUID(),
      dhPublicKey: randomBytes(32),
      ...{ sendCounter: 1, previousCounter: 0, messages: 1, firstAt: n, lastAt: n, initiation: null },
    }),
  );
  await writeFacts(postgres, facts);
  await postgres.query({ text: "ANALYZE messaging_session_facts" });
  const some = facts.slice(0, 20);
  const plans = await plansOf(async (client) => {
    await findFacts(client, some);
    await writeFacts(client, some);
    await factsOfPair(client, owner, peer);
    await factsOfOwner(client, owner, null, 100);
    await forgetFacts(client, 100);
  });
  expect([...plans.keys()]).toEqual([
    "find-session-facts",
    "write-session-facts",
    "session-facts-of-pair",
    "session-facts-of-owner",
    "forget-session-facts",
  ]);
  for (const [name, nodes] of plans) {
    const kinds = tableScans(nodes).map((node) => node["Node Type"]);
    expect(kinds, name).not.toContain("Seq Scan");
  }
  const looks = (name: string) =>
    tableScans(plans.get(name) ?? []).reduce((sum, node) => sum + (node["Actual Loops"] ?? 0), 0);
  expect(looks("find-session-facts")).toBe(some.length);
  // Both sides of the pair for the names, and both of each of its hundred newest sessions.
  expect(looks("session-facts-of-pair")).toBeLessThanOrEqual(2 + 2 * 100);
  expect(looks("session-facts-of-owner")).toBe(1);
  expect((plans.get("session-facts-of-owner") ?? []).map((node) => node["Node Type"])).not.toContain("Sort");
});

test("usage is counted, read, announced and forgotten by index, and nobody's hours but those asked for are read", async () => {
  const agentIds = Array.from({ length: 400 }, () => sampleAgentId());
  const some = agentIds.slice(0, 50);
  const one = { messagesSent: 1, bytesSent: 1, messagesReceived: 1, bytesReceived: 1 };
  const counts = { ...one, messagesAcknowledged: 0, bytesAcknowledged: 0, messagesDiscarded: 0, bytesDiscarded: 0 };
  const hours = (ids: readonly string[]) =>
    ids.flatMap((agentId) => Array.from({ length: 24 }, (_, n) => ({ agentId, hour: n * 3_600_000, ...counts })));
  await inTransaction(postgres, async (client) => {
    await lockMeters(client, agentIds);
    await addToHours(client, hours(agentIds));
    await markAnnounced(client, await changedHours(client, null, 9_000));
  });
  await postgres.query({ text: "VACUUM ANALYZE messaging_usage, messaging_meters" });
  const plans = await plansOf(async (client) => {
    await writeMeters(client, await lockMeters(client, some));
    await addToHours(client, hours(some.slice(0, 10)));
    await usageOf(client, agentIds[99] ?? "", { from: 0, to: 9e12, periodMs: DAY_MS }, 100);
    await usageOfHour(client, 3_600_000, "", 20);
    const changed = await changedHours(client, null, 100);
    expect(changed).toHaveLength(100);
    await markAnnounced(client, changed);
    await forgetUsage(client, 3_600_000);
  });
  expect(plans.size).toBe(10);
  const rowsRead = (name: string) =>
    tableScans(plans.get(name) ?? []).reduce(
      (sum, node) =>
        sum + (node["Actual Loops"] ?? 0) * ((node["Actual Rows"] ?? 0) + (node["Rows Removed by Filter"] ?? 0)),
      0,
    );
  for (const [name, nodes] of plans) {
    const kinds = tableScans(nodes).map((node) => node["Node Type"]);
    expect(kinds, name).not.toContain("Seq Scan");
  }
  // Its 24 hours and its meter.
  expect(rowsRead("usage-of-agent")).toBe(25);
  // Of each of the 20 its hour, its meter and its 22 later hours.
  expect(rowsRead("usage-of-hour")).toBe(20 * 24);
  expect(rowsRead("lock-meters")).toBe(some.length);
  expect(rowsRead("revise-later-hours")).toBe(10 * 23);
});

test("who may message whom is looked up, never read through, however many have said something about it", async () => {
  const agents = Array.from({ length: 2_000 }, () => sampleAgentId());
  await postgres.query({
    text: `INSERT INTO messaging_policies (agent_id, policy, changed_at) SELECT id, 'contacts', 1 FROM unnest($1::text[]) AS id`,
    values: [agents],
  });
  const [popular] = agents;
  await postgres.query({
    text: `INSERT INTO messaging_policy_lists (agent_id, list, peer_id, added_at)
           SELECT $1, list, id, 1 FROM unnest($2::text[]) AS id, unnest(ARRAY['allow', 'block']) AS list`,
    values: [popular, agents],
  });
  await postgres.query({
    text: `INSERT INTO messaging_contacts (agent_id, peer_id, state, changed_at)
           SELECT $1, id, CASE WHEN id < 'Z' THEN 'pending' ELSE 'accepted' END, 1 FROM unnest($2::text[]) AS id`,
    values: [popular, agents],
  });
  await postgres.query({ text: "ANALYZE messaging_policies, messaging_policy_lists, messaging_contacts" });
  const asks = agents.slice(0, 20).flatMap((senderId) => {
    const other = sampleAgentId();
    return [popular ?? "", other].map((recipientId) => ({ senderId, recipientId, principalId: other }));
  });
  const plans = await plansOf(async (client) => {
    await findDecisions(client, asks);
    await readContacts(client, { agentId: popular ?? "", state: "pending", after: "5" }, 10);
  });
  expect([...plans.keys()]).toEqual(["find-decisions", "read-contacts"]);
  for (const [name, nodes] of plans) {
    const scans = tableScans(nodes);
    expect(scans.length, name).toBeGreaterThan(0);
    expect(
      scans.map((node) => node["Node Type"]),
      name,
    ).not.toContain("Seq Scan");
    expect(Math.max(...scans.map((node) => node["Actual Loops"] ?? 0))).toBeLessThanOrEqual(asks.length);
    expect(Math.max(...scans.map((node) => node["Actual Rows"] ?? 0)), name).toBeLessThanOrEqual(11);
  }
});

test("agents whose prekeys are due are found by index, the oldest first, and counted without reading the prekeys through", async () => {
  const now = Date.UTC(2026, 5, 1);
  const agents = Array.from({ length: 300 }, () => ({ agentId: sampleAgentId() }));
  await insertAgents(postgres, agents, "server", now);
  for (const [index, agent] of agents.entries()) {
    await insertPrekeys(postgres, "signed", now - index * DAY_MS, [{ ...agent, id: randomUUID() }]);
  }
  const many = (agent: { agentId: string }) => Array.from({ length: 30 }, () => ({ ...agent, id: randomUUID() }));
  await insertPrekeys(postgres, "one-time", now - 1, agents.flatMap(many));
  await postgres.query({ text: "ANALYZE messaging_agents, messaging_prekeys" });
  const ids = agents.slice(0, 20).map(({ agentId }) => agentId);
  const page = { madeUntil: now - 7 * DAY_MS, after: null, limit: 10 };
  let oldest: readonly { agentId: string }[] = [];
  const plans = await plansOf(async (client) => {
    oldest = await findDueAgents(client, page);
    await findServerAgents(client, "", 10);
    await countStocks(client, ids, now);
  });
  expect(oldest.map(({ agentId }) => agentId)).toEqual(
    agents
      .toReversed()
      .slice(0, 10)
      .map(({ agentId }) => agentId),
  );
  expect([...plans.keys()]).toEqual(["find-due-agents", "find-server-agents", "count-stocks"]);
  for (const [name, nodes] of plans) {
    expect(tableScans(nodes).length, name).toBeGreaterThan(0);
    expect(
      tableScans(nodes).filter((node) => node["Node Type"] === "Seq Scan"),
      name,
    ).toEqual([]);
    // Sorted by the index: a sort would mean that all that are due were read for ten.
    expect(
      nodes.filter((node) => node["Node Type"] === "Sort" && name === "find-due-agents"),
      name,
    ).toEqual([]);
  }
});

/** Somebody asks for this message. */
function requestFor({ senderId, messageId }: MessageKey) {
  const recipientId = sampleAgentId();
  const facts = { senderId, recipientId, messageId, sessionId: randomBytes(16), dhPublicKey: randomBytes(32) };
  const body = Buffer.from(
    JSON.stringify(retryRequestToJson({ ...facts, time: Date.now(), signature: randomBytes(64) })),
  );
  return sampleArrival({ kind: "retry", recipientId: senderId, senderId: recipientId, body });
}
test("who is not active any more is looked up, however many agents there are", async () => {
  const agents = Array.from({ length: 3_000 }, () => ({ agentId: sampleAgentId() }));
  await insertAgents(postgres, agents, "agent", 0);
  await postgres.query({ text: "ANALYZE messaging_agents" });
  const plans = await plansOf((client) => findInactive(client, agents.map(({ agentId }) => agentId).slice(0, 1_000)));
  const scans = tableScans(plans.get("find-inactive") ?? []);
  expect(scans.length).toBeGreaterThan(0);
  expect(scans.filter((node) => node["Node Type"] === "Seq Scan")).toEqual([]);
});

test("what is asked for server custody is looked up, in one partition for each row", async () => {
  const pairs = Array.from({ length: 3_000 }, () => ({ ownerId: sampleAgentId(), peerId: sampleAgentId() }));
  const some = pairs.slice(0, 20);
  const days = openMessageDays(postgres);
  const hmac = randomBytes(32);
  const commands = pairs.map(({ ownerId }, n) => {
    return {
      senderId: ownerId,
      messageId: sampleItemId(Date.now() - (n % 7) * DAY_MS),
      hmac,
      envelope: randomBytes(200),
      ...{ content: randomBytes(50), firstId: null, repairs: 0, delegation: [] },
    };
  });
  const [recipientId] = [sampleAgentId()];
  const opened = commands.map(({ senderId, messageId }) => {
    return { senderId, messageId, outcome: "content" as const, content: randomBytes(50) };
  });
  const failed = commands.map(({ senderId, messageId }) => {
    const facts = { code: "auth-failed", sessionId: randomBytes(16), dhPublicKey: randomBytes(32) } as const;
    return { recipientId, senderId, messageId, ...facts, requestId: messageId, asked: 1, askAt: 1 };
  });
  // Half of them were encrypted after all.
  const discarded = commands.map(({ senderId, messageId }, n) => {
    const id = n % 2 === 0 ? messageId : sampleItemId();
    return { senderId, messageId: id, recipientId: senderId, code: "prekeys-unavailable", discardedAt: 1 };
  });
  const [command] = commands;
  if (command === undefined) throw new Error("no command");
  const retry = requestFor(command);
  const passed = failed
    .slice(0, 20)
    .map(({ senderId, messageId: itemId }) => sampleArrival({ senderId, recipientId, itemId }));
  await inTransaction(postgres, async (client) => {
    await lockStates(client, pairs, { areThere: false });
    await writeCommands(client, days, commands);
    await writeDiscarded(client, days, discarded);
    await writeOpened(client, days, recipientId, opened);
    await writeFailed(client, days, failed);
  });
  await insertAgents(postgres, [{ agentId: retry.recipientId }], "server", Date.now());
  await placeAll(postgres, [retry, ...passed]);
  await postgres.query({
    text: `ANALYZE messaging_sessions, messaging_commands, messaging_discarded, messaging_opened, messaging_failed, messaging_queue,
      messaging_agents`,
  });
  const plans = await plansOf(async (client) => {
    await findStates(client, some);
    const known = some.map((pair) => ({ ...pair, version: 0, seal: randomBytes(16) }));
    const states = await lockStates(client, some, { areThere: true, known });
    await writeStates(
      client,
      states.map(({ version, ...pair }) => ({ ...pair, readVersion: version, state: randomBytes(9) })),
    );
    await forgetEmptyStates(client);
    await findCommands(client, commands.slice(0, 20));
    expect(await findDiscarded(client, discarded.slice(0, 20))).toHaveLength(10);
    await findOpened(client, recipientId, opened.slice(0, 20));
    await lockKept(client, commands.slice(0, 20));
    await changeKept(
      client,
      commands.slice(0, 20).map((key) => ({ ...key, isSpent: false, successorId: null, repairAt: 1 })),
    );
    await findSuccessors(client, commands.slice(0, 20));
    await recallCommands(client, commands.slice(0, 20));
    await forgetOldContents(client, Date.now());
    await findFailed(client, failed.slice(0, 20));
    await writeAsked(client, failed.slice(0, 20), 5);
    await findRequests(client, [{ ownerId: retry.recipientId, peerId: retry.senderId, itemId: retry.itemId }]);
    await takeRequests(client, retry.recipientId, Date.now());
    await findPassed(client, recipientId, 20, Date.now());
    await findAskedOwners(client, "", 10);
  });
  expect([...plans.keys()]).toEqual([
    "find-ratchet-states",
    "lock-ratchet-states",
    "write-ratchet-states",
    "forget-empty-states",
    "find-commands",
    "find-discarded",
    "find-opened",
    "lock-kept",
    "change-kept",
    "find-successors",
    "recall-commands",
    "forget-old-contents",
    "find-failed",
    "write-asked",
    "find-requests-by-id",
    "find-requests",
    "take-kept",
    "find-passed",
    "find-asked-owners",
  ]);
  for (const [name, nodes] of plans) {
    const scans = tableScans(nodes).filter((node) => node["Relation Name"]?.startsWith("messaging_") === true);
    expect(scans.length, name).toBeGreaterThan(0);
    expect(
      scans.filter((node) => node["Node Type"] === "Seq Scan").map((node) => node["Relation Name"]),
      name,
    ).toEqual([]);
    const looks = scans.reduce((sum, { "Actual Loops": loops = 0 }) => sum + loops, 0);
    // The job's look at all mailboxes: once into the small index of each partition, and for the agents it finds: one of here, one of the test before.
    // The walk through all states looks once into each partition for a page, and once for each row without a state: all but a few of this page.
    const looksMax = new Map([
      ["find-asked-owners", 64 + 2],
      // One into the mailbox, and for each of its items one into what was opened and one into what failed.
      ["find-passed", 1 + 2 * some.length],
      ["forget-empty-states", 32 + 2 * 1_000],
      // For each that was discarded one into the commands: was it encrypted after all?
      ["find-discarded", 2 * some.length],
    ]);
    expect(looks, name).toBeLessThanOrEqual(looksMax.get(name) ?? some.length);
  }
});

test("what is to be sealed anew is walked through in the order of an index, past all that holds nothing sealed", async () => {
  // What other tests have put there is not sealed at all.
  await postgres.query({ text: "TRUNCATE messaging_sessions, messaging_opened, messaging_commands" });
  const pairs = Array.from({ length: 2_000 }, () => ({ ownerId: sampleAgentId(), peerId: sampleAgentId() }));
  const sealed = (length: number) => Buffer.concat([dayBytes(1), randomBytes(length)]);
  const agents = pairs.slice(0, 100).map(({ ownerId: agentId }) => ({ agentId, id: randomUUID() }));
  const [recipientId] = [sampleAgentId()];
  const opened = pairs.map(({ ownerId: senderId }, n) => {
    const messageId = sampleItemId(Date.now() - (n % 7) * DAY_MS);
    return { senderId, messageId, outcome: "content" as const, content: n % 10 === 0 ? sealed(50) : null };
  });
  await inTransaction(postgres, async (client) => {
    await lockStates(client, pairs, { areThere: false });
    const states = pairs.map((pair) => ({ ...pair, readVersion: 0, generation: 0, state: sealed(2_000) }));
    await writeStates(client, states);
    await writeOpened(client, openMessageDays(postgres), recipientId, opened);
    const commands = opened.map(({ senderId, messageId, content }) => {
      return {
        senderId,
        messageId,
        delegation: [],
        hmac: randomBytes(32),
        envelope: randomBytes(200),
        content,
        firstId: null,
        repairs: 0,
      };
    });
    await writeCommands(client, openMessageDays(postgres), commands);
  });
  await insertPrekeys(postgres, "one-time", 1, agents);
  await postgres.query({
    text: "UPDATE messaging_prekeys SET private_key_encrypted = $1 WHERE prekey_id = ANY ($2)",
    values: [sealed(32), agents.slice(50).map(({ id }) => id)],
  });
  await postgres.query({ text: "ANALYZE messaging_sessions, messaging_prekeys, messaging_opened, messaging_commands" });
  for (const column of sealedColumns) {
    const plans = await plansOf(async (client) => {
      const start = await readSealedPage(client, column, { day: 2, after: null, limit: 20 });
      expect([start.old.length, start.last === null]).toEqual([20, false]);
      const page = await readSealedPage(client, column, { day: 2, after: start.last, limit: 20 });
      expect(page.old.length).toBe(20);
      await replaceSealed(
        client,
        column,
        page.old.map((row) => ({ ...row, anew: sealed(10) })),
      );
    });
    expect(plans.size).toBe(3);
    for (const [name, nodes] of plans) {
      const scans = tableScans(nodes);
      expect(scans.length, name).toBeGreaterThan(0);
      expect(
        scans.filter((node) => node["Node Type"] === "Seq Scan"),
        name,
      ).toEqual([]);
      const isWalk = name.startsWith("read-") && column.table !== "messaging_sessions";
      expect(
        scans.filter((scan) => isWalk && scan["Index Name"]?.endsWith("_pkey") !== false),
        name,
      ).toEqual([]);
      // Sorted by the index: a sort would mean that the rest of the table was read for one page.
      expect(
        nodes.filter((node) => node["Node Type"] === "Sort"),
        name,
      ).toEqual([]);
    }
  }
});
