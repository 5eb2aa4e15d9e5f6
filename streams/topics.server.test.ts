import kafkajs from "kafkajs";
import pino from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { uniqueName, useStack } from "../tests/stack.ts";
import { messageDelivered, messageEncrypted } from "./catalogue.ts";
import { type KafkaDoor, openKafka } from "./kafka.ts";
import { KEPT_FOR_EVER } from "./topic.ts";
import { applyRetention, applyTopics, checkTopics, declaredTopics } from "./topics.ts";

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

test("what was made answers at once, however many there are", async () => {
  const topics = Array.from({ length: 3 }, () => ({ ...messageDelivered, name: uniqueName("many") }));
  const made = await applyTopics(kafka, { partitions: 12, topics });
  expect(made).toHaveLength(6);
  const admin = kafka.client.admin();
  await admin.connect();
  for (const name of made) expect(await admin.fetchTopicOffsets(name)).toHaveLength(12);
  await admin.disconnect();
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

test("a retention that is asked for by name is applied to what is there, and nothing else of it is changed", async () => {
  const own = { ...messageDelivered, name: uniqueName("retained") };
  await applyTopics(kafka, { partitions: 1, topics: [own] });
  const describe = async () =>
    kafka.ask(async (admin) => {
      const type = kafkajs.ConfigResourceTypes.TOPIC;
      const { resources } = await admin.describeConfigs({
        includeSynonyms: false,
        resources: [{ type, name: own.name }],
      });
      const isSet = ({ configSource }: { configSource: number }) => configSource === kafkajs.ConfigSource.TOPIC_CONFIG;
      const entries = resources[0]?.configEntries.filter(isSet) ?? [];
      return Object.fromEntries(entries.map(({ configName, configValue }) => [configName, configValue]));
    });
  const before = await describe();
  expect(before).toMatchObject({ "retention.ms": "2592000000", "message.timestamp.type": "LogAppendTime" });
  const held = { ...own, retention: { keptMs: KEPT_FOR_EVER } };
  const month = "2592000000";
  expect(await applyRetention(kafka, own)).toEqual({ was: month, wanted: month, outcome: "same" });
  expect(await applyRetention(kafka, held)).toEqual({ was: month, wanted: "-1", outcome: "changed" });
  expect(await describe()).toEqual({ ...before, "retention.ms": "-1" });
  expect(await applyRetention(kafka, held)).toMatchObject({ outcome: "same" });
  // A hold ends, and records go, only where somebody says so.
  expect(await applyRetention(kafka, own)).toEqual({ was: "-1", wanted: month, outcome: "left" });
  expect(await describe()).toEqual({ ...before, "retention.ms": "-1" });
  expect(await applyRetention(kafka, own, { mayShorten: true })).toMatchObject({ was: "-1", outcome: "changed" });
  expect(await describe()).toEqual(before);
});

test("Kafka away is said as such", async () => {
  const away = openKafka({ brokers: ["127.0.0.1:9"], clientId: "away", log });
  await expect(checkTopics(away, layout)).rejects.toThrow(Unavailable);
});
