/**
 * Everything that stands in a topic now, read without a consumer group: for tests, the demo and people who look.
 */
import { randomUUID } from "node:crypto";
import type { KafkaMessage } from "kafkajs";
import type { KafkaDoor } from "./kafka.ts";

export type ReadRecord = KafkaMessage & { readonly partition: number };

/** Records in order for each partition, up to what was there at the call. Rejects with `Unavailable("kafka")`. */
export async function readTopic(kafka: KafkaDoor, topic: string): Promise<ReadRecord[]> {
  const ends = await kafka.ask((admin) => admin.fetchTopicOffsets(topic));
  const missing = new Map(
    ends.filter(({ low, high }) => low !== high).map(({ partition, high }) => [partition, Number(high)]),
  );
  const records: ReadRecord[] = [];
  if (missing.size === 0) return records;
  const groupId = `read-${randomUUID()}`;
  const consumer = kafka.client.consumer({ groupId, maxWaitTimeInMs: 100, allowAutoTopicCreation: false });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  await new Promise<void>((resolve) => {
    void consumer.run({
      autoCommit: false,
      eachBatch: async ({ batch }) => {
        const end = missing.get(batch.partition);
        if (end === undefined) return;
        for (const message of batch.messages) {
          if (Number(message.offset) < end) records.push({ ...message, partition: batch.partition });
        }
        if (Number(batch.lastOffset()) + 1 >= end) missing.delete(batch.partition);
        if (missing.size === 0) resolve();
      },
    });
  });
  await consumer.disconnect();
  // A group that is left behind is forgotten by the broker in its own time.
  await kafka.ask((admin) => admin.deleteGroups([groupId])).catch(() => undefined);
  return records.sort((a, b) => a.partition - b.partition || Number(a.offset) - Number(b.offset));
}
