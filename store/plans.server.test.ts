import { afterAll, beforeAll, expect, test } from "vitest";
import { openSampleDatabase, placeAll, sampleArrival } from "../tests/messaging.ts";
import { settle } from "./acks.ts";
import { readMailbox } from "./mailbox.ts";
import { openMessageDays } from "./message-days.ts";
import { findMessages } from "./messages.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";
import { place } from "./queuing.ts";

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
  await placeAll(postgres, [first]);
  const end = { outcome: "acknowledged", at: 1, code: null } as const;
  const plans = await plansOf(async (client) => {
    await place(client, openMessageDays(postgres), [...arrivals, sampleArrival({ kind: "retry" })]);
    await readMailbox(client, first.recipientId, { afterSeq: 0, limit: 256, maxBytes: 1 << 22 });
    await findMessages(client, [{ senderId: first.senderId, messageId: first.itemId }]);
    const nothing = { deliveredAt: 1, undeliverableAt: null, asideAt: null };
    await settle(client, [
      { recipientId: first.recipientId, senderId: first.senderId, itemId: first.itemId, ...nothing, end },
    ]);
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
    const partitions = scans.filter((node) => /_(queue|messages)_/.test(node["Relation Name"] ?? ""));
    const looked = partitions.filter((node) => (node["Actual Loops"] ?? 0) > 0);
    const tables = new Set(looked.map((node) => (node["Relation Name"] ?? "").replace(/_\d+$/, "")));
    expect(looked.length, name).toBe(tables.size);
  }
});
