import type { Producer, Transaction } from "kafkajs";
import { expect, test } from "vitest";
import { openScene, useStage } from "../tests/runner-stage.ts";
import { createPartitioner } from "./producer-session.ts";
import { readTopic } from "./read-topic.ts";

const stage = useStage();

/** The first of all transactions waits for Kafka to make the topic it keeps them in. */
async function begin(producer: Producer): Promise<Transaction> {
  for (const end = Date.now() + 40_000; ; ) {
    try {
      return await producer.transaction();
    } catch (error) {
      if (Date.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

test("records of aborted transactions that overlap in a partition are not shown to a reader of committed records", async () => {
  const { output, group } = await openScene(stage(), 1);
  const say = (transaction: Transaction, value: string) =>
    transaction.send({ topic: output.name, messages: [{ key: "k", value, partition: 0 }] });
  const producers = await Promise.all(
    ["a", "b", "c"].map(async (name) => {
      const producer = stage().kafka.client.producer({ transactionalId: `${group}-${name}`, createPartitioner });
      await producer.connect();
      return producer;
    }),
  );
  const [a, b, c] = (await Promise.all(producers.map(begin))) as [Transaction, Transaction, Transaction];
  await say(a, "a1");
  await say(c, "c1");
  await say(b, "b1");
  await say(a, "a2");
  // Kafka lists them by their ends: b before a.
  await b.abort();
  await say(a, "a3");
  await a.abort();
  await say(c, "c2");
  await c.commit();
  // Kafka answers when it is decided; that it is shows a moment later.
  const read = async () => (await readTopic(stage().kafka, output.name)).map(({ value }) => `${value}`);
  await expect.poll(read).toEqual(["c1", "c2"]);
  await Promise.all(producers.map((producer) => producer.disconnect()));
});

test("a topic whose end holds no data is read to its end", async () => {
  const { output, group } = await openScene(stage(), 1);
  const producer = stage().kafka.client.producer({ transactionalId: `${group}-a`, createPartitioner });
  await producer.connect();
  const aborted = await begin(producer);
  await aborted.send({ topic: output.name, messages: [{ key: "k", value: "a", partition: 0 }] });
  await aborted.abort();
  expect(await readTopic(stage().kafka, output.name)).toEqual([]);
  await producer.disconnect();
});
