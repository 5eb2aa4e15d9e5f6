import pino from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { uniqueName, useStack } from "../tests/stack.ts";
import { messageDelivered, messageEncrypted } from "./catalogue.ts";
import { type KafkaDoor, openKafka } from "./kafka.ts";
import { applyTopics, checkTopics, declaredTopics } from "./topics.ts";

const log = pino({ level: "silent" });
const kept = { ...messageDelivered, name: uniqueName("kept") };
const trimmed = { ...messageEncrypted, name: uniqueName("trimmed") };
const layout = { partitions: 2, topics: [kept, trimmed] };
let kafka: KafkaDoor;

beforeAll(() => {
  kafka = openKafka({ brokers: useStack().kafkaBrokers, clientId: "topics-test", log });
});
afterAll(() => kafka.close());

test("topics and their dead-letter topics are made once, and then are as declared", async () => {
  expect(await checkTopics(kafka, layout)).toHaveLength(4);
  const names = [kept.name, `${kept.name}.dlq`, trimmed.name, `${trimmed.name}.dlq`];
  expect(await applyTopics(kafka, layout)).toEqual(names);
  expect(await applyTopics(kafka, layout)).toEqual([]);
  expect(await checkTopics(kafka, layout)).toEqual([]);
});

test("every difference from the declaration is named", async () => {
  const wider = { ...layout, partitions: 3, topics: [{ ...kept, messageBytesMax: 5_000 }] };
  expect(await checkTopics(kafka, wider)).toEqual([
    `${kept.name} has 2 partitions, declared are 3`,
    `${kept.name} has max.message.bytes=1048588, declared is 5000`,
    `${kept.name}.dlq has 2 partitions, declared are 3`,
    `${kept.name}.dlq has max.message.bytes=1114124, declared is 70536`,
  ]);
});

test("a trimmed topic has no retention in Kafka, every topic has append times", () => {
  const [own] = declaredTopics({ topics: [trimmed] });
  expect(own?.config).toMatchObject({ "retention.ms": "-1", "message.timestamp.type": "LogAppendTime" });
});

test("Kafka away is said as such", async () => {
  const away = openKafka({ brokers: ["127.0.0.1:9"], clientId: "away", log });
  await expect(checkTopics(away, layout)).rejects.toThrow(Unavailable);
});
