import { randomBytes, randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { DAY_MS } from "../protocol/limits.ts";
import { openSampleDatabase, placeAll, sampleAgentId, sampleArrival, sampleItemId } from "../tests/messaging.ts";
import { insertAgents, insertPrekeys } from "../tests/stocked-agents.ts";
import { settle } from "./acks.ts";
import { findCommands, writeCommands } from "./custody/commands.ts";
import { findOpened, writeOpened } from "./custody/opened.ts";
import { findStates, lockStates, writeStates } from "./custody/states.ts";
import { readMailbox } from "./mailbox.ts";
import { dayOf, ensureMessageDays, openMessageDays } from "./message-days.ts";
import { findMessages } from "./messages.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";
import { place } from "./queuing.ts";
import { countStocks, findDueAgents, findServerAgents } from "./rotation.ts";
import { factsOfOwner, factsOfPair, findFacts, forgetFacts, type SessionFacts, writeFacts } from "./session-facts.ts";

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase(2);
});
afterAll(() => postgres.close());

interface Plan {
  readonly "Node Type": string;
  readonly "Relation Name"?: string;
  readonly "Actual Loops"?: number;
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
    await place(client, openMessageDays(postgres), [...arrivals, sampleArrival({ kind: "retry" })]);
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
  });
  expect([...plans.keys()]).toEqual([
    "find-queued-retries",
    "place-items",
    "find-digests",
    "read-mailbox",
    "find-messages",
    "settle-items",
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
    };
  });
  const [recipientId] = [sampleAgentId()];
  const opened = commands.map(({ senderId, messageId }) => {
    return { senderId, messageId, outcome: "content" as const, content: randomBytes(50) };
  });
  await inTransaction(postgres, async (client) => {
    await lockStates(client, pairs, { areThere: false });
    await writeCommands(client, days, commands);
    await writeOpened(client, days, recipientId, opened);
  });
  await postgres.query({ text: "ANALYZE messaging_sessions, messaging_commands, messaging_opened" });
  const plans = await plansOf(async (client) => {
    await findStates(client, some);
    const states = await lockStates(client, some, { areThere: true });
    await writeStates(
      client,
      states.map(({ ownerId, peerId, version }) => ({ ownerId, peerId, readVersion: version, state: randomBytes(9) })),
    );
    await findCommands(client, commands.slice(0, 20));
    await findOpened(client, recipientId, opened.slice(0, 20));
  });
  expect([...plans.keys()]).toEqual([
    "find-ratchet-states",
    "lock-ratchet-states",
    "write-ratchet-states",
    "find-commands",
    "find-opened",
  ]);
  for (const [name, nodes] of plans) {
    const scans = tableScans(nodes).filter((node) => node["Relation Name"]?.startsWith("messaging_") === true);
    expect(scans.length, name).toBeGreaterThan(0);
    expect(
      scans.filter((node) => node["Node Type"] === "Seq Scan").map((node) => node["Relation Name"]),
      name,
    ).toEqual([]);
    const looks = scans.reduce((sum, { "Actual Loops": loops = 0 }) => sum + loops, 0);
    expect(looks, name).toBeLessThanOrEqual(some.length);
  }
});
