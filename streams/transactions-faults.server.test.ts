/**
 * Transactions at a real broker behind a proxy that swallows answers: what was asked has happened, and nobody was told. It has a Kafka of its own, which
 * is told to advertise the proxy's port.
 */
import pino from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { useKafkaBehindProxy } from "../tests/kafka-behind-proxy.ts";
import { type FaultProxy, produceApi } from "../tests/proxy.ts";
import { uniqueName } from "../tests/stack.ts";
import { pushRequested } from "./catalogue.ts";
import type { OutboxRow } from "./consumer.ts";
import type { KafkaDoor } from "./kafka.ts";
import type { Publisher } from "./publisher.ts";
import { readTopic } from "./read-topic.ts";
import { applyTopics } from "./topics.ts";
import { openTransactions, type Transactions } from "./transactions.ts";

const log = pino({ level: "silent" });
/** Kafka's numbers of the requests that a transaction consists of. */
const asked = { InitProducerId: 22, AddPartitionsToTxn: 24, AddOffsetsToTxn: 25, EndTxn: 26, TxnOffsetCommit: 28 };
const requests = Object.entries({ Produce: produceApi, ...asked });

let proxy: FaultProxy;
let direct: KafkaDoor;
let proxied: KafkaDoor;
const opened: Transactions[] = [];

const stage = useKafkaBehindProxy({ requestMsMax: 2_000 });
beforeAll(() => {
  ({ proxy, direct, proxied } = stage());
});

afterAll(() => Promise.all(opened.map((one) => one.close())));
async function scene() {
  const group = uniqueName("group");
  const [input, output, other] = ["in", "out", "other"].map((name) => ({ ...pushRequested, name: `${group}.${name}` }));
  if (input === undefined || output === undefined || other === undefined) throw new Error("three topics");
  await applyTopics(direct, { partitions: 1, topics: [input, output, other] });
  const open = (kafka: KafkaDoor) => {
    const transactions = openTransactions({ kafka, group, log, failpoints: { hit: () => undefined } });
    opened.push(transactions);
    return transactions;
  };
  const row = (inputOffset: number, n = 0): OutboxRow => ({
    ...{ inputTopic: input.name, inputPartition: 0, inputOffset, n, key: "k", headers: {} },
    ...{ topic: n === 0 ? output.name : other.name, value: Buffer.from(`${inputOffset}`) },
  });
  const values = async (name: string) => (await readTopic(direct, name)).map(({ value }) => `${value}`);
  return { open, row, read: async () => [await values(output.name), await values(other.name)] };
}

/** As the runner does: the same again, for as long as the world is at fault. */
async function persist(publisher: Publisher, rows: readonly OutboxRow[]): Promise<number> {
  for (let failures = 0; ; failures++) {
    try {
      await publisher.publish(rows);
      return failures;
    } catch (error) {
      if (!(error instanceof Unavailable) || failures > 30) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

describe("an answer that is lost", () => {
  test.for(requests)("%s: each row is there once, in order", { timeout: 120_000 }, async ([name, api]) => {
    const { open, row, read } = await scene();
    const transactions = open(proxied);
    await persist(transactions, [row(0), row(0, 1)]);
    const before = proxy.dropped;
    for (let step = 1; step <= 3; step++) {
      proxy.dropAnswers(api, 1);
      // The epoch is asked for when a session is opened: by a rival here, which takes the old one's.
      const publisher = name === "InitProducerId" ? open(proxied) : transactions;
      await persist(publisher, [row(step), row(step, 1)]);
    }
    expect(proxy.dropped - before).toBe(3);
    // Kafka answers the end of a transaction when it is decided; readers of committed records see it a moment later.
    await expect.poll(read).toEqual([
      ["0", "1", "2", "3"],
      ["0", "1", "2", "3"],
    ]);
  });
});

test("two that publish the same rows of an input partition: each row is there once, in order, whoever was faster", {
  timeout: 120_000,
  retry: 0,
}, async () => {
  const { open, row, read } = await scene();
  const [one, two] = [open(direct), open(direct)];
  for (let step = 0; step < 8; step++) {
    const rows = [row(step), row(step, 1)];
    await Promise.all([persist(one, rows), persist(two, rows)]);
  }
  const all = Array.from({ length: 8 }, (_, step) => `${step}`);
  await expect.poll(read).toEqual([all, all]);
});
