import { afterAll, beforeAll, expect, test } from "vitest";
import {
  messageAcknowledged,
  messageDelivered,
  messageDiscarded,
  messageEncrypted,
  messageQueued,
  messageReceipt,
} from "../streams/catalogue.ts";
import { headersAsText } from "../streams/headers.ts";
import { readTopic } from "../streams/read-topic.ts";
import { deadLetterTopicName } from "../streams/topic.ts";
import { consumerParts, eventually, type House, openHouse } from "./house.ts";
import { RawSender } from "./raw-sender.ts";

/** Everything that a consumer reads. */
const consumed = [
  messageEncrypted,
  messageQueued,
  messageReceipt,
  messageDelivered,
  messageAcknowledged,
  messageDiscarded,
];
const partitions = 8;

let house: House;
let url: string;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: consumerParts });
});

afterAll(() => house.close());

test("a poison record on every partition of every topic becomes a dead letter, and the partition goes on", async () => {
  const bob = await house.agent("bob", url);
  const alice = await house.agent("alice", url);
  await alice.send(bob.id, "before");

  const producer = house.kafka.client.producer();
  await producer.connect();
  for (const { name } of consumed) {
    const messages = Array.from({ length: partitions }, (_, partition) => ({
      partition,
      key: `poison ${partition}`,
      value: Buffer.from(`garbage for ${name}`),
      headers: { ce_id: `poison-${name}-${partition}` },
    }));
    await producer.send({ topic: name, messages });
  }
  await producer.disconnect();

  for (const topic of consumed) {
    await eventually(`the poison of ${topic.name} is a dead letter`, async () => {
      const letters = await readTopic(house.kafka, deadLetterTopicName(topic));
      return letters.length >= partitions;
    });
    const letters = await readTopic(house.kafka, deadLetterTopicName(topic));
    expect(letters.length).toBe(partitions);
    for (const { key, value, headers } of letters) {
      const text = headersAsText(headers);
      expect(String(value)).toBe(`garbage for ${topic.name}`);
      expect(String(key)).toMatch(/^poison \d$/);
      expect(text).toMatchObject({ "x-orig-topic": topic.name, "x-error-code": "undecodable" });
      expect(text["ce_id"]).toBe(`poison-${topic.name}-${text["x-orig-partition"]}`);
    }
  }

  // Agents on many partitions: what comes after the poison is delivered and acknowledged.
  const others = await Promise.all(["c", "d", "e", "f"].map((name) => house.agent(name, url)));
  const sent = await Promise.all(others.map((other) => alice.send(other.id, "after")));
  for (const other of others) {
    for await (const message of other.inbox({ signal: AbortSignal.timeout(60_000) })) {
      expect(message.text()).toBe("after");
      await message.ack();
      break;
    }
  }
  await Promise.all(sent.map((message) => message.acknowledged({ signal: AbortSignal.timeout(60_000) })));
});

test("a message that was answered 202 and cannot be stored is told to its sender as discarded", async () => {
  const bob = await house.agent("bob-2", url);
  const alice = new RawSender(url);
  await alice.register();
  await alice.meet(bob.id);
  const envelope = alice.seal(bob.id, "to be damaged");
  const producer = house.kafka.client.producer();
  await producer.connect();
  const damaged = house.codec.encode(messageEncrypted, {
    kind: "message",
    itemId: envelope.messageId,
    senderId: envelope.senderId,
    recipientId: envelope.recipientId,
    custody: "agent",
    body: Buffer.from("no envelope"),
  });
  await producer.send({
    topic: messageEncrypted.name,
    messages: [
      {
        key: envelope.recipientId,
        value: damaged,
        headers: { ce_id: "damaged", ce_subject: `${envelope.senderId}/${envelope.messageId}` },
      },
    ],
  });
  await producer.disconnect();
  await eventually("it is discarded", async () =>
    (await house.read(messageDiscarded)).some(
      ({ decoded }) => decoded.messageId === envelope.messageId && decoded.senderId === alice.me.agentId,
    ),
  );
});
